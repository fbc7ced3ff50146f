//! Formats an error and its causes for people.

use std::{error::Error, iter};

/// The error with its causes, in one line. A cause that the error's own message already includes isn't repeated.
pub(crate) fn in_full(error: &dyn Error) -> String {
    iter::successors(error.source(), |cause| (**cause).source())
        .map(ToString::to_string)
        .fold(error.to_string(), |line, cause| if line.ends_with(&cause) { line } else { format!("{line}: {cause}") })
}

/// Only the innermost cause: the messages of the HTTP layers around it don't help.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    iter::successors(Some(error), |cause| (**cause).source()).last().map_or_else(String::new, ToString::to_string)
}
