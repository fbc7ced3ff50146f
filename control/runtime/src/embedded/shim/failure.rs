//! Why a pod could not be started, and whose fault it is: decided where the failure happens.

use std::{error::Error, fmt, io};

use codiusd_container_rootfs::ImageError;
use nix::errno::Errno;

use crate::error::Fault;

/// Why a pod could not be started.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    /// The failed step, worded for the uploader.
    pub(super) step: String,
    pub(super) cause: Option<Box<dyn Error>>,
}

impl Failure {
    /// An error that the image doesn't explain.
    pub(super) fn from_io(step: &str, error: io::Error) -> Self {
        Self { fault: Fault::of_io(&error), step: step.to_owned(), cause: Some(Box::new(error)) }
    }

    pub(super) fn host(step: &str) -> Self {
        Self { fault: Fault::Host, step: step.to_owned(), cause: None }
    }

    /// The same, attributed to one container.
    pub(super) fn of(self, container: &str) -> Self {
        Self { step: format!("container {container}: {}", self.step), ..self }
    }

    /// The full cause, on one line.
    pub(super) fn cause(&self) -> String {
        self.cause.as_ref().map_or_else(String::new, |error| Chain(&**error).to_string())
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Image(step) => Self { fault: Fault::Image, step, cause: None },
            ImageError::System { step, error } => Self::from_io(&step, error),
        }
    }
}

/// Adds the failed step to an error.
pub(super) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failure>;
}

impl<T, E: Error + 'static> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure { fault: fault_of(&error), step: step.to_owned(), cause: Some(Box::new(error)) })
    }
}

/// The fault, by the innermost cause that is a system error.
fn fault_of(error: &(dyn Error + 'static)) -> Fault {
    let of_one = |error: &(dyn Error + 'static)| {
        let io = error.downcast_ref::<io::Error>().map(Fault::of_io);
        io.or_else(|| error.downcast_ref::<Errno>().map(|errno| Fault::of_io(&io::Error::from(*errno))))
    };
    std::iter::successors(Some(error), |error| (**error).source()).filter_map(of_one).last().unwrap_or(Fault::Host)
}

/// An error with all its sources.
struct Chain<'a>(&'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |error| (**error).source()).try_for_each(|error| write!(f, ": {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("a step of a library")]
    struct Wrapped(#[source] Box<dyn Error>);

    #[test]
    fn errors_of_the_system_say_whose_fault_it_is() {
        let wrapped = |error: Box<dyn Error>| Err::<(), _>(Wrapped(error)).step("mounting").unwrap_err().fault;
        assert_eq!(wrapped(Box::new(io::Error::from(Errno::ENOSPC))), Fault::Capacity);
        assert_eq!(wrapped(Box::new(Errno::EMFILE)), Fault::Capacity);
        assert_eq!(wrapped(Box::new(Errno::EPERM)), Fault::Host);
        assert_eq!(wrapped("said in words only".into()), Fault::Host);
        for (errno, fault) in [
            (Errno::ENOTDIR, Fault::Image),
            (Errno::ELOOP, Fault::Image),
            (Errno::ENAMETOOLONG, Fault::Image),
            (Errno::EISDIR, Fault::Image),
            (Errno::ENOSPC, Fault::Capacity),
            (Errno::EIO, Fault::Host),
        ] {
            assert_eq!(Failure::from(ImageError::of_path("/etc".to_owned(), errno.into())).fault, fault, "{errno}");
        }
    }
}
