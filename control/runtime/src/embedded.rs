//! The daemonless container runtime: each pod has a shim process of its own, which outlives this one.
//!
//! ```text
//! EmbeddedRuntime --order--> shim --libcontainer--> containers      (per pod: user, net, ipc, uts namespaces;
//!   |                          |                                     per container: pid, mount, cgroup)
//!   |-- lock, status.json -----|   who is alive, since when
//!   `-- logs/NAME.log ---------'   what they wrote
//! ```
//!
//! | module | contents |
//! |---|---|
//! | `config` | settings and limits; addresses, users and links of a slot |
//! | `privileges`, `subnet_lock` | preconditions checked first: the privileges, and a network no other codiusd uses |
//! | `probe` | a container created at every start, to check that containers are confined |
//! | `disk` | the disk a pod writes to |
//! | `pods` | the table of names and slots |
//! | `launch` | from a pod's description to its shim's answer |
//! | `adopt` | adopting and stopping pods, releasing their resources |
//! | `shim_protocol`, `lock` | the files daemon and shim share |
//! | `shim/` | everything that happens in the shim |
//! | `logs/` | log files: writing, rotating, following |
//! | `vm/` | what a virtual machine is made of: kernel, archive to start from, QEMU's command line |
//! | `cgroup`, `veth`, `tap` | the kernel's resource limits and network links |
//! | `vm/` | what virtual machines are made of |
//! | `vm/` | pods in virtual machines |
//!
//! A pod is a set of containers on the host's kernel (namespaces with a user range of their own, a system call allow-list, dropped
//! capabilities, resource limits), or a virtual machine with the same inside (`vm`, `shim/vm`).

mod adopt;
mod cgroup;
mod config;
mod disk;
mod error;
mod launch;
mod lock;
mod logs;
mod pods;
mod privileges;
mod probe;
mod shim;
mod shim_protocol;
mod subnet_lock;
mod tap;
mod veth;
mod vm;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use codiusd_supervisor::{StateGuard, StateLock};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::Instrument;

use crate::{
    Capabilities, ContainerSpec, Isolation, LogLines, PodId, PodSpec, PodState, PodStatus, RunningPod, Runtime, RuntimeError,
    image::{self, ImageStore},
    network::{self, Enforcer},
};
pub use config::{Defence, EmbeddedConfig, IsolationChoice, Limits, ScratchLimit};
pub use error::OpenError;
use launch::{Setup, unavailable};
use pods::{Denied, PodLock, Pods};
pub use privileges::check as check_privileges;
use probe::Outcome;
pub use shim::{SHIM_ARGUMENT, shim_main};
use shim_protocol::PodRecord;
pub use subnet_lock::SubnetLock;
use vm::VmPlan;
pub use vm::{Accelerator, check as check_virtual_machines};

/// Runs pods on this machine. Dropping it stops none of them; if there are no pods, it leaves none of its state in the kernel.
#[derive(Debug)]
pub struct EmbeddedRuntime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: EmbeddedConfig,
    images: ImageStore,
    pods_dir: PathBuf,
    /// Whether each pod writes to a disk of its own.
    has_disks: bool,
    /// None: pods are containers on the host's kernel.
    vm: Option<VmPlan>,
    isolation_note: Option<String>,
    pods: StateLock<Pods>,
    starts: Semaphore,
    guard: Enforcer,
    _claim: SubnetLock,
    /// Held for life: two processes on one root would undo each other's pods.
    _root_lock: fs::File,
}

