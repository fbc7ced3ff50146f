//! Why nothing can run in a root file system, and whose fault it is.

use std::io;

use nix::errno::Errno;

/// Why nothing can run in a root file system.
#[derive(Debug)]
pub enum ImageError {
    /// The image or the manifest is at fault; the text is the complete message for the uploader.
    Image(String),
    /// The image doesn't explain it.
    System {
        /// The failed step, worded for the uploader.
        step: String,
        /// Why.
        error: io::Error,
    },
}

impl ImageError {
    /// A file system error on a path of the image: its kind decides whether the image or the host is at fault.
    pub fn of_path(step: String, error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(
                Errno::EACCES
                | Errno::EEXIST
                | Errno::EINVAL
                | Errno::EISDIR
                | Errno::ELOOP
                | Errno::ENAMETOOLONG
                | Errno::ENOENT
                | Errno::ENOTDIR,
            ) => Self::Image(format!("{step}: {}", told(&error))),
            _ => Self::System { step, error },
        }
    }
}

/// An error as worded for the uploader.
fn told(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_image_can_have_wrong_is_its_fault() {
        for (errno, images) in [(Errno::ENOTDIR, true), (Errno::ELOOP, true), (Errno::ENOSPC, false), (Errno::EIO, false)] {
            let error = ImageError::of_path("/etc".to_owned(), errno.into());
            assert_eq!(matches!(&error, ImageError::Image(text) if text.starts_with("/etc: ")), images, "{error:?}");
        }
    }
}
