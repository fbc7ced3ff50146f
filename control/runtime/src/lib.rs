//! Runs pods.
//!
//! | module | contents |
//! |---|---|
//! | [`pod`] | the data types: a pod's description, its state |
//! | [`error`] | what can go wrong, and whose fault it is |
//! | `image/` | from an image reference to verified, unpacked layers |
//! | `embedded/` | the daemonless container runtime: one single-threaded shim process per pod |
//! | `hyperd/` | virtual machines, by a hyperd daemon |
//! | [`network`] | what pods may send to whom: described, installed, verified |
//! | [`time_sync`] | whether a time service keeps this machine's clock right |
//! | `noop` | accepts everything and runs nothing (labs, load tests of the control plane) |
//!
//! This crate knows nothing of money, manifests or HTTP hosts.

pub mod embedded;
pub mod error;
pub mod hyperd;
pub mod image;
pub mod network;
pub mod noop;
pub mod pod;
pub mod time_sync;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use embedded::{EmbeddedConfig, EmbeddedRuntime};
pub use error::RuntimeError;
pub use hyperd::{HyperdConfig, HyperdRuntime};
pub use noop::NoopRuntime;
pub use pod::{
    Capabilities, ContainerSpec, Isolation, LogLine, LogStream, Machine, MemoryOverhead, PodId, PodSpec, PodState, PodStatus, RunningPod,
};

/// Lines of a pod's containers, oldest first; ends when the pod's containers have exited (or at once when not following).
pub type LogLines = BoxStream<'static, Result<LogLine, RuntimeError>>;

/// Runs pods. All methods may be called concurrently; dropping a future leaves nothing permanently half done: the next `start`, `stop` or
/// `list` of that pod finishes or undoes it.
#[async_trait]
pub trait Runtime: std::fmt::Debug + Send + Sync + 'static {
    /// The runtime's properties; constant for its lifetime.
    fn capabilities(&self) -> Capabilities;

    /// Why pods aren't isolated as well as this program could on a machine with what that takes; none if they are, or the operator chose it.
    fn isolation_note(&self) -> Option<String> {
        None
    }

    /// Whether pods can be started now. Called before any money moves; fast.
    async fn ready(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Whether `image` is a reference this runtime accepts: parses it, checks the pinning, and looks into local layouts.
    async fn check_image(&self, image: &str) -> Result<(), RuntimeError>;

    /// Whether a container can be run, as far as is known without downloading its layers. Called before any money moves, so it takes a few
    /// seconds at most: what a registry doesn't answer by then is checked by `start`.
    async fn check_container(&self, container: &ContainerSpec) -> Result<(), RuntimeError> {
        self.check_image(&container.image).await
    }

    /// Pulls missing images, creates and starts the pod; returns when its containers have been started. Fails with
    /// [`RuntimeError::AlreadyExists`] if a pod of that id exists. After any other failure nothing of the attempt is left, and the same
    /// call may be repeated.
    async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError>;

    /// Stops and deletes the pod with everything of it. Repeatable: an unknown pod is success.
    async fn stop(&self, id: &PodId) -> Result<(), RuntimeError>;

    /// Lists every pod this runtime holds, including those started by an earlier process of ours (which are thus adopted). Pods found to
    /// have exited release their host resources; only name and log are kept until `stop`.
    async fn list(&self) -> Result<Vec<PodStatus>, RuntimeError>;

    /// Memory held, as of the last `list`, by pods that don't belong to any Codius host, in bytes.
    fn foreign_memory_bytes(&self) -> u64 {
        0
    }

    /// Pods of this host that can have an address at once, as of the last `list`.
    fn addresses(&self) -> u64 {
        u64::MAX
    }

    /// The run of the daemon behind this runtime that answered the last `list`; none if there is no daemon. If it changes while pods run,
    /// the earlier run was stopped or crashed.
    fn daemon(&self) -> Option<u64> {
        None
    }

    /// The pod's log: existing lines, and with `follow` new ones.
    async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, RuntimeError>;
}
