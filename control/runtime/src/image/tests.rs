//! Images as they come, and as an enemy makes them.
//!
//! | room | what is in it |
//! |---|---|
//! | `kit` | archives and images byte by byte, and where they are unpacked |
//! | `archives` | what archives can say, and what nobody could understand |
//! | `hostile` | layers that reach for the host |
//! | `inspect` | what is known of an image before it is paid for |
//! | `layers` | what a layer means, and how large it may be |
//! | `index` | which image of an index is taken, and what isn't one |
//! | `store` | whole images from layouts, whole and tampered with |
//! | `registry` | the same from a registry |
//! | `writers` | trees through the tools that write archives, and back |
//! | `room` | which images go when there are too many, and which stay |
//! | `process` | what is run, as whom |

mod archives;
mod hostile;
mod index;
mod inspect;
mod kit;
mod layers;
mod process;
mod registry;
mod room;
mod store;
mod writers;
