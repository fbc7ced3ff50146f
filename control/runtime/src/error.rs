//! What can go wrong with a pod, and whose fault it is.

use std::io;

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::PodId;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation. `Display` is safe for uploaders: no path or address of this host; the source chain is for the log.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A pod of that name already exists.
    #[error("pod {0} already exists")]
    AlreadyExists(PodId),
    /// The runtime is at its limit of concurrent operations; try again soon.
    #[error("the host is busy starting other pods")]
    Busy,
    /// The host failed in a way that neither the request nor its image explains.
    #[error("the host failed: {operation}")]
    Failed {
        /// The failed operation.
        operation: String,
        /// The full cause.
        #[source]
        source: Option<Source>,
    },
    /// The image's content or config can't be run here.
    #[error("image {image}: {reason}")]
    ImageRefused {
        /// The reference as given.
        image: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// The image can't be fetched or doesn't match its digest.
    #[error("image {image} can't be pulled: {reason}")]
    ImageUnavailable {
        /// The reference as given.
        image: String,
        /// Short cause, safe for the uploader.
        reason: String,
        /// The full cause.
        #[source]
        source: Option<Source>,
    },
    /// A resource that pods share is exhausted: memory, disk, addresses.
    #[error("the host has no room for the pod: {what}")]
    NoRoom {
        /// The exhausted resource, safe for the uploader.
        what: String,
        /// The full cause.
        #[source]
        source: Option<Source>,
    },
    /// There is no such pod.
    #[error("there is no pod {0}")]
    NoSuchPod(PodId),
    /// The reference itself can't be run on this host, whatever it refers to.
    #[error("image {image}: {reason}")]
    ReferenceRefused {
        /// The reference as given.
        image: String,
        /// What is wrong and what is expected.
        reason: String,
    },
    /// The pod could not be started because of its image or its manifest.
    #[error("pod {id} failed to start: {step}")]
    Start {
        /// The pod.
        id: PodId,
        /// The failed step, worded for the uploader.
        step: String,
        /// The full cause.
        #[source]
        source: Option<Source>,
    },
    /// The whole runtime is unavailable (its daemon is down, the network policy isn't in force).
    #[error("the host's container runtime isn't available: {operation}")]
    Unavailable {
        /// The failed operation.
        operation: String,
        /// The full cause.
        #[source]
        source: Option<Source>,
    },
}

/// Who must act on an error. Decided where the error happens, by its variant; the API's status follows from it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The uploader: the image is at fault (422).
    Image,
    /// The client: the request is at fault (400; 404 if it names an unknown pod).
    Request,
    /// Nobody: the host is full for now (503).
    Capacity,
    /// The operator: the whole runtime is unavailable (503).
    Unavailable,
    /// The operator, and perhaps our code: this one start failed, and a retry may not help (500).
    Host,
}

impl Fault {
    /// The fault of an error that the pod doesn't explain: a resource is exhausted, or the host failed.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let is_out =
            matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::OutOfMemory | Kind::WouldBlock | Kind::TimedOut)
                || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        if is_out { Self::Capacity } else { Self::Host }
    }
}

impl RuntimeError {
    /// Who must act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::ImageRefused { .. } | Self::ImageUnavailable { .. } | Self::Start { .. } => Fault::Image,
            Self::NoSuchPod(_) | Self::ReferenceRefused { .. } => Fault::Request,
            Self::Busy | Self::NoRoom { .. } => Fault::Capacity,
            Self::Unavailable { .. } => Fault::Unavailable,
            // No request creates two pods of one id: another program's pod has the name, or one of ours wasn't removed.
            Self::AlreadyExists(_) | Self::Failed { .. } => Fault::Host,
        }
    }

    /// Whether the same start would always fail the same way. A registry's answer about an image may change.
    pub fn is_lasting(&self) -> bool {
        matches!(self.fault(), Fault::Image | Fault::Request) && !matches!(self, Self::ImageUnavailable { .. })
    }

    /// Converts an I/O error of one operation.
    pub(crate) fn of_io(operation: &str, error: io::Error) -> Self {
        match Fault::of_io(&error) {
            Fault::Capacity => Self::NoRoom { what: operation.to_owned(), source: Some(Box::new(error)) },
            _ => Self::Failed { operation: operation.to_owned(), source: Some(Box::new(error)) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_one_to_blame() {
        let id = || "a".repeat(PodId::LENGTH).parse::<PodId>().unwrap();
        let text = String::new;
        let image = || (text(), text());
        let ((refused, reason), (away, why), (reference, wrong)) = (image(), image(), image());
        let table = [
            (RuntimeError::AlreadyExists(id()), Fault::Host, false),
            (RuntimeError::Busy, Fault::Capacity, false),
            (RuntimeError::Failed { operation: text(), source: None }, Fault::Host, false),
            (RuntimeError::ImageRefused { image: refused, reason }, Fault::Image, true),
            (RuntimeError::ImageUnavailable { image: away, reason: why, source: None }, Fault::Image, false),
            (RuntimeError::NoRoom { what: text(), source: None }, Fault::Capacity, false),
            (RuntimeError::NoSuchPod(id()), Fault::Request, true),
            (RuntimeError::ReferenceRefused { image: reference, reason: wrong }, Fault::Request, true),
            (RuntimeError::Start { id: id(), step: text(), source: None }, Fault::Image, true),
            (RuntimeError::Unavailable { operation: text(), source: None }, Fault::Unavailable, false),
        ];
        for (error, fault, lasting) in table {
            assert_eq!((error.fault(), error.is_lasting()), (fault, lasting), "{error:?}");
        }
    }

    #[test]
    fn what_is_used_up_is_no_failure() {
        for used_up in [libc::ENOSPC, libc::EDQUOT, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EAGAIN] {
            let error = RuntimeError::of_io("doing it", io::Error::from_raw_os_error(used_up));
            assert!(matches!(error, RuntimeError::NoRoom { .. }), "{error:?}");
        }
        for failed in [io::Error::from_raw_os_error(libc::EPERM), io::Error::from_raw_os_error(libc::EIO), io::Error::other("odd")] {
            let error = RuntimeError::of_io("doing it", failed);
            assert!(matches!(error, RuntimeError::Failed { .. }), "{error:?}");
        }
        assert!(matches!(RuntimeError::of_io("waiting", io::ErrorKind::TimedOut.into()), RuntimeError::NoRoom { .. }));
    }
}
