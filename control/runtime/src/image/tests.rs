//! Images as tools write them, and as attackers craft them.
//!
//! | module | contents |
//! |---|---|
//! | `kit` | archives and images built byte by byte, and unpacking them |
//! | `archives` | what archives can express, and ambiguous ones |
//! | `hostile` | layers that try to reach the host |
//! | `inspect` | what is known of an image before it is paid for |
//! | `layers` | the meaning of layers, and their size limits |
//! | `index` | which image of an index is chosen, and entries that aren't images |
//! | `store` | whole images from layouts, intact and tampered with |
//! | `registry` | the same from a registry |
//! | `writers` | trees written by archive tools, and unpacked again |
//! | `disk_budget` | which images are removed when there are too many, and which stay |
//! | `merged` | whole images in one file, against an overlay of their layers, and how long both take |
//! | `jail` | what the program that writes this file can reach, and its end |
//! | `process` | the process to run, and its user |

mod archives;
mod disk_budget;
mod hostile;
mod index;
mod inspect;
mod jail;
mod kit;
mod layers;
mod merged;
mod process;
mod registry;
mod store;
mod writers;
