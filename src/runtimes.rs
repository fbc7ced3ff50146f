//! What the host has to know of each runtime: how to open it, its pods' networks and capacity, and the checks of `codiusd doctor`.
//!
//! | module | what is in it |
//! |---|---|
//! | `embedded` | containers, by this process and its shims |
//! | `hyperd` | virtual machines, by a hyperd |
//! | `noop` | runs nothing |
//! | `kernel` | what containers need of the kernel |

mod embedded;
mod hyperd;
mod kernel;
mod noop;

use std::{fmt::Debug, fs::File, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use codiusd_control::capacity::DiskShare;
use codiusd_proxy::PodNetworks;
use codiusd_runtime::{Machine, Runtime, RuntimeError, network::Policy};
use codiusd_supervisor::Supervisor;
use prometheus::{IntCounter, Registry};

use crate::{
    app::error::StartError,
    config::{Config, RuntimeChoice},
    finding::Finding,
};

/// What the host has to know of the configured runtime.
#[async_trait]
pub(crate) trait RuntimePlan: Debug + Send + Sync {
    /// An error if this process lacks privileges that the runtime needs; checked before anything is created.
    fn check_privileges(&self) -> Result<(), StartError> {
        Ok(())
    }

    /// Locks a resource that only one host may use.
    fn lock(&self) -> Result<Option<File>, StartError> {
        Ok(None)
    }

    /// Opens it. `restored` counts how often its network policy had to be restored.
    async fn open(&self, restored: IntCounter, registry: &Registry, supervisor: &Supervisor) -> Result<Arc<dyn Runtime>, StartError>;

    /// The network policy of its pods, if they get one.
    fn network_policy(&self) -> Option<Policy> {
        None
    }

    /// The networks of its pods.
    fn pod_networks(&self) -> PodNetworks {
        PodNetworks::Unrestricted
    }

    /// The disk that holds its pods' disks; none: they are elsewhere and aren't counted.
    fn disk(&self) -> Option<DiskShare> {
        None
    }

    /// Where the built-in image of the self-test is written; none: it isn't used.
    fn self_test_layout(&self) -> Option<PathBuf> {
        None
    }

    /// Why no pod of this size can start on a machine with this many processors; none: it can.
    fn refuses_size(&self, _processors: usize, _machine: &Machine) -> Option<String> {
        None
    }

    /// Checks what it needs of this machine.
    fn doctor_checks(&self) -> Vec<Finding>;
}

/// The plan of the configured runtime. All other code uses the plan and doesn't match on the runtime.
pub(crate) fn plan(config: &Config) -> Box<dyn RuntimePlan + '_> {
    match &config.runtime {
        RuntimeChoice::Embedded => Box::new(embedded::Embedded(config)),
        RuntimeChoice::Hyperd(socket) => Box::new(hyperd::Hyperd { config, socket }),
        RuntimeChoice::Noop => Box::new(noop::Noop),
    }
}

/// Runs blocking work on a thread for it.
async fn blocking<T: Send + 'static>(operation: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StartError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| StartError::Runtime(RuntimeError::Unavailable { operation: operation.to_owned(), source: Some(Box::new(error)) }))
}
