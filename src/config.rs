//! Settings: a file and the environment, read into one typed value.
//!
//! Every key stands once, in the table of [`keys`]; the environment wins over the file, the file over the default. A bad
//! value is one line that names the key, the value and what would be right. Values of secret keys are never shown.

pub mod keys;
pub mod limits;
mod peers;
mod pods;
mod self_test;
mod source;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use codiusd_control::{
    factor::Factor,
    machines::Machines,
    pay::CostPerMonth,
    peers::{PeerUri, Rhythm},
};
use codiusd_ilp::btp::client::BtpUrl;
use codiusd_proxy::{AccessFormat, AccessLog, CertificateError, CertificateFiles, Certificates, Network};
use codiusd_runtime::{embedded::ScratchLimit, image::RegistryConfig, network::NetworkRules};
use tracing_subscriber::filter::{LevelFilter, Targets};
use url::Url;

use limits::FrontDoor;
pub(crate) use peers::reach;
pub use self_test::SelfTestChoice;
pub use source::Settings;

/// Where the file is looked for if none is named.
pub const DEFAULT_FILE: &str = "/etc/codius/codiusd.toml";

/// What a share of something is written as.
const FRACTION: &str = "a decimal number above 0 and up to 1, such as 0.75";

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("config file {path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A value is missing or wrong.
    #[error("{origin}{}: {right}", .value.as_ref().map(|value| format!(" = {value:?}")).unwrap_or_default())]
    Value {
        /// Key, and where it was set.
        origin: String,
        /// The value, unless it is missing; a secret one is `(hidden)`.
        value: Option<String>,
        /// What would be right.
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

/// How the host is paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IlpChoice {
    /// As a child of a connector; none: the local moneyd, with a secret of our own.
    Uplink(Option<BtpUrl>),
    /// By a connector of its own, which settles nothing.
    Embedded(Vec<SocketAddr>),
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsChoice {
    /// Where.
    pub listen: Vec<SocketAddr>,
    /// With which certificates.
    pub certificates: Vec<CertificateFiles>,
    /// Whether plain HTTP leads there.
    pub redirect: bool,
    /// How long browsers are told to use nothing but https, in seconds.
    pub hsts_seconds: u32,
}

impl TlsChoice {
    /// Reads the certificates.
    pub fn load(&self) -> Result<Arc<Certificates>, CertificateError> {
        Certificates::load(self.certificates.clone()).map(Arc::new)
    }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// An object per line.
    Json,
    /// A line to read.
    Text,
}

/// A private IPv4 network (RFC 1918, or RFC 6598's shared one), as `10.200.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its first address.
    pub address: std::net::Ipv4Addr,
    /// Leading bits all its addresses share, 8 to 30.
    pub prefix: u8,
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let (address, prefix): (std::net::Ipv4Addr, u8) = (address.parse().map_err(|_| ())?, prefix.parse().map_err(|_| ())?);
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let ours = address.is_private() || (u32::from(address) & 0xffc0_0000 == 0x6440_0000);
        if !ours || !(8..=30).contains(&prefix) || u32::from(address) & host_bits != 0 { Err(()) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// All settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Development: defaults that need nothing else, on this machine only.
    pub dev: bool,
    /// Where the front door listens.
    pub listen: SocketAddr,
    /// How it speaks TLS; none: it doesn't.
    pub tls: Option<TlsChoice>,
    /// Where visitors reach this host; none: localhost, at the port that is bound.
    pub public_uri: Option<Url>,
    /// Where everything is kept.
    pub root: PathBuf,
    /// What a small pod costs for a month.
    pub cost_per_month: CostPerMonth,
    /// The sizes of pods that are sold.
    pub machines: Machines,
    /// The pods' share of the machine's memory.
    pub max_memory_fraction: Factor,
    /// How full the disk may get.
    pub max_disk_fraction: Factor,
    /// Virtual processors for each of the machine's.
    pub cpu_overcommit: Factor,
    /// Longest run time bought at once, in seconds.
    pub duration_max: NonZeroU32,
    /// What runs pods.
    pub runtime: RuntimeChoice,
    /// How the host is paid.
    pub ilp: IlpChoice,
    /// Directories with OCI layouts whose images may be named `local/NAME@sha256:...`.
    pub image_layouts: Vec<PathBuf>,
    /// Registries, and how they are used.
    pub registries: RegistryConfig,
    /// Disk space for images, in bytes.
    pub image_disk: u64,
    /// What pods write to.
    pub pod_disk: ScratchLimit,
    /// What pods may send to whom, and who resolves names for them.
    pub network: NetworkRules,
    /// The bridge hyperd's pods are on, which gets the network policy; empty: it gets none.
    pub hyper_bridge: String,
    /// Where hyperd keeps a folder for each pod's log.
    pub hyper_logs: PathBuf,
    /// Whether pods can't write to their file systems.
    pub pod_read_only: bool,
    /// Addresses of pods.
    pub pod_subnet: Subnet,
    /// How the host tests itself before it takes uploads; none: it doesn't.
    pub self_test: Option<SelfTestChoice>,
    /// Whether pods are stopped when codiusd ends, rather than adopted by the next one.
    pub stop_pods_at_exit: bool,
    /// Other hosts to begin with.
    pub bootstrap_peers: Vec<PeerUri>,
    /// Other hosts that are known, at most.
    pub peers_max: u16,
    /// Whether everybody is told how many pods run, and which hosts are known.
    pub additional_host_info: bool,
    /// How often they are asked and looked at.
    pub peers_rhythm: Rhythm,
    /// Where the operator's listener is; none: there is none.
    pub admin: Option<SocketAddr>,
    /// Whether its metrics are everybody's to see.
    pub public_metrics: bool,
    /// Proxies in front of this host, whose word on clients is believed.
    pub trusted_proxies: Vec<Network>,
    /// Listeners whose connections begin with a PROXY protocol header.
    pub proxy_protocol: Vec<SocketAddr>,
    /// What the front door bears.
    pub front_door: FrontDoor,
    /// Where requests are logged; none: nowhere.
    pub access_log: Option<AccessLog>,
    /// What is logged.
    pub log: Targets,
    /// How it is.
    pub log_format: LogFormat,
}

impl Config {
    /// Reads the settings. `file` must exist if it is named; the default file needn't.
    pub fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        Self::from_settings(&Settings::read(file, environment)?)
    }

    /// Makes sense of the settings.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConfigError> {
        let dev = settings.get("dev", "true or false", parse_bool)?;
        let port = settings.get("port", "a port number from 0 (any free one) to 65535", parse)?;
        let bind_ip: IpAddr = settings.get("bind_ip", "an IP address such as 127.0.0.1 or 0.0.0.0", parse)?;
        let public_uri = settings.optional(
            "public_uri",
            "an http:// or https:// URI with a host name, as visitors see it, without user, query and fragment",
            parse_public_uri,
        )?;
        if public_uri.is_none() && !dev {
            return Err(settings.missing("public_uri", "set it to the URI visitors reach this host at, such as https://codius.example.com"));
        }
        let duration = "a number of seconds from 1 to 4294967295";
        let (listen, tls) = (SocketAddr::new(bind_ip, port), tls(settings)?);
        let trusted_proxies: Vec<Network> =
            settings.list("trusted_proxies", "networks such as 127.0.0.1/32, separated by commas", parse)?;
        let self_test = self_test::choice(settings, dev, public_uri.as_ref())?;
        Ok(Self {
            dev,
            listen,
            proxy_protocol: proxy_protocol(settings, listen, tls.as_ref(), &trusted_proxies)?,
            front_door: limits::front_door(settings)?,
            tls,
            public_uri,
            root: settings.root()?,
            cost_per_month: settings.get(
                "cost_per_month",
                "a decimal number of 0 or more with at most 18 digits, such as 10 or 0.25",
                parse,
            )?,
            machines: settings.get(
                "machines",
                "sizes such as medium cpus=2 memory=1GiB disk=2GiB price=1.9, separated by commas, each name once; the price of small is 1",
                parse,
            )?,
            max_memory_fraction: settings.get("max_memory_fraction", FRACTION, parse_fraction)?,
            max_disk_fraction: settings.get("max_disk_fraction", FRACTION, parse_fraction)?,
            cpu_overcommit: settings.get("cpu_overcommit", "a decimal number from 1 to 1000, such as 4 or 1.5", |text| {
                parse(text).filter(|factor| *factor >= Factor::ONE)
            })?,
            duration_max: settings.get("duration_max", duration, parse)?,
            runtime: runtime(settings)?,
            ilp: ilp(settings, dev)?,
            image_layouts: settings.list("image_layouts", "absolute paths, separated by colons", parse_path)?,
            registries: pods::registries(settings)?,
            image_disk: settings.get("image_disk", "a size of at least 1GiB, such as 40GiB", pods::parse_image_disk)?,
            pod_disk: settings.get("pod_disk", "own or memory", pods::parse_pod_disk)?,
            network: pods::network(settings)?,
            hyper_bridge: settings.get("hyper_bridge", "name of a network interface, or none", pods::parse_bridge)?,
            hyper_logs: settings.get("hyper_logs", "an absolute path", parse_path)?,
            pod_read_only: settings.get("pod_read_only", "true or false", parse_bool)?,
            pod_subnet: settings.get("pod_subnet", "a private IPv4 network such as 10.200.0.0/16", parse)?,
            self_test,
            stop_pods_at_exit: settings.get("stop_pods_at_exit", "true or false", parse_bool)?,
            bootstrap_peers: peers::bootstrap(settings, dev)?,
            peers_max: settings.get("peers_max", "a number from 0 to 65535", parse)?,
            additional_host_info: settings.get("additional_host_info", "true or false", parse_bool)?,
            peers_rhythm: peers::rhythm(settings, dev)?,
            admin: admin(settings)?,
            public_metrics: settings.get("public_metrics", "true or false", parse_bool)?,
            trusted_proxies,
            access_log: access_log(settings)?,
            log: settings.get("log", "a level (off, error, warn, info, debug, trace), or module=level separated by commas", parse_log)?,
            log_format: settings.get("log_format", "text or json", parse_log_format)?,
        })
    }

    /// What a key that has no default of its own comes to.
    fn chosen(&self, key: &str) -> Option<String> {
        match key {
            "ilp" => Some(if matches!(self.ilp, IlpChoice::Embedded(_)) { "embedded" } else { "uplink" }.to_owned()),
            "public_uri" if self.listen.port() != 0 => Some(format!("http://localhost:{}", self.listen.port())),
            "runtime" => {
                let name = match self.runtime {
                    RuntimeChoice::Embedded => "embedded",
                    RuntimeChoice::Hyperd(_) => "hyperd",
                    RuntimeChoice::Noop => "noop",
                };
                Some(name.to_owned())
            }
            "self_test" => Some(if self.self_test.is_some() { "on" } else { "off" }.to_owned()),
            _ => None,
        }
    }
}