impl EmbeddedRuntime {
    /// Opens the runtime: takes its network, installs the network policy and adopts the pods an earlier process left running. Blocks
    /// meanwhile.
    pub fn open(mut config: EmbeddedConfig) -> Result<Self, OpenError> {
        if let Some(fault) = config.fault() {
            return Err(unavailable(&format!("checking its configuration: {fault}"), io::ErrorKind::InvalidInput.into()).into());
        }
        check_privileges()?;
        let pods_dir = config.root.join("pods");
        make_private(&config.root).and_then(|()| make_private(&pods_dir)).map_err(|error| unavailable("making its directories", error))?;
        let root_lock = lock_root(&config.root).map_err(|error| unavailable("locking its directory", error))?;
        let claim = SubnetLock::take(&config.root, config.subnet)?;
        let images = ImageStore::open(config.images.clone())?;
        // Resolved once: later pods get the name servers that the policy allows.
        config.network = config.network.resolved();
        let guard = Enforcer::supervised(&config.policy(), config.policy_restored.clone(), &config.supervisor)?;
        veth::block(config.subnet).map_err(|error| unavailable("routing the pods' network", error))?;
        let adopted = adopt::adopt(&pods_dir, &config.cgroup()).map_err(|error| unavailable("adopting pods", error))?;
        tracing::info!(pods = adopted.len(), "running pods adopted");
        let slots = || Pods::new(config.slots(), adopted.clone());
        let Chosen { vm, note, has_disks } = choose_isolation(&config, |vm| self_check(&config, vm, &pods_dir, slots()))?;
        let inner = Inner {
            pods: StateLock::new("embedded pods", &config.supervisor, Pods::new(config.slots(), adopted)),
            starts: Semaphore::new(config.limits.starts_max),
            images,
            pods_dir,
            config,
            has_disks,
            vm,
            isolation_note: note,
            guard,
            _claim: claim,
            _root_lock: root_lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

#[async_trait]
impl Runtime for EmbeddedRuntime {
    fn capabilities(&self) -> Capabilities {
        let vm = self.inner.vm.as_ref();
        Capabilities {
            name: "embedded",
            isolation: vm.map_or(Isolation::SharedKernel, VmPlan::isolation),
            memory_overhead: vm.map_or_else(Default::default, VmPlan::memory_overhead),
            orphan_grace: Duration::ZERO,
        }
    }

    fn isolation_note(&self) -> Option<String> {
        self.inner.isolation_note.clone()
    }

    async fn ready(&self) -> Result<(), RuntimeError> {
        if self.inner.guard.in_force() { Ok(()) } else { Err(network::unguarded()) }
    }

    async fn check_image(&self, image: &str) -> Result<(), RuntimeError> {
        self.inner.images.inspect(image).await.map(drop)
    }

    async fn check_container(&self, container: &ContainerSpec) -> Result<(), RuntimeError> {
        let settings = self.inner.images.inspect(&container.image).await?;
        settings.map_or(Ok(()), |settings| image::check(&settings, container))
    }

    async fn start(&self, spec: PodSpec) -> Result<RunningPod, RuntimeError> {
        self.ready().await?;
        let limits = &self.inner.config.limits;
        let reserved = self.inner.pods().reserve(&spec.id, limits.starts_max + limits.starts_waiting_max);
        let (slot, lock) = reserved.map_err(|denied| match denied {
            Denied::Taken => RuntimeError::AlreadyExists(spec.id.clone()),
            Denied::Full => RuntimeError::Busy,
        })?;
        let inner = Arc::clone(&self.inner);
        // A separate task, so that a cancelled caller doesn't leave the start half done.
        in_task(async move { inner.start(spec, slot, lock).await }).await
    }

    async fn stop(&self, id: &PodId) -> Result<(), RuntimeError> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        in_task(async move { inner.stop(id).await }).await
    }

    async fn list(&self) -> Result<Vec<PodStatus>, RuntimeError> {
        let held = self.inner.pods().all_held();
        // A pod that isn't a virtual machine where pods are, or has an older kernel or QEMU.
        let wanted = self.inner.vm.as_ref().map(VmPlan::fingerprint);
        let status = move |pod: adopt::Held| -> io::Result<PodStatus> {
            let state = if pod.is_alive()? { PodState::Running(pod.running()) } else { PodState::Exited };
            let degraded = wanted.is_some() && pod.record.vm != wanted;
            Ok(PodStatus { id: pod.record.id, state, memory_bytes: pod.record.memory_bytes, degraded })
        };
        let listed = blocking("looking after pods", move || held.into_iter().map(status).collect::<io::Result<Vec<_>>>()).await?;
        for dead in listed.iter().filter(|pod| pod.state == PodState::Exited) {
            self.inner.give_back(&dead.id).await?;
        }
        Ok(listed)
    }

    async fn logs(&self, id: &PodId, follow: bool) -> Result<LogLines, RuntimeError> {
        let pod = self.inner.pods().held(id).ok_or_else(|| RuntimeError::NoSuchPod(id.clone()))?;
        let logs = pod.dir.join(shim_protocol::LOGS_DIR);
        logs::tail::lines(pod.dir, &logs, &pod.record.containers, follow)
    }
}

impl Inner {
    fn pods(&self) -> StateGuard<'_, Pods> {
        self.pods.lock()
    }

    async fn start(&self, spec: PodSpec, slot: u32, lock: PodLock) -> Result<RunningPod, RuntimeError> {
        let _changing = lock.lock().await;
        let started = self.start_reserved(&spec, slot).await;
        let mut pods = self.pods();
        match started {
            Ok(pod) => {
                let running = pod.running();
                pods.hold(pod);
                Ok(running)
            }
            Err(error) => {
                pods.release(&spec.id);
                Err(error)
            }
        }
    }

    async fn start_reserved(&self, spec: &PodSpec, slot: u32) -> Result<adopt::Held, RuntimeError> {
        let template = self.disk_template(spec).await?;
        let setup = Setup { config: &self.config, template: template.as_deref(), vm: self.vm.as_ref() };
        // The layers are held here until the shim holds them.
        let (order, _layers) = launch::order(&setup, &self.images, spec, slot).await?;
        // Acquired only now, so that a slow registry doesn't block other starts.
        let _turn = self.starts.acquire().await.map_err(|closed| RuntimeError::of_io("waiting for a turn", io::Error::other(closed)))?;
        let dir = self.pods_dir.join(PodRecord::directory(&spec.id, order.pod.incarnation));
        let launched = launch::launch(&self.config, &dir, order).await;
        if launched.is_err() {
            let groups = self.config.cgroup();
            blocking("undoing a failed start", move || adopt::undo(&dir, &groups)).await?;
        }
        launched
    }

    /// The template the pod's disk is copied from, if pods have disks here.
    async fn disk_template(&self, spec: &PodSpec) -> Result<Option<PathBuf>, RuntimeError> {
        if !self.has_disks {
            return Ok(None);
        }
        let (root, bytes, inodes) = (self.config.root.clone(), spec.machine.disk_bytes, self.config.limits.scratch_inodes_max);
        blocking("formatting a pod's disk", move || disk::template(&root, bytes, inodes)).await.map(Some)
    }

    /// Releases what a dead pod held, unless a stop is under way: by now its slot may belong to another pod.
    async fn give_back(&self, id: &PodId) -> Result<(), RuntimeError> {
        let Some(lock) = self.pods().lock_of(id) else { return Ok(()) };
        let Ok(_changing) = lock.try_lock() else { return Ok(()) };
        let Some(pod) = self.pods().held_under(id, &lock) else { return Ok(()) };
        blocking("looking after a dead pod", move || pod.give_back()).await
    }

    async fn stop(&self, id: PodId) -> Result<(), RuntimeError> {
        let Some(lock) = self.pods().lock_of(&id) else { return Ok(()) };
        let _changing = lock.lock().await;
        let Some(pod) = self.pods().held_under(&id, &lock) else { return Ok(()) };
        let grace = self.config.limits.stop_grace;
        blocking("stopping the pod", move || pod.stop(grace)).await?;
        self.pods().release(&id);
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // While pods run, the kernel state they need stays for the next process.
        if !self.pods().is_empty() {
            return;
        }
        let removed = [self.guard.remove(), veth::unblock(self.config.subnet), cgroup::remove_empty(&self.config.cgroup())];
        for error in removed.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "runtime shutdown left state in the kernel");
        }
    }
}

