//! What a host needs, looked at one after the other: `codiusd doctor`. Nothing is changed.
//!
//! | room | what is in it |
//! |---|---|
//! | `machine` | the kernel, control groups, disk, open files, the runtime |
//! | `outside` | ports, certificates, names, the uplink, and whether the host is ready |
//! | `visits` | the host as strangers find it |

mod machine;
mod outside;
mod visits;

use codiusd_runtime::network::Grade;

use crate::config::Config;

/// The name of a pod nobody runs: 52 characters, as of any.
const NO_POD: &str = "doctordoctordoctordoctordoctordoctordoctordoctordoca";

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// What was looked at, in a word.
    pub(crate) check: &'static str,
    pub(crate) grade: Grade,
    /// What is so.
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    fn good(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, grade: Grade::Good, text: text.into(), remedy: None }
    }

    fn note(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Note, text: text.into(), remedy: Some(remedy.into()) }
    }

    fn bad(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Bad, text: text.into(), remedy: Some(remedy.into()) }
    }
}

/// All of it, for a host with these settings.
pub(crate) async fn examine(config: &Config) -> Vec<Finding> {
    let mut found = machine::examine(config);
    found.extend(outside::examine(config).await);
    found
}
