//! Images as they come, and as an enemy makes them.
//!
//! | room | what is in it |
//! |---|---|
//! | `kit` | archives and images byte by byte, and where they are unpacked |
//! | `hostile` | layers that reach for the host |
//! | `layers` | what a layer means, and how large it may be |
//! | `store` | whole images from layouts, whole and tampered with |
//! | `registry` | the same from a registry |
//! | `room` | which images go when there are too many, and which stay |
//! | `process` | what is run, as whom |

mod hostile;
mod kit;
mod layers;
mod process;
mod registry;
mod room;
mod store;
