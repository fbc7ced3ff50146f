//! Settings, and what they lead to: certificates, names, ports; and whether a host runs.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;
use tokio::time;

use super::Check;
use crate::{
    client::resolve,
    config::{Config, IlpChoice},
    ready::ReadyFile,
    self_test::label,
};

const DAY: i64 = 86_400;
/// A certificate that ends sooner should have been renewed.
const RENEWED_BEFORE: i64 = 14 * DAY;
/// How long a resolver may take.
const RESOLVED_WITHIN: Duration = Duration::from_secs(10);

/// What is read of `ready.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    edge: SocketAddr,
    #[serde(default)]
    tls: Vec<SocketAddr>,
    #[serde(default)]
    ilp: Vec<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) pid: u32,
}

/// Whether a host runs in this directory.
#[derive(Debug)]
pub(super) enum Running {
    Yes(Ready),
    No,
    /// It can't be read.
    Unknown(PathBuf),
}

impl Running {
    pub(super) fn of(root: &Path) -> Self {
        let path = ReadyFile::path(&root.join("run"));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Self::Unknown(path),
            Err(_) => return Self::No,
        };
        // One that was killed has left its file.
        let alive = |ready: &Ready| Path::new("/proc").join(ready.pid.to_string()).exists();
        serde_json::from_slice(&text).ok().filter(alive).map_or(Self::No, Self::Yes)
    }
}

pub(super) fn settings(config: &Config) -> Check {
    let host = config.public_uri.as_ref().map_or("http://localhost", |uri| uri.as_str());
    match &config.public_uri {
        Some(uri) if uri.scheme() == "http" && !config.dev => Check::warn(
            "settings",
            format!("valid; {host} isn't https, so Pay-Tokens travel in clear"),
            "set public_uri to https://..., with tls_listen and tls_certs",
        ),
        _ => Check::ok("settings", format!("valid; the host is {host}")),
    }
}

pub(super) fn certificates(config: &Config) -> Vec<Check> {
    let host = config.public_uri.as_ref().and_then(|uri| uri.host_str()).unwrap_or("localhost");
    let Some(tls) = &config.tls else {
        let secure = config.public_uri.as_ref().is_some_and(|uri| uri.scheme() == "https");
        let what = "codiusd speaks no TLS itself, so a proxy in front must";
        return if secure {
            vec![Check::warn("certificates", what, "set tls_listen and tls_certs, unless there is such a proxy")]
        } else {
            Vec::new()
        };
    };
    let loaded = match tls.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            return vec![Check::fail(
                "certificates",
                error.to_string(),
                "set tls_certs to CERT.pem:KEY.pem that go together and can be read",
            )];
        }
    };
    let described = loaded.described();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let mut checks: Vec<Check> = described.iter().map(|(names, end)| lifetime(names, end - now)).collect();
    let names: Vec<&String> = described.iter().flat_map(|(names, _)| names).collect();
    let pod = format!("pod.{host}");
    let missing: Vec<String> =
        [host, &pod].iter().filter(|name| !names.iter().any(|of| covers(of, name))).map(|name| name.replace("pod.", "*.")).collect();
    checks.push(if missing.is_empty() {
        Check::ok("certificate names", format!("{host} and *.{host}"))
    } else {
        Check::fail("certificate names", format!("none is for {}", missing.join(" and ")), format!("get one for {host} and *.{host}"))
    });
    checks
}

fn lifetime(names: &[String], left: i64) -> Check {
    let name = names.first().map_or("(no name)", String::as_str);
    let remedy = "renew it; codiusd takes up the new files by itself";
    match left {
        _ if left < 0 => Check::fail("certificates", format!("that of {name} has expired"), remedy),
        _ if left < RENEWED_BEFORE => Check::warn("certificates", format!("that of {name} ends in {} days", left / DAY), remedy),
        _ => Check::ok("certificates", format!("that of {name} is good for {} days", left / DAY)),
    }
}

/// Whether a name of a certificate, perhaps a wildcard's, is `name`'s.
fn covers(of: &str, name: &str) -> bool {
    let parent = name.split_once('.').map(|(_, parent)| parent);
    of.eq_ignore_ascii_case(name) || of.strip_prefix("*.").zip(parent).is_some_and(|(of, parent)| of.eq_ignore_ascii_case(parent))
}

