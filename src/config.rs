//! Settings: a file and the environment, read into one typed value.
//!
//! Every key is defined once, in the table of [`keys`]; the environment overrides the file, the file overrides the default. An error is
//! one line that names file and line, key, value and what is expected. Values of secret keys are never shown.

mod edge;
pub mod key;
pub mod keys;
pub mod kind;
pub mod limits;
mod peers;
mod pods;
mod self_test;
mod source;
pub(crate) mod units;
mod uplink;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
};

use codiusd_control::{
    factor::Factor,
    money::CostPerMonth,
    peers::{PeerUri, Rhythm},
    pod_sizes::PodSizes,
};
use codiusd_net::{Cidr, Ipv4Cidr};
use codiusd_proxy::AccessLog;
use codiusd_runtime::{
    embedded::{Accelerator, IsolationChoice, ScratchLimit},
    image::RegistryConfig,
    network::NetworkRules,
};
use tracing_subscriber::filter::{LevelFilter, Targets};
use url::Url;

pub use edge::TlsChoice;
use limits::EdgeLimits;
pub(crate) use peers::reach;
pub use self_test::SelfTestChoice;
pub use source::Settings;
pub use uplink::{IlpChoice, credentials};

/// The settings file if none is named.
pub const DEFAULT_FILE: &str = "/etc/codius/codiusd.toml";

/// Maximum number of threads of a kind.
const THREADS_MAX: usize = 1024;
/// Format of a fraction, for errors.
const FRACTION: &str = "a decimal number above 0 and up to 1, such as 0.75";

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A value is missing.
    #[error("{path} ({variable}) is not set: {remedy}")]
    Missing {
        /// Key in the file.
        path: &'static str,
        /// Variable in the environment.
        variable: &'static str,
        /// What to do.
        remedy: String,
    },
    /// A file with a secret can't be read.
    #[error("{origin} = {path:?}: {problem}")]
    Secret {
        /// Key, and where it was set.
        origin: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A secret is set both directly and as a file.
    #[error("{one} and {other} are both set: keep one")]
    Twice {
        /// One of them.
        one: String,
        /// The other.
        other: String,
    },
    /// A value is wrong.
    #[error("{origin} = {value:?}: must be {right}")]
    Value {
        /// Key, and where it was set.
        origin: String,
        /// The value; a secret one is `(hidden)`.
        value: String,
        /// What is expected.
        right: String,
    },
}

