//! A runtime that runs nothing: for labs and load tests of everything around it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::stream::{self, StreamExt};

use crate::{Capabilities, LogLines, PodId, PodSpec, PodState, PodStatus, RunningPod, Runtime, RuntimeError};

/// Remembers the pods it was asked to start, in memory, and reports them as running at 127.0.0.1.
#[derive(Debug, Default)]
pub struct NoopRuntime {
    pods: Mutex<BTreeMap<PodId, PodStatus>>,
}

impl NoopRuntime {
    /// A runtime without pods.
    pub fn new() -> Self {
        Self::default()
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, BTreeMap<PodId, PodStatus>> {
        self.pods.lock().unwrap_or_else(std::sync::PoisonError::into_inner) // the map is consistent after every statement
    }
}

#[async_trait]
impl Runtime for NoopRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "noop",
            isolation: crate::Isolation::None,
            memory_overhead: crate::MemoryOverhead::default(),
            orphan_grace: Duration::ZERO,
        }
    }

    async fn check_image(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError> {
        let mut pods = self.pods();
        if pods.contains_key(&spec.id) {
            return Err(RuntimeError::AlreadyExists(spec.id));
        }
        let running = RunningPod { address: IpAddr::V4(Ipv4Addr::LOCALHOST), incarnation: rand::random(), started_at: SystemTime::now() };
        let status =
            PodStatus { id: spec.id.clone(), state: PodState::Running(running), memory_bytes: spec.machine.memory_bytes, degraded: false };
        pods.insert(spec.id, status);
        Ok(running)
    }

    async fn stop(&self, id: &PodId) -> Result<(), RuntimeError> {
        self.pods().remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<PodStatus>, RuntimeError> {
        Ok(self.pods().values().cloned().collect())
    }

    async fn logs(&self, id: &PodId, _: bool) -> Result<LogLines, RuntimeError> {
        if self.pods().contains_key(id) { Ok(stream::empty().boxed()) } else { Err(RuntimeError::NoSuchPod(id.clone())) }
    }
}