/// The environment of this process. What isn't UTF-8 fits no key, or is refused as its value.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
}

/// `ILP_CREDENTIALS`, as `codius` and `ilp-fetch` write it: JSON with the URL of a connector.
pub fn credentials(text: &str) -> Option<BtpUrl> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    json.get("server")?.as_str()?.parse().ok()
}

/// The runtime that is named, or the one whose settings are there.
fn runtime(settings: &Settings) -> Result<RuntimeChoice, ConfigError> {
    let socket = settings.get("hyper_socket", "an absolute path", parse_path)?;
    let noop = settings.get("hyper_noop", "true or false", parse_bool)?;
    let named = settings.optional("runtime", "embedded, hyperd or noop", |text| match text {
        "embedded" => Some(RuntimeChoice::Embedded),
        "hyperd" => Some(RuntimeChoice::Hyperd(socket.clone())),
        "noop" => Some(RuntimeChoice::Noop),
        _ => None,
    })?;
    Ok(named.unwrap_or_else(|| match (noop, settings.is_set("hyper_socket")) {
        (true, _) => RuntimeChoice::Noop,
        (false, true) => RuntimeChoice::Hyperd(socket),
        (false, false) => RuntimeChoice::Embedded,
    }))
}

fn tls(settings: &Settings) -> Result<Option<TlsChoice>, ConfigError> {
    let listen = settings.list("tls_listen", "addresses such as 0.0.0.0:443,[::]:443", parse)?;
    let files = "CERT.pem:KEY.pem, both absolute paths, separated by commas";
    let certificates = settings.list("tls_certs", files, parse_certificate)?;
    let redirect = settings.get("http_redirect", "true or false", parse_bool)?;
    let hsts_seconds = settings.get("hsts_seconds", "a number of seconds from 0 to 4294967295", parse)?;
    if listen.is_empty() && (redirect || !certificates.is_empty()) {
        return Err(settings.missing("tls_listen", "certificates and redirects to https need an address such as 0.0.0.0:443"));
    }
    if certificates.is_empty() && !listen.is_empty() {
        return Err(settings.missing("tls_certs", "TLS needs a certificate, as CERT.pem:KEY.pem (codiusd certs dev makes one to try with)"));
    }
    Ok((!listen.is_empty()).then_some(TlsChoice { listen, certificates, redirect, hsts_seconds }))
}