/// What runs pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// Containers, by this process.
    Embedded,
    /// Virtual machines, by hyperd at this socket.
    Hyperd(PathBuf),
    /// Nothing: uploads are accepted and charged, and no pod runs.
    Noop,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// An object per line.
    Json,
    /// Human-readable lines.
    Text,
}

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Development mode: complete defaults, on this machine only.
    pub dev: bool,
    /// Where the edge listens.
    pub listen: SocketAddr,
    /// TLS at the edge; none: plain HTTP only.
    pub tls: Option<TlsChoice>,
    /// Where visitors reach this host; none: localhost, at the edge's port.
    pub public_uri: Option<Url>,
    /// The host's directory.
    pub root: PathBuf,
    /// What a small pod costs for a month.
    pub cost_per_month: CostPerMonth,
    /// The sizes of pods that are sold.
    pub pod_sizes: PodSizes,
    /// The pods' share of the machine's memory.
    pub max_memory_fraction: Factor,
    /// The highest used fraction of the disk.
    pub max_disk_fraction: Factor,
    /// Virtual processors per processor of the machine.
    pub cpu_overcommit: Factor,
    /// Longest run time bought at once, in seconds.
    pub duration_max: NonZeroU32,
    /// What runs pods.
    pub runtime: RuntimeChoice,
    /// How the host is paid.
    pub ilp: IlpChoice,
    /// Directories with OCI layouts whose images may be named `local/NAME@sha256:...`.
    pub image_layouts: Vec<PathBuf>,
    /// Registries and their settings.
    pub registries: RegistryConfig,
    /// Disk space for images, in bytes.
    pub image_disk: u64,
    /// Where pods' writable layers are: on disk or in memory.
    pub pod_disk: ScratchLimit,
    /// The network policy of pods, and their name servers.
    pub network: NetworkRules,
    /// The bridge of hyperd's pods, which the network policy applies to; empty: no policy.
    pub hyper_bridge: String,
    /// Where hyperd keeps a folder for each pod's log.
    pub hyper_logs: PathBuf,
    /// What pods run in.
    pub pod_isolation: IsolationChoice,
    /// Where the kernel of virtual machines is.
    pub guest_kernel: PathBuf,
    /// What executes virtual machines.
    pub vm_accelerator: Accelerator,
    /// Whether pods' file systems are read-only.
    pub pod_read_only: bool,
    /// Addresses of pods.
    pub pod_subnet: Ipv4Cidr,
    /// The self-test that a host has to pass before it accepts uploads; none: it is off.
    pub self_test: Option<SelfTestChoice>,
    /// Whether pods are stopped when codiusd ends, rather than adopted by the next one.
    pub stop_pods_at_exit: bool,
    /// Other hosts that are known from the start.
    pub bootstrap_peers: Vec<PeerUri>,
    /// Maximum number of other hosts that are remembered.
    pub peers_max: u16,
    /// Whether the number of running pods and the known hosts are public.
    pub additional_host_info: bool,
    /// How often other hosts are queried and checked.
    pub peers_rhythm: Rhythm,
    /// Address of the operator's listener; none: it is off.
    pub admin: Option<SocketAddr>,
    /// Whether metrics without money are public.
    pub public_metrics: bool,
    /// Proxies in front of this host that are trusted to identify clients.
    pub trusted_proxies: Vec<Cidr>,
    /// Listeners whose connections begin with a PROXY protocol header.
    pub proxy_protocol: Vec<SocketAddr>,
    /// Limits of the edge.
    pub edge_limits: EdgeLimits,
    /// Threads for plain HTTP, and as many for TLS.
    pub edge_threads: usize,
    /// Threads of the control plane.
    pub control_threads: usize,
    /// Where requests are logged; none: they aren't.
    pub access_log: Option<AccessLog>,
    /// The log filter.
    pub log: Targets,
    /// The log format.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads the settings. `file` must exist if it is named; the default file needn't.
    pub fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        Self::from_settings(&Settings::read(file, environment)?)
    }

    /// Parses the settings.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let dev = settings.get("dev", "true or false", parse_bool)?;
        let port = settings.get("edge.port", "a port number from 0 (any free one) to 65535", parse)?;
        let bind_ip: IpAddr = settings.get("edge.bind_ip", "an IP address such as 127.0.0.1 or 0.0.0.0", parse)?;
        let public_uri = settings.optional(
            "public_uri",
            "an http:// or https:// URI with a host name, as visitors see it, without user, query and fragment",
            parse_public_uri,
        )?;
        if public_uri.is_none() && !dev {
            return Err(settings.missing("public_uri", "set it to the URI visitors reach this host at, such as https://codius.example.com"));
        }
        let (listen, tls) = (SocketAddr::new(bind_ip, port), edge::tls(settings)?);
        let trusted_proxies: Vec<Cidr> =
            settings.list("edge.trusted_proxies", "networks such as 127.0.0.1/32, separated by commas", parse)?;
        let self_test = self_test::choice(settings, dev, public_uri.as_ref())?;
        Ok(Self {
            dev,
            listen,
            proxy_protocol: edge::proxy_protocol(settings, listen, tls.as_ref(), &trusted_proxies)?,
            edge_limits: limits::edge_limits(settings)?,
            tls,
            public_uri,
            root: settings.root()?,
            cost_per_month: settings.get(
                "pricing.cost_per_month",
                "a decimal number of 0 or more with at most 18 digits, such as 10 or 0.25",
                parse,
            )?,
            pod_sizes: settings.get(
                "pod_size",
                "sizes with name, cpus, memory, disk and price, each name once, small at price 1; in the environment medium cpus=2 memory=1GiB disk=2GiB price=1.9",
                parse,
            )?,
            max_memory_fraction: settings.get("capacity.memory_fraction", FRACTION, parse_fraction)?,
            max_disk_fraction: settings.get("capacity.disk_fraction", FRACTION, parse_fraction)?,
            cpu_overcommit: settings.get("capacity.cpu_overcommit", "a decimal number from 1 to 1000, such as 4 or 1.5", |text| {
                parse(text).filter(|factor| *factor >= Factor::ONE)
            })?,
            duration_max: settings.get("pricing.duration_max", "a duration of whole seconds, such as 1h or 365d", parse_whole_seconds)?,
            runtime: runtime(settings)?,
            ilp: uplink::ilp(settings, dev)?,
            image_layouts: settings.list("images.layouts", "absolute paths, in an array (in the environment separated by colons)", parse_path)?,
            registries: pods::registries(settings)?,
            image_disk: settings.get("images.disk", "a size of at least 1GiB, such as 40GiB", pods::parse_image_disk)?,
            pod_disk: settings.get("pods.disk", "own or memory", pods::parse_pod_disk)?,
            network: pods::network(settings)?,
            hyper_bridge: settings.get("hyperd.bridge", "name of a network interface, or none", pods::parse_bridge)?,
            hyper_logs: settings.get("hyperd.logs", "an absolute path", parse_path)?,
            pod_isolation: settings.get("pods.isolation", "auto, vm or container", pods::parse_isolation)?,
            guest_kernel: settings.get("pods.guest_kernel", "an absolute path", parse_path)?,
            vm_accelerator: settings.get("pods.vm_accelerator", "kvm, or tcg for tests", pods::parse_accelerator)?,
            pod_read_only: settings.get("pods.read_only", "true or false", parse_bool)?,
            pod_subnet: settings.get("pods.subnet", "a private IPv4 network such as 10.200.0.0/16", parse_pod_subnet)?,
            self_test,
            stop_pods_at_exit: settings.get("runtime.stop_pods_at_exit", "true or false", parse_bool)?,
            bootstrap_peers: peers::bootstrap(settings, dev)?,
            peers_max: settings.get("peers.max", "a number from 0 to 65535", parse)?,
            additional_host_info: settings.get("api.additional_host_info", "true or false", parse_bool)?,
            peers_rhythm: peers::rhythm(settings, dev)?,
            admin: admin(settings)?,
            public_metrics: settings.get("api.public_metrics", "true or false", parse_bool)?,
            trusted_proxies,
            edge_threads: settings.get("edge.threads", "a number from 0 to 1024", edge::parse_threads)?,
            control_threads: settings.get("api.threads", "a number from 1 to 1024", |text| {
                parse(text).filter(|threads| (1..=THREADS_MAX).contains(threads))
            })?,
            access_log: edge::access_log(settings)?,
            log: settings.get("log.filter", "a level (off, error, warn, info, debug, trace), or module=level separated by commas", parse_log)?,
            log_format: settings.get("log.format", "text or json", parse_log_format)?,
        })
    }

    /// The effective value of a key without a default.
    fn chosen(&self, key: &str) -> Option<String> {
        match key {
            "uplink.type" => Some(if matches!(self.ilp, IlpChoice::Embedded(_)) { "embedded" } else { "btp" }.to_owned()),
            "public_uri" if self.listen.port() != 0 => Some(format!("http://localhost:{}", self.listen.port())),
            "runtime.type" => {
                let name = match self.runtime {
                    RuntimeChoice::Embedded => "embedded",
                    RuntimeChoice::Hyperd(_) => "hyperd",
                    RuntimeChoice::Noop => "noop",
                };
                Some(name.to_owned())
            }
            "self_test.enabled" => Some(self.self_test.is_some().to_string()),
            _ => None,
        }
    }
}

