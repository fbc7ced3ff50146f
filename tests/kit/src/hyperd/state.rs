//! What the daemon knows: pods, containers, images; and what of it survives the daemon.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    answer::Refusal,
    cli::Options,
    clock,
    images::{Images, Stored},
    logs::{Bounds, Log},
    machine::Machine,
    net::{self, Nic},
};

/// All of it.
#[derive(Debug, Default)]
pub(super) struct State {
    pub images: Images,
    /// Pods that are listed.
    pub pods: BTreeMap<String, Pod>,
    /// Pods whose machine had gone when the daemon started: listed only by the next daemon.
    pub unlisted: Vec<Pod>,
    /// Pods that are being deleted.
    pub leaving: Vec<Pod>,
    /// All containers, also those that no pod has any more.
    pub containers: BTreeMap<String, Container>,
    /// Containers of `leaving`; their names are free.
    pub leaving_containers: BTreeMap<String, Container>,
    /// Incarnations of pods that boot for the first time.
    pub booting: BTreeSet<u64>,
    pub next_incarnation: u64,
    /// What the last pod asked for is what those get that ask for nothing.
    pub bounds: Bounds,
    /// Last octet of the address that was handed out last; each daemon begins anew, and knows of no address of the time before.
    pub last_address: u8,
}

/// How a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its first machine isn't ready, or its containers aren't made.
    Creating,
    Running,
    Paused,
    /// Has no machine.
    #[default]
    Stopped,
}

/// A pod.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pod {
    pub id: String,
    pub vcpu: i64,
    pub memory: i64,
    pub created_at: i64,
    /// Containers' names, its from the first moment.
    pub names: Vec<String>,
    /// Containers' ids.
    pub containers: Vec<String>,
    /// The interface that was asked for; hyperd makes one up if there is none.
    #[serde(default)]
    pub interface: Option<Nic>,
    /// The machine it has, and the interface of that.
    pub machine: Option<(String, Nic)>,
    #[serde(skip)]
    pub live: Live,
}

/// What of a pod is forgotten with the daemon.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub phase: Phase,
    /// Tells this pod from an earlier one with its id.
    pub incarnation: u64,
    pub machine: Option<Arc<Machine>>,
    /// The machine that is shown: its first.
    pub shown_machine: Option<String>,
    /// The address that is shown: its first.
    pub shown_address: Option<String>,
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Container {
    pub id: String,
    pub name: String,
    pub image: String,
    pub image_id: String,
    pub workdir: String,
    /// As the pod has it; empty if it has none.
    pub asked_command: Vec<String>,
    pub command: Vec<String>,
    pub envs: Vec<(String, String)>,
    /// Whose folder its log is in, and how much of that is kept.
    pub pod: String,
    pub bounds: Bounds,
    /// It belonged to an earlier pod.
    pub adopted: bool,
    pub program: Option<PathBuf>,
    pub created_at: i64,
    #[serde(skip)]
    pub status: Status,
    /// The machine hasn't said yet that it is started.
    #[serde(skip)]
    pub starting: bool,
    /// Waits in `write()`, as nobody reads its output.
    #[serde(skip)]
    pub stalled: bool,
    #[serde(skip)]
    pub log: Option<Arc<Log>>,
}

/// How a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Status {
    #[default]
    Pending,
    Running {
        started: String,
    },
    Ended {
        started: String,
        finished: String,
        end: End,
    },
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Code(i32),
    Signal(i32),
}

impl End {
    /// As `/exitcode` has it.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl Container {
    pub(super) fn running(&self) -> bool {
        matches!(self.status, Status::Running { .. })
    }

    /// It runs from now on.
    pub(super) fn started(&mut self) {
        self.status = Status::Running { started: clock::now() };
        self.starting = true;
        if let Some(log) = &self.log {
            log.started();
        }
    }

    /// It has ended, if it ran.
    pub(super) fn ended(&mut self, end: End) {
        if let Status::Running { started } = &self.status {
            self.status = Status::Ended { started: started.clone(), finished: clock::now(), end };
            (self.starting, self.stalled) = (false, false);
            if let Some(log) = &self.log {
                log.ended();
            }
        }
    }
}

/// What is kept in a file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved<P = Vec<Pod>, C = Vec<Container>, I = Stored> {
    pub images: I,
    pub pods: P,
    pub containers: C,
}

fn file(dir: &Path) -> PathBuf {
    dir.join("state.json")
}

impl Saved {
    /// What an earlier daemon kept.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        match fs::read(file(dir)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", file(dir).display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", file(dir).display())),
        }
    }
}

impl State {
    /// Keeps what is to survive, whole or not at all.
    pub(super) fn save(&self, dir: &Path) {
        let made = self.pods.values().filter(|pod| pod.live.phase != Phase::Creating);
        let saved = Saved {
            images: &self.images.stored,
            pods: self.unlisted.iter().chain(&self.leaving).chain(made).collect::<Vec<_>>(),
            containers: self.leaving_containers.values().chain(self.containers.values()).collect::<Vec<_>>(),
        };
        let next = dir.join("state.next");
        let text = serde_json::to_vec(&saved).unwrap_or_default();
        if let Err(error) = fs::write(&next, text).and_then(|()| fs::rename(&next, file(dir))) {
            eprintln!("hyperd: keep {}: {error}", file(dir).display());
        }
    }

    /// The pod, if it is still the same.
    pub(super) fn same(&mut self, id: &str, incarnation: u64) -> Option<&mut Pod> {
        self.pods.get_mut(id).filter(|pod| pod.live.incarnation == incarnation)
    }

    /// A container by id, whatever has become of its pod.
    pub(super) fn container(&mut self, id: &str) -> Option<&mut Container> {
        self.leaving_containers.get_mut(id).or_else(|| self.containers.get_mut(id))
    }

    /// A container of a pod that is listed, by name, id, or the unique beginning of an id.
    pub(super) fn find_container(&self, name: &str) -> Option<(&Pod, &Container)> {
        let all = || {
            let of_pod = |pod| move |id: &String| Some((pod, self.containers.get(id)?));
            self.pods.values().flat_map(move |pod: &Pod| pod.containers.iter().filter_map(of_pod(pod)))
        };
        all().find(|(_, container)| container.name == name || container.id == name).or_else(|| {
            let mut alike = all().filter(|(_, container)| !name.is_empty() && container.id.starts_with(name));
            alike.next().filter(|_| alike.next().is_none())
        })
    }

    /// The create that the last address was handed out for has failed.
    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        if self.last_address == address.octets()[3] {
            self.last_address -= 1;
        }
    }

    /// An interface as nobody has asked for: its address is the next one, whoever has that already. A pod that ends gives none back.
    pub(super) fn next_nic(&mut self, options: &Options, machine: &str) -> Result<Nic, Refusal> {
        let next = self.last_address.max(1) + 1;
        if next > net::last_address(options.prefix) {
            return Err(Refusal::new("no available ip addresses on network"));
        }
        self.last_address = next;
        Ok(Nic::allocated(machine, &options.bridge, options.network, options.prefix, next))
    }
}

/// How long the daemon waits for things that only take long when something is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
