//! Results of `codiusd doctor`: a check, its grade, and a remedy.

use codiusd_runtime::network::Grade;

/// The result of one check.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// The name of the check.
    pub(crate) check: &'static str,
    pub(crate) grade: Grade,
    /// What was found.
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(crate) fn good(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, grade: Grade::Good, text: text.into(), remedy: None }
    }

    pub(crate) fn note(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Note, text: text.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn bad(check: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, grade: Grade::Bad, text: text.into(), remedy: Some(remedy.into()) }
    }
}
