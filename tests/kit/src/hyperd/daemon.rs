//! The daemon: started, found again what an earlier one left, ended.
//!
//! ```text
//! SIGTERM, SIGINT   machines ended, socket file removed
//! SIGHUP            machines run on, socket file removed
//! SIGKILL           machines run on, socket file stays
//! ```

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    cli::Options,
    clock,
    faults::Faults,
    frames::Event,
    images::Images,
    logs::Log,
    machine::Machine,
    net, pods, registry, rootfs, server,
    state::{End, Phase, Saved, State, Status},
};

/// What the double says when it can be used.
pub(super) const LISTENING: &str = "hyperd is listening";

/// How long after its containers a machine that has gone is listed.
const LINGERS: Duration = Duration::from_millis(800);

/// The machine that all of this runs on.
#[derive(Debug)]
pub(super) struct Host {
    pub cores: i64,
    pub memory_kib: i64,
    pub address: IpAddr,
}

impl Host {
    fn look() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = memory.and_then(|line| line.split_whitespace().next()?.parse().ok());
        // Never so many that 64 for a pod aren't too many.
        let cores = std::thread::available_parallelism().map_or(1, |cores| i64::try_from(cores.get().min(63)).unwrap_or(1));
        // Nothing is sent: connecting only chooses the address.
        let socket = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()));
        Self { cores, memory_kib: kib.unwrap_or_default(), address: socket.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip()) }
    }
}

/// The daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    pub options: Options,
    pub host: Host,
    pub faults: Faults,
    random: Mutex<StdRng>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Daemon {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for a certain state.
    pub(super) fn changed(&self) {
        self.changed.send_replace(());
    }

    pub(super) fn save(&self) {
        self.state().save(&self.options.dir);
    }

    /// Waits until the state is such, or `within` has passed.
    pub(super) async fn wait(&self, within: Option<Duration>, mut is: impl FnMut(&mut State) -> bool) {
        let deadline = within.map(|within| Instant::now() + within);
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if is(&mut self.state()) {
                return;
            }
            let late = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = late => return,
            }
        }
    }

    /// A machine says something.
    pub(super) fn heard(&self, event: Event) {
        match event {
            Event::Line { container, stream, text } => {
                let log = self.state().container(&container).and_then(|container| container.log.clone());
                if let Some(log) = log {
                    log.add(stream, text);
                }
            }
            Event::Started { container } => {
                if let Some(container) = self.state().container(&container) {
                    container.starting = false;
                }
                self.changed();
            }
            Event::Stalled { container } => {
                if let Some(container) = self.state().container(&container) {
                    container.stalled = true;
                }
            }
            Event::Exited { container, code, signal } => {
                if let Some(container) = self.state().container(&container) {
                    container.ended(code.map_or_else(|| End::Signal(signal.unwrap_or_default()), End::Code));
                }
                self.changed();
            }
            Event::Greeting { .. } => {}
        }
    }

    /// Whether something happens that does in so many cases of a hundred.
    pub(super) fn chance(&self, percent: u8) -> bool {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).random_range(0..100) < percent
    }

    /// Whether a machine that has gone is one that somebody still wanted.
    fn is_missed(&self, name: &str) -> bool {
        let state = self.state();
        state.pods.values().any(|pod| pod.live.machine.as_ref().is_some_and(|machine| machine.name == name))
    }

    /// A machine has gone, maybe without being asked to.
    pub(super) async fn machine_gone(&self, name: &str) {
        if self.is_missed(name) && self.chance(self.options.dying_crashes) {
            eprintln!("panic: send on closed channel");
            std::process::abort();
        }
        let lingers = {
            let mut state = self.state();
            let State { pods, containers, .. } = &mut *state;
            let pod = pods.values().find(|pod| pod.live.machine.as_ref().is_some_and(|machine| machine.name == name));
            pod.inspect(|pod| pods::lose_containers(pod, containers)).is_some()
        };
        if lingers {
            // The pod is listed as running meanwhile.
            self.changed();
            tokio::time::sleep(self.options.scaled(LINGERS)).await;
        }
        let machine = {
            let mut state = self.state();
            let State { pods, containers, leaving, leaving_containers, .. } = &mut *state;
            for pod in leaving.iter_mut().filter(|pod| pod.machine.as_ref().is_some_and(|(machine, _)| machine == name)) {
                pods::lose_containers(pod, leaving_containers);
            }
            let pod = pods.values_mut().find(|pod| pod.live.machine.as_ref().is_some_and(|machine| machine.name == name));
            pod.and_then(|pod| {
                let machine = pod.live.machine.clone();
                pods::lose_machine(pod, containers);
                machine
            })
        };
        if let Some(machine) = machine {
            self.save();
            self.changed();
            machine.unplug().await;
        }
    }
}