/// What pods run in.
struct Chosen {
    vm: Option<VmPlan>,
    /// Why it isn't a virtual machine, if it could have been.
    note: Option<String>,
    has_disks: bool,
}

/// Decides what pods run in; `check` runs the self-check in it, and returns whether pods have disks. What the operator asked for is never
/// lowered; the choice `auto` is, with a warning.
fn choose_isolation(config: &EmbeddedConfig, check: impl Fn(Option<&VmPlan>) -> Result<bool, OpenError>) -> Result<Chosen, OpenError> {
    let in_vm = || -> Result<Chosen, OpenError> {
        let plan = VmPlan::prepare(config)?;
        let has_disks = check(Some(&plan))?;
        Ok(Chosen { vm: Some(plan), note: None, has_disks })
    };
    let in_containers = |note| Ok(Chosen { vm: None, note, has_disks: check(None)? });
    match config.isolation {
        IsolationChoice::Container => in_containers(None),
        IsolationChoice::Vm => in_vm(),
        IsolationChoice::Auto => in_vm().or_else(|error| {
            let cause = error::in_full(&error);
            tracing::warn!(cause, "pods share the host's kernel (pods.isolation, CODIUS_POD_ISOLATION)");
            in_containers(Some(cause))
        }),
    }
}

/// Checks, before there are any pods, that pods are confined here; returns whether they can have disks.
fn self_check(config: &EmbeddedConfig, vm: Option<&VmPlan>, pods_dir: &Path, mut pods: Pods) -> Result<bool, OpenError> {
    let template = probe::template(config);
    let id = probe::id()?;
    let Ok((slot, _)) = pods.reserve(&id, usize::MAX) else {
        tracing::info!("containment self-check skipped: every slot has a running pod");
        return Ok(template.is_some());
    };
    let began = Instant::now();
    let in_memory = || probe::check(&Setup { config, template: None, vm }, pods_dir, slot);
    let checked = probe::check(&Setup { config, template: template.as_deref(), vm }, pods_dir, slot);
    let outcome = match checked {
        Ok(Outcome::NoDisk(cause)) => {
            probe::warn_of_memory(&cause);
            in_memory().map(|_| false)
        }
        Ok(Outcome::DiskFull(cause)) => {
            tracing::warn!(cause, "no disk space for pods: no pod can start (pods.disk, CODIUS_POD_DISK)");
            in_memory().map(|_| true)
        }
        other => other.map(|_| template.is_some()),
    };
    tracing::info!(took_ms = began.elapsed().as_millis(), passed = outcome.is_ok(), "containment self-check finished");
    outcome
}

/// Runs to its end even if the caller doesn't wait.
async fn in_task<T: Send + 'static>(task: impl Future<Output = Result<T, RuntimeError>> + Send + 'static) -> Result<T, RuntimeError> {
    let ended = tokio::spawn(task.in_current_span()).await;
    ended.unwrap_or_else(|panicked| Err(RuntimeError::of_io("running its task", io::Error::other(panicked))))
}

async fn blocking<T: Send + 'static>(operation: &str, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, RuntimeError> {
    let done = spawn_blocking(work).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    done.map_err(|error| RuntimeError::of_io(operation, error))
}

fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn lock_root(root: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(root.join("runtime.lock"))?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?; // earlier versions created it world-readable
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}
