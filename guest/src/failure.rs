//! Why a pod could not be started, and whether its image is at fault: decided where the failure happens.

use std::{
    fmt::{self, Display},
    io,
};

use codiusd_container_rootfs::ImageError;
use codiusd_guest_protocol::FromGuest;

/// Longest text of a failure that is sent, in bytes: names of an image's files may be part of it, and a message has a limit.
const TEXT_BYTES_MAX: usize = 4 << 10;

/// Why a pod could not be started.
#[derive(Debug)]
pub(crate) struct Failure {
    container: Option<u16>,
    uploader: bool,
    /// After the start: the host isn't told.
    late: bool,
    step: String,
    cause: String,
}

impl Failure {
    /// The machine or its host is at fault.
    pub(crate) fn new(step: &str, cause: &impl Display) -> Self {
        Self { container: None, uploader: false, late: false, step: step.to_owned(), cause: cause.to_string() }
    }

    /// The same, attributed to one container.
    pub(crate) fn of(self, container: u16) -> Self {
        Self { container: Some(container), ..self }
    }

    /// The same, after the start.
    pub(crate) fn late(self) -> Self {
        Self { late: true, ..self }
    }

    /// Whether the pod had been started.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }

    /// The message to the host.
    pub(crate) fn message(&self) -> FromGuest {
        let Self { container, uploader, .. } = *self;
        FromGuest::Failed { container, uploader, step: shortened(&self.step), cause: shortened(&self.cause) }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Image(step) => Self { container: None, uploader: true, late: false, step, cause: String::new() },
            ImageError::System { step, error } => Self::new(&step, &error),
        }
    }
}

/// Adds the failed step to an error.
pub(crate) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, &error.into()))
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end < text.len() { format!("{}...", &text[..end]) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use codiusd_guest_protocol::{FROM_GUEST_BYTES_MAX, frame};

    use super::*;

    #[test]
    fn a_failure_of_any_length_fits_into_a_message() {
        for letter in ["x", "\u{1}", "\u{20ac}"] {
            let failure = Failure::from(ImageError::Image(letter.repeat(1 << 20))).of(3);
            let FromGuest::Failed { container, uploader, step, .. } = failure.message() else { panic!("a failure") };
            assert!(container == Some(3) && uploader && step.ends_with("..."));
            assert!(frame::encode(&failure.message(), FROM_GUEST_BYTES_MAX).is_ok());
        }
    }

    #[test]
    fn what_the_image_does_not_explain_is_not_its_uploaders_fault() {
        let error = io::Error::from_raw_os_error(nix::libc::EIO);
        let failure = Failure::from(ImageError::System { step: "reading".to_owned(), error });
        let FromGuest::Failed { uploader, step, cause, .. } = failure.message() else { panic!("a failure") };
        assert!(!uploader && step == "reading" && cause.starts_with("Input/output error"), "{step}: {cause}");
    }
}
