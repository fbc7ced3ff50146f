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

/// Who is to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The uploader: the manifest or its image.
    Uploader,
    /// The operator: this host.
    Host,
}

impl RuntimeError {
    /// Who is to act.
    pub fn fault(&self) -> Fault {
        match self {
            Self::AlreadyExists(_)
            | Self::ImageRefused { .. }
            | Self::ImageUnavailable { .. }
            | Self::NoSuchPod(_)
            | Self::Start { .. } => Fault::Uploader,
            Self::Busy | Self::Unavailable { .. } => Fault::Host,
        }
    }
}