/// The environment of this process. A name that isn't UTF-8 is skipped; such a value is converted, and rejected when it is parsed.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

/// The runtime that is named, or the one whose settings are present.
fn runtime(settings: &Settings) -> Result<RuntimeChoice, ConfigError> {
    let socket = settings.get("hyperd.socket", "an absolute path", parse_path)?;
    let noop = settings.get("hyperd.noop", "true or false", parse_bool)?;
    let named = settings.optional("runtime.type", "embedded, hyperd or noop", |text| match text {
        "embedded" => Some(RuntimeChoice::Embedded),
        "hyperd" => Some(RuntimeChoice::Hyperd(socket.clone())),
        "noop" => Some(RuntimeChoice::Noop),
        _ => None,
    })?;
    Ok(named.unwrap_or_else(|| match (noop, settings.is_set("hyperd.socket")) {
        (true, _) => RuntimeChoice::Noop,
        (false, true) => RuntimeChoice::Hyperd(socket),
        (false, false) => RuntimeChoice::Embedded,
    }))
}

/// The admin listener is on loopback only: it has no password.
fn admin(settings: &Settings) -> Result<Option<SocketAddr>, ConfigError> {
    let port = settings.get("admin.port", "a port number from 0 (any free one) to 65535", parse)?;
    let wanted = settings.get("admin.enabled", "true or false", parse_bool)?;
    Ok(wanted.then_some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn parse_seconds(text: &str) -> Option<u32> {
    units::parse_duration(text).filter(|time| time.subsec_nanos() == 0)?.as_secs().try_into().ok()
}

fn parse_whole_seconds(text: &str) -> Option<NonZeroU32> {
    parse_seconds(text).and_then(NonZeroU32::new)
}

fn parse_fraction(text: &str) -> Option<Factor> {
    parse(text).filter(|factor| *factor <= Factor::ONE)
}

/// Pods have private addresses; the longest prefix leaves room for a few addresses.
fn parse_pod_subnet(text: &str) -> Option<Ipv4Cidr> {
    parse(text).filter(|network: &Ipv4Cidr| network.is_private() && (8..=30).contains(&network.prefix))
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn parse_path(text: &str) -> Option<PathBuf> {
    let whole = !text.contains(['\0', char::REPLACEMENT_CHARACTER]);
    Some(PathBuf::from(text)).filter(|path| whole && path.is_absolute())
}

fn parse_public_uri(text: &str) -> Option<Url> {
    let uri: Url = text.parse().ok()?;
    let named = matches!(uri.host(), Some(url::Host::Domain(_)));
    let plain = uri.username().is_empty() && uri.password().is_none() && uri.query().is_none() && uri.fragment().is_none();
    (named && plain && matches!(uri.scheme(), "http" | "https")).then_some(uri)
}

/// A bare word must be a level: `Targets` would read any other as a module that logs everything. Module names have no spaces.
pub(crate) fn parse_log(text: &str) -> Option<Targets> {
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let suits = |part: &str| if part.contains('=') { !part.contains(char::is_whitespace) } else { is_level(part) };
    text.split(',').map(str::trim).all(suits).then(|| text.parse().ok())?
}

fn parse_log_format(text: &str) -> Option<LogFormat> {
    match text {
        "json" => Some(LogFormat::Json),
        "text" => Some(LogFormat::Text),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
