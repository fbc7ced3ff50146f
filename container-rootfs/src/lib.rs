//! What an image's root file system says about the process to run in it, and how that process is confined: the same for a container on the
//! host and for one in a virtual machine.
//!
//! | module | what is in it |
//! |---|---|
//! | `prepared` | from a mounted root file system and an image's configuration to the program, its user, variables and working directory |
//! | `mount_points` | what an image must contain to be mounted on |
//! | `command` | how the program is found, and why the kernel refused to execute it |
//! | `identity` | the user, looked up in the image's own files |
//! | `root` | the one place where an image's paths are resolved |
//! | `names` | a container's files in `/etc` |
//! | `confinement` | capabilities, hidden and read-only paths |
//! | `error` | why nothing can run in a root file system, and whose fault it is |

mod command;
pub mod confinement;
mod error;
mod identity;
mod mount_points;
pub mod names;
mod prepared;
mod root;

pub use error::ImageError;
pub use identity::Identity;
pub use prepared::{Prepared, Wanted};
pub use root::{Root, is_hosts_own};
