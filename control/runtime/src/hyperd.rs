//! Pods as virtual machines, run by a hyperd daemon (1.1.0) with known defects.
//!
//! ```text
//! start:  pull all images -> create (boots a machine) -> start -> running, address known
//!                              | connection lost: poll until the create has ended
//!                              v
//!                            delete what it left
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `addresses` | the address of the next pod |
//! | `client` | one call, one connection, a time limit |
//! | `error` | hyperd's messages -> typed errors, in one place |
//! | `wire` | requests and responses |
//! | `names` | container names, unique per attempt, and what they encode |
//! | `generation` | the current run of the daemon |
//! | `images` | pulls |
//! | `killers` | images that end the guest |
//! | `folders` | log folders that hyperd leaves behind |
//! | `create` | from a description to a running machine, with recovery from every failure |
//! | `inventory` | what hyperd holds, our pods and others' |
//! | `logs` | frames -> lines |
//! | `metrics` | durations and failures |
//!
//! Its known defects, and their workarounds, are in docs/operate/hyperd.md.

mod addresses;
mod client;
mod create;
mod error;
mod folders;
mod generation;
mod images;
mod inventory;
mod killers;
mod logs;
mod metrics;
mod names;
mod wire;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prometheus::Registry;
use tokio::{sync::Semaphore, task, time};

use crate::{
    Capabilities, LogLines, PodId, PodSpec, PodStatus, RunningPod, Runtime, RuntimeError,
    image::{ImageRef, RegistryConfig},
    network::{self, Enforcer, PolicyError},
};
use addresses::{Addresses, NewInterface};
use client::{Call, Client};
use error::HyperdError;
use images::Images;
use inventory::Seen;
use killers::Killers;
use metrics::Metrics;

/// The minimum memory of a pod, in bytes: the guest of a virtual machine with 32 MiB never boots.
pub const MEMORY_MIN: u64 = 64 << 20;
/// How long a ready daemon may take to answer.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// Stands for no run of a daemon: those are numbered with 32 bits.
const NO_DAEMON: u64 = u64::MAX;

/// Location of hyperd, and limits on its load.
#[derive(Clone, Debug)]
pub struct HyperdConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// Directory in which it keeps a log folder per pod.
    pub logs: PathBuf,
    /// Machines booted concurrently.
    pub creates_max: usize,
    /// Starts that may wait for a slot; more are refused as busy.
    pub creates_waiting_max: usize,
    /// How long a pod with a Codius name that this host doesn't know is left alone.
    pub orphan_grace: Duration,
    /// Registries that images may come from; pulling is otherwise hyperd's responsibility.
    pub registries: RegistryConfig,
    /// The network policy of its bridge, without which no pod is started; none: the operator is responsible for it.
    pub guard: Option<Arc<Enforcer>>,
}

impl HyperdConfig {
    /// The hyperd at `socket`, with the default limits.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            logs: PathBuf::from("/var/run/hyper/Pods"),
            creates_max: 2,
            creates_waiting_max: 16,
            orphan_grace: Duration::from_secs(60),
            registries: RegistryConfig::default(),
            guard: None,
        }
    }
}

/// Runs pods in hyperd. Dropping it stops none of them.
#[derive(Debug)]
pub struct HyperdRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    images: Images,
    killers: Killers,
    logs: PathBuf,
    /// The run of the daemon that answered the last list; [`NO_DAEMON`] before the first.
    daemon: AtomicU64,
    seen: Seen,
    turns: PodLocks,
    /// Limits the starts that are running or waiting.
    admitted: Semaphore,
    /// Limits the concurrent boots.
    creates: Semaphore,
    foreign_memory_bytes: AtomicU64,
    orphan_grace: Duration,
    registries: RegistryConfig,
    guard: Option<Arc<Enforcer>>,
    addresses: Arc<Addresses>,
}

impl HyperdRuntime {
    /// A runtime for the hyperd that listens, or will listen, at the socket.
    pub fn new(config: HyperdConfig, registry: &Registry) -> Result<Self, prometheus::Error> {
        let client = Client::new(config.socket, Metrics::register(registry)?);
        let inner = Inner {
            client,
            images: Images::default(),
            killers: Killers::default(),
            logs: config.logs,
            daemon: AtomicU64::new(NO_DAEMON),
            seen: Seen::default(),
            turns: PodLocks::default(),
            admitted: Semaphore::new(config.creates_max + config.creates_waiting_max),
            creates: Semaphore::new(config.creates_max),
            foreign_memory_bytes: AtomicU64::new(0),
            orphan_grace: config.orphan_grace,
            registries: config.registries,
            guard: config.guard,
            addresses: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

#[async_trait]
impl Runtime for HyperdRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "hyperd",
            isolation: crate::Isolation::VirtualMachine,
            memory_overhead: crate::MemoryOverhead::default(),
            orphan_grace: self.inner.orphan_grace,
        }
    }

    async fn ready(&self) -> Result<(), RuntimeError> {
        self.inner.guarded()?;
        if self.inner.admitted.available_permits() == 0 {
            return Err(RuntimeError::Busy);
        }
        if let Some(guard) = self.inner.guard.clone() {
            addresses::look(guard).await?;
        }
        let asked = time::timeout(READY_WITHIN, generation::current(&self.inner.client));
        let answered = asked.await.map_err(|elapsed| HyperdError::Lost(elapsed.into())).and_then(|answered| answered);
        answered.map(drop).map_err(|error| unavailable("reaching hyperd", error))
    }

