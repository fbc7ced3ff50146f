//! What a host needs, looked at one after the other: `codiusd doctor`. Nothing is changed.
//!
//! | room | what is in it |
//! |---|---|
//! | `machine` | the kernel, control groups, disk, open files, the runtime |
//! | `outside` | ports, certificates, names, the uplink, and the host as visitors reach it |

mod machine;
mod outside;

use std::fmt;

use crate::config::Config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grade {
    /// As it should be.
    Good,
    /// It may be meant so, or can't be told from here.
    Note,
    /// The host can't do its work.
    Bad,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "BAD",
        })
    }
}

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

/// An error with its causes, in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = source.source();
    }
    line
}
