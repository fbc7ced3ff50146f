//! `codiusd doctor`: checks what a host needs, one item after the other. It changes nothing.
//!
//! | module | what is in it |
//! |---|---|
//! | `machine` | the kernel, control groups, disk, open files, the runtime |
//! | `outside` | ports, certificates, names, the uplink, and whether the host is ready |
//! | `visits` | the host as visitors reach it |

mod machine;
mod outside;
mod visits;

use crate::config::Config;
pub(crate) use crate::finding::Finding;

/// The name of a pod that doesn't exist, with the 52 characters of any pod's name.
const NO_POD: &str = "doctordoctordoctordoctordoctordoctordoctordoctordoca";

/// Runs all checks for a host with these settings.
pub(crate) async fn examine(config: &Config) -> Vec<Finding> {
    let mut found = machine::examine(config);
    found.extend(outside::examine(config).await);
    found
}