/// A header that anybody may send would name a new client each time.
fn proxy_protocol(
    settings: &Settings,
    listen: SocketAddr,
    tls: Option<&TlsChoice>,
    trusted: &[Network],
) -> Result<Vec<SocketAddr>, ConfigError> {
    let listens = |address: &SocketAddr| *address == listen || tls.is_some_and(|tls| tls.listen.contains(address));
    let right = "addresses the front door listens on (bind_ip:port, or in tls_listen), separated by commas";
    let addresses = settings.list("proxy_protocol", right, |text| parse(text).filter(listens))?;
    if !addresses.is_empty() && trusted.is_empty() {
        return Err(settings.missing("trusted_proxies", "proxy_protocol needs the networks of the proxies that may speak it"));
    }
    Ok(addresses)
}

fn ilp(settings: &Settings, dev: bool) -> Result<IlpChoice, ConfigError> {
    let credentials = settings.optional(
        "ilp_credentials",
        "JSON such as {\"server\":\"btp+ws://:secret@localhost:7768\"}, with a btp+ws:// or btp+wss:// URL",
        credentials,
    )?;
    let listen = settings.list("ilp_listen", "addresses such as 127.0.0.1:7768,[::1]:7768", parse)?;
    let embedded = settings.optional("ilp", "uplink or embedded", |text| match text {
        "embedded" => Some(true),
        "uplink" => Some(false),
        _ => None,
    })?;
    // Credentials are for an uplink: who gives some wants one.
    let embedded = embedded.unwrap_or_else(|| dev && credentials.is_none());
    if embedded && listen.is_empty() {
        return Err(settings.missing("ilp_listen", "the embedded connector needs an address such as 127.0.0.1:7768"));
    }
    Ok(if embedded { IlpChoice::Embedded(listen) } else { IlpChoice::Uplink(credentials) })
}