/// Runs a daemon to its end.
pub(super) fn run(options: Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| format!("start tokio: {error}"))?;
    let done = runtime.block_on(serve(options));
    runtime.shutdown_background();
    done
}

async fn serve(mut options: Options) -> Result<(), String> {
    for below in ["Pods", "machines", "roots"] {
        let dir = options.dir.join(below);
        fs::create_dir_all(&dir).map_err(|error| format!("create {}: {error}", dir.display()))?;
    }
    options.dir = fs::canonicalize(&options.dir).map_err(|error| format!("{}: {error}", options.dir.display()))?;
    rootfs::make_bin(&options.dir).map_err(|error| format!("make the images: {error}"))?;
    net::make_bridge(&options.bridge, options.network, options.prefix)?;
    let caught = |kind| signal(kind).map_err(|error| format!("catch a signal: {error}"));
    let (mut terminate, mut interrupt) = (caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?);
    let mut hangup = caught(SignalKind::hangup())?;
    let daemon = Arc::new(Daemon {
        host: Host::look(),
        faults: Faults::new(&options.dir, options.boot),
        random: Mutex::new(StdRng::seed_from_u64(options.seed)),
        state: Mutex::new(State::default()),
        changed: watch::Sender::new(()),
        options,
    });
    restore(&daemon).await?;
    let socket = &daemon.options.socket;
    // A daemon that was killed leaves it.
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(|error| format!("listen on {}: {error}", socket.display()))?;
    println!("{LISTENING}");
    let ends_machines = tokio::select! {
        () = server::serve(daemon.clone(), listener) => true,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        _ = hangup.recv() => false,
    };
    let _ = fs::remove_file(socket);
    if ends_machines {
        end_machines(&daemon).await;
    }
    Ok(())
}

async fn end_machines(daemon: &Daemon) {
    let mut machines = Vec::new();
    for pod in daemon.state().pods.values_mut() {
        machines.extend(pod.live.machine.take());
        (pod.machine, pod.live.phase) = (None, if pod.live.phase == Phase::Creating { Phase::Creating } else { Phase::Stopped });
    }
    for machine in machines {
        machine.kill().await;
    }
    daemon.save();
}

/// Finds what an earlier daemon left: machines are connected to again, the rest is stopped.
async fn restore(daemon: &Arc<Daemon>) -> Result<(), String> {
    let saved = Saved::read(&daemon.options.dir)?;
    {
        let mut state = daemon.state();
        state.images = Images { known: registry::known(&daemon.options.images), registries_down: false, stored: saved.images };
        for mut container in saved.containers {
            container.log = Some(Log::open(&daemon.options.dir, &container.pod, &container.id, container.bounds.clone()));
            state.containers.insert(container.id.clone(), container);
        }
    }
    for mut pod in saved.pods {
        let is_chatty = pod.containers.iter().any(|id| {
            let state = daemon.state();
            state.containers.get(id).and_then(|container| container.log.as_ref()).is_some_and(|log| log.is_chatty())
        });
        let attached = match &pod.machine {
            Some((name, nic)) => match Machine::attach(daemon, name, nic.clone()).await {
                Ok((machine, _)) if is_chatty && daemon.chance(daemon.options.chatty_lost) => {
                    machine.kill().await;
                    Some(Err(format!("machine {name} was lost when it was found again")))
                }
                attached => Some(attached),
            },
            None => None,
        };
        let mut state = daemon.state();
        state.next_incarnation += 1;
        pod.live.incarnation = state.next_incarnation;
        match attached {
            Some(Ok((machine, (running, stalled)))) => {
                pod.live.phase = Phase::Running;
                pod.live.shown_machine = Some(machine.name.clone());
                pod.live.shown_address = Some(machine.nic.cidr());
                pod.live.machine = Some(machine);
                for id in running {
                    if let Some(container) = state.containers.get_mut(&id) {
                        container.status = Status::Running { started: clock::now() };
                        container.stalled = stalled.contains(&id);
                    }
                }
                state.pods.insert(pod.id.clone(), pod);
            }
            Some(Err(error)) => {
                eprintln!("hyperd: {error}");
                pod.machine = None;
                state.unlisted.push(pod);
            }
            None => {
                state.pods.insert(pod.id.clone(), pod);
            }
        }
    }
    daemon.save();
    Ok(())
}
