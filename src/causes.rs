//! An error and what has caused it, for people.

use std::{error::Error, iter};

/// The error with its causes, in one line. Some say their cause themselves: nothing is said twice.
pub(crate) fn in_full(error: &dyn Error) -> String {
    iter::successors(error.source(), |cause| (**cause).source())
        .map(ToString::to_string)
        .fold(error.to_string(), |line, cause| if line.ends_with(&cause) { line } else { format!("{line}: {cause}") })
}

/// The last of the causes alone: what HTTP's layers say around it helps nobody.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    iter::successors(Some(error), |cause| (**cause).source()).last().map_or_else(String::new, ToString::to_string)
}
