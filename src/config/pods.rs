//! Settings of pods: images, disks, network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use codiusd_runtime::{
    embedded::{Accelerator, IsolationChoice, ScratchLimit},
    image::{RegistryConfig, RegistryCredential},
    network::NetworkRules,
};

use super::{
    ConfigError, parse,
    source::Settings,
    units::{parse_megabits, parse_size},
};

/// Least disk space for images, in bytes: less is too small for useful images.
const IMAGE_DISK_MIN: u64 = 1 << 30;
/// Linux's limit on the name of an interface.
const INTERFACE_CHARS_MAX: usize = 15;

pub(super) fn registries(settings: &Settings) -> Result<RegistryConfig, ConfigError> {
    let below = "host, host:port or host/path, separated by commas";
    let credentials = settings.optional(
        "images.credentials",
        "a table such as { \"ghcr.io\" = \"user:password\" } (in the environment the same as JSON)",
        parse_logins,
    )?;
    Ok(RegistryConfig {
        allow: settings.list("images.allow", below, parse_registry_path)?,
        deny: settings.list("images.deny", below, parse_registry_path)?,
        insecure: settings.list("images.insecure", "host:port, separated by commas", parse_registry)?,
        private: settings.list("images.private", "host or host:port, separated by commas", parse_registry)?,
        credentials: credentials.unwrap_or_default(),
    })
}

fn parse_registry(text: &str) -> Option<String> {
    let port = text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
    (port && !text.contains(['/', '@', ' '])).then(|| text.to_owned())
}

fn parse_registry_path(text: &str) -> Option<String> {
    let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
    parse_registry(host).filter(|host| !host.is_empty())?;
    path.is_none_or(|path| !path.is_empty() && !path.ends_with('/') && !path.contains(['@', ' '])).then(|| text.to_owned())
}

fn parse_logins(text: &str) -> Option<Vec<RegistryCredential>> {
    let logins: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    let login = |(registry, login): (String, String)| {
        let (username, password) = login.split_once(':')?;
        // Image references name it docker.io.
        let registry = if registry == "docker.io" { "index.docker.io".to_owned() } else { parse_registry(&registry)? };
        Some(RegistryCredential { registry, username: username.to_owned(), password: password.to_owned() })
    };
    logins.into_iter().map(login).collect()
}

pub(super) fn parse_image_disk(text: &str) -> Option<u64> {
    parse_size(text).filter(|bytes| *bytes >= IMAGE_DISK_MIN)
}

pub(super) fn parse_pod_disk(text: &str) -> Option<ScratchLimit> {
    match text {
        "own" => Some(ScratchLimit::Disk),
        "memory" => Some(ScratchLimit::Memory),
        _ => None,
    }
}

pub(super) fn parse_isolation(text: &str) -> Option<IsolationChoice> {
    match text {
        "auto" => Some(IsolationChoice::Auto),
        "vm" => Some(IsolationChoice::Vm),
        "container" => Some(IsolationChoice::Container),
        _ => None,
    }
}

pub(super) fn parse_accelerator(text: &str) -> Option<Accelerator> {
    match text {
        "kvm" => Some(Accelerator::Kvm),
        "tcg" => Some(Accelerator::Tcg),
        _ => None,
    }
}

/// Rejects loopback addresses: in a pod they mean the pod itself.
fn parse_name_server(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok().filter(|server: &Ipv4Addr| !server.is_loopback() && !server.is_unspecified())
}

pub(super) fn network(settings: &Settings) -> Result<NetworkRules, ConfigError> {
    let number = |name: &'static str| settings.get(name, "a number from 1 to 1000000", parse_count);
    Ok(NetworkRules {
        egress_private: settings.get("pods.egress_private", "allow or reject", |text| match text {
            "allow" => Some(true),
            "reject" => Some(false),
            _ => None,
        })?,
        blocked: settings.list(
            "pods.blocked_ports",
            "ports such as tcp/445, udp/6881-6889, in:tcp/22 or out:udp/123, separated by commas",
            parse,
        )?,
        nameservers: settings.list("pods.dns", "IPv4 addresses pods can reach, separated by commas", parse_name_server)?,
        host_ports: settings.list("pods.host_ports", "ports such as tcp/7768, separated by commas", parse)?,
        connections_max: number("pods.connections")?,
        connections_per_second: number("pods.connections_per_second")?,
        bytes_per_second: settings.get("pods.bandwidth", "unlimited, or a rate from 1Mbit/s to 30000Mbit/s", parse_bandwidth)?,
    })
}

fn parse_count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| (1..=1_000_000).contains(count))
}

/// In bytes per second; 0: unlimited.
fn parse_bandwidth(text: &str) -> Option<u32> {
    if text == "unlimited" {
        return Some(0);
    }
    parse_megabits(text).filter(|megabits| *megabits <= 30_000).map(|megabits| megabits * 125_000)
}

/// Empty for no bridge. An empty variable counts as not set, so `none` stands for it.
pub(super) fn parse_bridge(text: &str) -> Option<String> {
    let named = !matches!(text, "." | "..");
    let fits =
        named && text.len() <= INTERFACE_CHARS_MAX && !text.contains(|character: char| character == '/' || !character.is_ascii_graphic());
    fits.then(|| if text == "none" { String::new() } else { text.to_owned() })
}
