//! What can go wrong with a pod, and whose fault it is.

use std::io;

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::PodId;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation. `Display` is fit for uploaders: no path or address of this host; the source chain is for the log.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A pod of that name is there already.
    #[error("pod {0} already exists")]
    AlreadyExists(PodId),
    /// The runtime has as much to do as it takes at once; try again soon.
    #[error("the host is busy starting other pods")]
    Busy,
    /// Something went wrong here that neither the request nor its image explains.
    #[error("the host failed: {operation}")]
    Failed {
        /// What was being done.
        operation: String,
        /// The whole cause.
        #[source]
        source: Option<Source>,
    },
    /// What the image holds or says of itself can't be run here.
    #[error("image {image}: {reason}")]
    ImageRefused {
        /// The reference as given.
        image: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The image can't be had or isn't what its digest says.
    #[error("image {image} can't be pulled: {reason}")]
    ImageUnavailable {
        /// The reference as given.
        image: String,
        /// Short cause, fit for the uploader.
        reason: String,
        /// The whole cause.
        #[source]
        source: Option<Source>,
    },
    /// Something that pods share is used up: memory, disk, addresses.
    #[error("the host has no room for the pod: {what}")]
    NoRoom {
        /// What there is no more of, fit for the uploader.
        what: String,
        /// The whole cause.
        #[source]
        source: Option<Source>,
    },
    /// There is no such pod.
    #[error("there is no pod {0}")]
    NoSuchPod(PodId),
    /// The reference itself isn't one this host runs, whatever is behind it.
    #[error("image {image}: {reason}")]
    ReferenceRefused {
        /// The reference as given.
        image: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The pod could not be started, for what its image or its manifest says.
    #[error("pod {id} failed to start: {step}")]
    Start {
        /// The pod.
        id: PodId,
        /// What was being done, fit for the uploader.
        step: String,
        /// The whole cause.
        #[source]
        source: Option<Source>,
    },
    /// The runtime as a whole can't work at the moment (its daemon is away, the network policy isn't in force).
    #[error("the host's container runtime isn't available: {operation}")]
    Unavailable {
        /// What was being done.
        operation: String,
        /// The whole cause.
        #[source]
        source: Option<Source>,
    },
}

/// Who is to act on an error. Decided where the error happens, by its variant; the API's status follows from it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The uploader: what the image is (422).
    Image,
    /// The client: what the request says (400; 404 if it names a pod that isn't there).
    Request,
    /// Nobody: the host is full, and won't be for ever (503).
    Capacity,
    /// The operator: the runtime as a whole can't work now (503).
    Unavailable,
    /// The operator, and perhaps our code: this one start failed, and trying again may not help (500).
    Host,
}

impl Fault {
    /// Of an error nothing of the pod explains: something is used up, or the host failed.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let is_out =
            matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::OutOfMemory | Kind::WouldBlock | Kind::TimedOut)
                || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        if is_out { Self::Capacity } else { Self::Host }
    }
}

impl RuntimeError {
    /// Who is to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::ImageRefused { .. } | Self::ImageUnavailable { .. } | Self::Start { .. } => Fault::Image,
            Self::NoSuchPod(_) | Self::ReferenceRefused { .. } => Fault::Request,
            Self::Busy | Self::NoRoom { .. } => Fault::Capacity,
            Self::Unavailable { .. } => Fault::Unavailable,
            // No request makes two pods of one id: somebody else's has the name, or one of ours wasn't cleared away.
            Self::AlreadyExists(_) | Self::Failed { .. } => Fault::Host,
        }
    }

    /// Whether the same start would come to the same, however often it is tried. What a registry says of an image may be
    /// another thing tomorrow.
    pub fn is_lasting(&self) -> bool {
        matches!(self.fault(), Fault::Image | Fault::Request) && !matches!(self, Self::ImageUnavailable { .. })
    }

    /// What an I/O error of one operation comes to.
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
