//! Runs no pods: for labs, and load tests of the rest of the host.

use std::sync::Arc;

use async_trait::async_trait;
use codiusd_runtime::{NoopRuntime, Runtime};
use codiusd_supervisor::Supervisor;
use prometheus::{IntCounter, Registry};

use super::RuntimePlan;
use crate::{app::error::StartError, finding::Finding};

/// The plan of the noop runtime.
#[derive(Debug)]
pub(super) struct Noop;

#[async_trait]
impl RuntimePlan for Noop {
    async fn open(&self, _: IntCounter, _: &Registry, _: &Supervisor) -> Result<Arc<dyn Runtime>, StartError> {
        Ok(Arc::new(NoopRuntime::new()))
    }

    fn doctor_checks(&self) -> Vec<Finding> {
        vec![Finding::note("runtime", "noop: uploads are charged, and nothing runs", "set runtime.type to embedded or hyperd")]
    }
}