fn access_log(settings: &Settings) -> Result<Option<AccessLog>, ConfigError> {
    let format = settings.get("access_log_format", "text or json", |text| match text {
        "json" => Some(AccessFormat::Json),
        "text" => Some(AccessFormat::Text),
        _ => None,
    })?;
    let sample = settings.get("access_log_sample", "a number from 1 to 4294967295", parse)?;
    let place = settings.optional("access_log", "an absolute path, or stdout", |text| match text {
        "stdout" => Some(None),
        path => parse_path(path).map(Some),
    })?;
    Ok(place.map(|file| AccessLog { file, format, sample }))
}

/// On this machine only: it has no password.
fn admin(settings: &Settings) -> Result<Option<SocketAddr>, ConfigError> {
    let port = settings.get("admin_port", "a port number from 0 (any free one) to 65535", parse)?;
    let wanted = settings.get("admin_api", "true or false", parse_bool)?;
    Ok(wanted.then_some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn parse_fraction(text: &str) -> Option<Factor> {
    parse(text).filter(|factor| *factor <= Factor::ONE)
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

fn parse_certificate(text: &str) -> Option<CertificateFiles> {
    let (chain, key) = text.split_once(':')?;
    Some(CertificateFiles { chain: parse_path(chain)?, key: parse_path(key)? })
}

fn parse_public_uri(text: &str) -> Option<Url> {
    let uri: Url = text.parse().ok()?;
    let named = matches!(uri.host(), Some(url::Host::Domain(_)));
    let plain = uri.username().is_empty() && uri.password().is_none() && uri.query().is_none() && uri.fragment().is_none();
    (named && plain && matches!(uri.scheme(), "http" | "https")).then_some(uri)
}

/// A bare word is a level, and not a module of which everything is logged. No module has a space in its name.
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
