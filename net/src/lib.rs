//! Addresses, networks and ports as all crates of codiusd define them, and queries to the kernel about them.
//!
//! | module | what is in it |
//! |---|---|
//! | `cidr` | networks in CIDR notation (RFC 4632): [`Cidr`] of either family, [`Ipv4Cidr`] with its arithmetic |
//! | `ports` | ports and protocols, and the lists of ports that are closed to pods |
//! | `local` | whether an address is this machine's, as its kernel routes it |
//! | `netlink` | netlink messages: an encoder of attributes, and a socket that waits for the kernel's acknowledgement |

mod cidr;
mod local;
pub mod netlink;
pub mod ports;

pub use cidr::{Cidr, Ipv4Cidr, ParseCidrError};
pub use local::is_local;