    async fn check_image(&self, image: &str) -> Result<(), RuntimeError> {
        let reference = ImageRef::parse(image)?;
        if reference.is_local() {
            let reason = "images of this host's own layouts can't be run by hyperd; name one of a registry";
            return Err(RuntimeError::ReferenceRefused { image: image.to_owned(), reason: reason.to_owned() });
        }
        self.inner.registries.check(&reference)?;
        self.inner.killers.check_image(image)
    }

    async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError> {
        let inner = Arc::clone(&self.inner);
        in_task(async move {
            let turn = inner.turns.of(&spec.id);
            let _mine = turn.lock().await;
            inner.guarded()?;
            inner.start(spec).await
        })
        .await
    }

    async fn stop(&self, id: &PodId) -> Result<(), RuntimeError> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        in_task(async move {
            let turn = inner.turns.of(&id);
            let _mine = turn.lock().await;
            inner.stop(&id).await
        })
        .await
    }

    async fn list(&self) -> Result<Vec<PodStatus>, RuntimeError> {
        inventory::survey(&self.inner).await.map_err(|error| unavailable("asking hyperd for its pods", error))
    }

    fn foreign_memory_bytes(&self) -> u64 {
        self.inner.foreign_memory_bytes.load(Ordering::Relaxed)
    }

    fn addresses(&self) -> u64 {
        self.inner.addresses.for_pods()
    }

    fn daemon(&self) -> Option<u64> {
        Some(self.inner.daemon.load(Ordering::Relaxed)).filter(|daemon| *daemon != NO_DAEMON)
    }

    async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, RuntimeError> {
        let info = self.inner.info(id).await.map_err(|error| error.into_runtime(id, "reading the log"))?;
        logs::lines(&self.inner, id, &info.status.container_status, follow).await
    }
}

/// Serialises changes to a pod in hyperd, across its incarnations. A request by name must not hit a pod that was created meanwhile.
#[derive(Debug, Default)]
struct PodLocks(Mutex<HashMap<PodId, Weak<tokio::sync::Mutex<()>>>>);

impl PodLocks {
    fn of(&self, id: &PodId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(id).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            turns.insert(id.clone(), Arc::downgrade(&turn));
            turn
        })
    }
}

fn unavailable(operation: &str, error: HyperdError) -> RuntimeError {
    RuntimeError::Unavailable { operation: operation.to_owned(), source: Some(Box::new(error)) }
}

/// Runs to its end even if the caller doesn't wait.
async fn in_task<T: Send + 'static>(work: impl Future<Output = Result<T, RuntimeError>> + Send + 'static) -> Result<T, RuntimeError> {
    task::spawn(tracing::Instrument::in_current_span(work)).await.unwrap_or_else(|panicked| {
        Err(RuntimeError::Unavailable { operation: "running its task".to_owned(), source: Some(Box::new(panicked)) })
    })
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.guard.as_ref().map(|guard| guard.remove_unless_used()) {
            tracing::warn!(%error, "network policy not removed from the kernel");
        }
    }
}

impl Inner {
    /// No pod is started while the network policy isn't in force.
    fn guarded(&self) -> Result<(), RuntimeError> {
        if self.guard.as_ref().is_none_or(|guard| guard.in_force()) { Ok(()) } else { Err(network::unguarded()) }
    }

    /// Ensures, before the pod is known to anyone, that the machine just started has an address of its own and a port of its own at the
    /// bridge that is isolated from others.
    async fn keep_apart(&self, id: &PodId, run: RunningPod, interface: Option<&NewInterface>) -> Result<(), RuntimeError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RuntimeError::Unavailable {
            operation: "keeping pods apart".to_owned(),
            source: Some(source),
        };
        if !self.is_alone(id, run.address).await.map_err(|error| failed(error.into()))? {
            return Err(failed(format!("hyperd has given it an address that another pod has: {}", run.address).into()));
        }
        let Some(guard) = self.guard.clone() else { return Ok(()) };
        let port = interface.map(|interface| interface.ifname.clone());
        let separated = task::spawn_blocking(move || {
            guard.separate()?;
            let seated = guard.seated()?;
            Ok::<_, PolicyError>(port.is_none_or(|port| seated.ports.contains(&port)))
        });
        let is_there = separated.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
        if is_there { Ok(()) } else { Err(failed("its port isn't at the pods' bridge (hyperd.bridge)".into())) }
    }

    async fn info(&self, id: &PodId) -> Result<wire::Info, HyperdError> {
        generation::read(&self.client.call(Call::Info, &[("podName", id.as_str())], None).await?)
    }

    /// Whether a pod runs in the machine that its `/pod/info` reports: address and machine there are those of its first start. A pod whose
    /// machine was lost before it was started runs in another one.
    async fn is_where_it_says(&self, id: &PodId, info: &wire::Info) -> Result<bool, HyperdError> {
        let machines = self.list("vm").await?.machines;
        let place = format!("{}:{id}:", info.vm);
        Ok(machines.iter().any(|row| row.starts_with(&place)))
    }

    async fn list(&self, item: &str) -> Result<wire::List, HyperdError> {
        generation::read(&self.client.call(Call::List, &[("item", item)], None).await?)
    }
}
