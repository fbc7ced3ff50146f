//! Settings of what pods are made of and where they lead: images, disks, network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use codiusd_runtime::{
    embedded::ScratchLimit,
    image::{RegistryConfig, RegistryCredential},
    network::NetworkRules,
};

use super::{ConfigError, parse, source::Settings};

/// Less disk space for images holds none that is worth running, in bytes.
const IMAGE_DISK_MIN: u64 = 1 << 30;
/// Linux's limit on the name of an interface.
const INTERFACE_CHARS_MAX: usize = 15;

pub(super) fn registries(settings: &Settings) -> Result<RegistryConfig, ConfigError> {
    let below = "host, host:port or host/path, separated by commas";
    let credentials = settings.optional("registry_credentials", "JSON such as {\"ghcr.io\":\"user:password\"}", parse_logins)?;
    Ok(RegistryConfig {
        allow: settings.list("registries_allow", below, parse_registry_path)?,
        deny: settings.list("registries_deny", below, parse_registry_path)?,
        insecure: settings.list("insecure_registries", "host:port, separated by commas", parse_registry)?,
        private: settings.list("registries_private", "host or host:port, separated by commas", parse_registry)?,
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
        // References say docker.io, and mean this one.
        let registry = if registry == "docker.io" { "index.docker.io".to_owned() } else { parse_registry(&registry)? };
        Some(RegistryCredential { registry, username: username.to_owned(), password: password.to_owned() })
    };
    logins.into_iter().map(login).collect()
}

/// A number and its unit.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1_u64 << 30)]
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(*unit)
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

/// Not one on the host's loopback: for a pod that is its own.
fn parse_name_server(text: &str) -> Option<Ipv4Addr> {
    text.parse().ok().filter(|server: &Ipv4Addr| !server.is_loopback() && !server.is_unspecified())
}

pub(super) fn network(settings: &Settings) -> Result<NetworkRules, ConfigError> {
    let number = |name: &'static str| settings.get(name, "a number from 1 to 1000000", parse_count);
    Ok(NetworkRules {
        egress_private: settings.get("egress_private", "allow or reject", |text| match text {
            "allow" => Some(true),
            "reject" => Some(false),
            _ => None,
        })?,
        blocked: settings.list(
            "block_ports",
            "ports such as tcp/445, udp/6881-6889, in:tcp/22 or out:udp/123, separated by commas",
            parse,
        )?,
        nameservers: settings.list("pod_dns", "IPv4 addresses pods can reach, separated by commas", parse_name_server)?,
        host_ports: settings.list("pod_host_ports", "ports such as tcp/7768, separated by commas", parse)?,
        connections_max: number("pod_connections")?,
        connections_per_second: number("pod_connections_per_second")?,
        bytes_per_second: settings.get("pod_bandwidth", "megabits per second from 1 to 30000, or 0 for no bound", parse_megabits)?,
    })
}

fn parse_count(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| (1..=1_000_000).contains(count))
}

/// As bytes a second.
fn parse_megabits(text: &str) -> Option<u32> {
    let megabits = text.parse::<u32>().ok().filter(|megabits| *megabits <= 30_000)?;
    Some(megabits * 125_000)
}

/// Empty for none. A variable that is empty isn't set, so there is a word for it.
pub(super) fn parse_bridge(text: &str) -> Option<String> {
    let named = !matches!(text, "." | "..");
    let fits =
        named && text.len() <= INTERFACE_CHARS_MAX && !text.contains(|character: char| character == '/' || !character.is_ascii_graphic());
    fits.then(|| if text == "none" { String::new() } else { text.to_owned() })
}
