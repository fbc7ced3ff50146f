//! What can go wrong with a pod, and whose fault it is.

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
    /// The image reference can't be run here, whatever the registry says.
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
    /// The pod could not be started.
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
    /// The runtime itself can't work at the moment (daemon away, disk full).
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The uploader: what the image is (422).
    Image,
    /// The uploader: what the request says (422).
    Request,
    /// Nobody: the host is full, and won't be for ever (503).
    Capacity,
    /// The operator: the runtime as a whole can't work now (503).
    Unavailable,
    /// The operator, and perhaps our code: this one start failed, and trying again may not help (500).
    Host,
}

impl RuntimeError {
    /// Who is to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::ImageRefused { .. } | Self::ImageUnavailable { .. } | Self::Start { .. } => Fault::Image,
            Self::AlreadyExists(_) | Self::NoSuchPod(_) => Fault::Request,
            Self::Busy | Self::NoRoom { .. } => Fault::Capacity,
            Self::Unavailable { .. } => Fault::Unavailable,
            Self::Failed { .. } => Fault::Host,
        }
    }
}