/// The host's name, and any below it.
pub(super) async fn dns(config: &Config) -> Vec<Check> {
    let Some(host) = config.public_uri.as_ref().and_then(|uri| uri.host_str()) else {
        return vec![Check::ok("DNS", "not needed: localhost")];
    };
    let mut checks = Vec::new();
    for (shown, asked) in [(host.to_owned(), host.to_owned()), (format!("*.{host}"), format!("{}.{host}", label()))] {
        let found = time::timeout(RESOLVED_WITHIN, resolve(&asked, 0)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        checks.push(match found {
            Ok(found) if !found.is_empty() => leads(&shown, &found),
            Ok(_) => unresolved(&shown, "no address"),
            Err(error) => unresolved(&shown, &error.to_string()),
        });
    }
    checks
}

fn unresolved(name: &str, why: &str) -> Check {
    Check::fail(
        "DNS",
        format!("{name} doesn't resolve ({why})"),
        format!("add the DNS record {name} (A, and AAAA if there is IPv6) that leads to this machine"),
    )
}

fn leads(name: &str, found: &[SocketAddr]) -> Check {
    let all: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
    let others: Vec<&SocketAddr> = found.iter().filter(|address| !is_here(address.ip())).collect();
    if others.is_empty() {
        return Check::ok("DNS", format!("{name} is {}: this machine", all.join(", ")));
    }
    Check::warn(
        "DNS",
        format!("{name} is {}, not only this machine", all.join(", ")),
        "right if a router or a proxy there passes connections on to this machine; otherwise change the record",
    )
}

/// Whether an address is this machine's: only then does the kernel send to it from itself. Nothing is sent.
fn is_here(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let sender = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    sender.is_ok_and(|sender| sender.ip() == address)
}

/// Whether what is to listen can, or does.
pub(super) fn ports(config: &Config, running: &Running) -> Vec<Check> {
    let mut wanted = vec![("port", config.listen)];
    wanted.extend(config.tls.iter().flat_map(|tls| &tls.listen).map(|address| ("tls_listen", *address)));
    if let IlpChoice::Embedded(listen) = &config.ilp {
        wanted.extend(listen.iter().map(|address| ("ilp_listen", *address)));
    }
    wanted.extend(config.admin.map(|address| ("admin_port", address)));
    wanted.into_iter().filter(|(_, address)| address.port() != 0).map(|(key, address)| port(key, address, running)).collect()
}

fn port(key: &str, address: SocketAddr, running: &Running) -> Check {
    if let Running::Yes(ready) = running
        && [ready.edge].iter().chain(&ready.tls).chain(&ready.ilp).chain(&ready.admin).any(|held| *held == address)
    {
        return Check::ok("ports", format!("{key} {address}: codiusd listens (process {})", ready.pid));
    }
    let error = match TcpListener::bind(address) {
        Ok(_) => return Check::ok("ports", format!("{key} {address}: free")),
        Err(error) => error,
    };
    let number = address.port();
    match (error.kind(), running) {
        (io::ErrorKind::AddrInUse, Running::No) if systemd_holds_it() => {
            Check::ok("ports", format!("{key} {address}: systemd holds it (codiusd.socket)"))
        }
        (io::ErrorKind::AddrInUse, Running::Unknown(path)) => Check::warn(
            "ports",
            format!("{key} {address}: taken; whether by codiusd can't be seen ({} can't be read)", path.display()),
            "sudo codiusd doctor",
        ),
        (io::ErrorKind::AddrInUse, _) => Check::fail(
            "ports",
            format!("{key} {address}: another program listens there"),
            format!("stop it (ss -ltnp 'sport = :{number}' says which), or choose another {key}"),
        ),
        (io::ErrorKind::PermissionDenied, _) => {
            Check::skipped("ports", format!("{key} {address}: ports below 1024 need root"), "sudo codiusd doctor")
        }
        (io::ErrorKind::AddrNotAvailable, _) => Check::fail(
            "ports",
            format!("{key} {address}: this machine has no such address"),
            format!("set {key} (and bind_ip) to an address of this machine, or 0.0.0.0"),
        ),
        _ => Check::fail("ports", format!("{key} {address}: {error}"), format!("choose another {key}")),
    }
}

fn systemd_holds_it() -> bool {
    let mut ask = Command::new("systemctl");
    ask.args(["is-active", "--quiet", "codiusd.socket"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    ask.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_for_one_label() {
        for (of, name, expected) in [
            ("codius.example", "codius.example", true),
            ("*.codius.example", "pod.codius.example", true),
            ("*.CODIUS.example", "pod.codius.example", true),
            ("*.example", "codius.example", true),
            ("*.example", "pod.codius.example", false),
            ("codius.example", "pod.codius.example", false),
            ("*.codius.example", "codius.example", false),
        ] {
            assert_eq!(covers(of, name), expected, "{of} {name}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_a_failure_and_a_free_one_is_not() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let found = port("port", address, &Running::No);
        assert_eq!(found.verdict, super::super::Verdict::Fail, "{found:?}");
        let ready = Ready { edge: address, tls: Vec::new(), ilp: Vec::new(), admin: None, pid: 1 };
        assert_eq!(port("port", address, &Running::Yes(ready)).verdict, super::super::Verdict::Ok);
        drop(taken);
        assert_eq!(port("port", address, &Running::No).verdict, super::super::Verdict::Ok);
        assert!(is_here(IpAddr::V4(Ipv4Addr::LOCALHOST)) && !is_here("192.0.2.1".parse().unwrap()));
    }
}
