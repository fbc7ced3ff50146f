//! What runs pods.
//!
//! | room | what is in it |
//! |---|---|
//! | [`pod`] | the nouns: what a pod is asked to be, what a running one is |
//! | [`error`] | what can go wrong, and whose fault it is |
//! | `image/` | from an image reference to verified, unpacked layers |
//! | `embedded/` | the daemonless container runtime: one single-threaded shim process per pod |
//! | `hyperd/` | virtual machines, by a hyperd daemon |
//! | [`network`] | what pods may send to whom: described, installed, checked |
//! | [`clock`] | whether somebody keeps this machine's clock right |
//! | `noop` | accepts everything and runs nothing (labs, load tests of the control plane) |
//!
//! This crate knows nothing of money, manifests or HTTP hosts.

pub mod clock;
pub mod embedded;
pub mod error;
pub mod hyperd;
pub mod image;
mod netlink;
pub mod network;
pub mod noop;
pub mod pod;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use embedded::{EmbeddedConfig, EmbeddedRuntime};
pub use error::RuntimeError;
pub use hyperd::{HyperdConfig, HyperdRuntime};
pub use noop::NoopRuntime;
pub use pod::{Capabilities, ContainerSpec, LogLine, LogStream, Machine, PodId, PodSpec, PodState, PodStatus, RunningPod};

/// Lines of a pod's containers, oldest first; ends when the pod's containers have exited (or at once when not following).
pub type LogLines = BoxStream<'static, Result<LogLine, RuntimeError>>;

/// Runs pods. All methods may be called at once from many tasks; dropping a future leaves nothing half done for ever:
/// what was begun is either finished or undone by the next `start`, `stop` or `list` of that pod.
#[async_trait]
pub trait Runtime: std::fmt::Debug + Send + Sync + 'static {
    /// What this runtime is and promises; constant for its life.
    fn capabilities(&self) -> Capabilities;

    /// Whether pods could be started now. Called before any money moves; quick.
    async fn ready(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Whether `image` is a reference this runtime can be asked to run: it parses, checks the pinning, and looks into local layouts.
    async fn check_image(&self, image: &str) -> Result<(), RuntimeError>;

    /// Whether a container can be run, as far as that is known without downloading its layers. Called before any money moves, so
    /// it takes a few seconds at most: what a registry doesn't say by then is found out by `start`.
    async fn check_container(&self, container: &ContainerSpec) -> Result<(), RuntimeError> {
        self.check_image(&container.image).await
    }

    /// Pulls what is missing, creates and starts the pod; returns when its containers have been started.
    /// Fails with [`RuntimeError::AlreadyExists`] when a pod of that id is there. After any other failure nothing of the
    /// attempt is left, and the same call may be made again.
    async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError>;

    /// Stops and deletes the pod with everything it had. Repeatable: an unknown pod is success.
    async fn stop(&self, id: &PodId) -> Result<(), RuntimeError>;

    /// Every pod this runtime holds, those started by an earlier process of ours too (this is how they are adopted).
    /// Pods found to have exited give back what they held of the machine; only name and log are kept until `stop`.
    async fn list(&self) -> Result<Vec<PodStatus>, RuntimeError>;

    /// Memory held, as of the last `list`, by pods that aren't a Codius host's at all, in bytes.
    fn foreign_memory_bytes(&self) -> u64 {
        0
    }

    /// Pods of this host that can have an address at once, as of the last `list`.
    fn addresses(&self) -> u64 {
        u64::MAX
    }

    /// Which run of the daemon behind this runtime answered the last `list`; none if there is no daemon. A run that has changed while
    /// pods ran was ended, in order or by a crash.
    fn daemon(&self) -> Option<u64> {
        None
    }

    /// The pod's log: what there is, and with `follow` what comes.
    async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, RuntimeError>;
}
