//! How the world reaches this host, and how it is paid.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use codiusd_own::is_own;
use codiusd_proxy::KeyKind;
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use super::{Finding, NO_POD, visits};
use crate::{
    causes::in_full,
    client::{Purse, read_at_most, resolve},
    config::{Config, IlpChoice},
    ready::ReadyFile,
};

/// How long anything may take that goes through the network.
const PATIENCE: Duration = Duration::from_secs(10);
/// A certificate that ends sooner should have been renewed.
const DAYS_LEFT_MIN: i64 = 14;
const DAY: i64 = 86_400;
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    // Where visitors reach the host that runs here.
    let running = running(&config.root);
    let mut found: Vec<Finding> = addresses(config).into_iter().map(|address| port(address, running.is_some())).collect();
    let uri = running.clone().or_else(|| config.public_uri.clone());
    if let Some(name) = uri.as_ref().and_then(Url::domain) {
        found.extend(certificates(config, name, uri.as_ref().is_some_and(|uri| uri.scheme() == "https")));
        found.extend([resolves("names", name).await, resolves("names of pods", &format!("{NO_POD}.{name}")).await]);
    }
    match running {
        Some(uri) => {
            found.extend(visits::examine(&config.root, &uri, config.self_test.is_some()).await);
            found.push(readiness(&config.root).await);
        }
        None => {
            found.push(uplink(config).await);
            let text = format!("none runs in {}", config.root.display());
            found.push(Finding::note("host", text, "start it, and ask again: codiusd serve, or systemctl start codiusd"));
        }
    }
    found
}

/// Where visitors reach the host that runs in this directory, as it says itself.
fn running(root: &Path) -> Option<Url> {
    let ready = fs::read(ReadyFile::path(&root.join("run"))).ok()?;
    let ready: Value = serde_json::from_slice(&ready).ok()?;
    // One that was killed has left its file.
    let runs = Path::new("/proc").join(ready.get("pid")?.to_string()).exists();
    runs.then(|| ready.get("publicUri")?.as_str()?.parse().ok())?
}

fn addresses(config: &Config) -> Vec<SocketAddr> {
    let tls = config.tls.iter().flat_map(|tls| tls.listen.iter().copied());
    [config.listen].into_iter().chain(tls).filter(|address| address.port() != 0).collect()
}

fn port(address: SocketAddr, runs: bool) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::good("ports", format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && runs => Finding::good("ports", format!("{address} is the host's")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let remedy = format!("see who has it (ss -ltnp sport = :{}) and stop it: often an nginx or apache from before", address.port());
            Finding::bad("ports", format!("another program listens at {address}"), remedy)
        }
        Err(error) => Finding::bad(
            "ports",
            format!("{address}: {error}"),
            "root (or CAP_NET_BIND_SERVICE), and an address of this machine (CODIUS_BIND_IP, CODIUS_TLS_LISTEN)",
        ),
    }
}

fn certificates(config: &Config, name: &str, is_secure: bool) -> Vec<Finding> {
    let check = "certificate";
    let Some(tls) = &config.tls else {
        let remedy = "unless a proxy in front of it does: set tls_listen and tls_certs (CODIUS_TLS_LISTEN, CODIUS_TLS_CERTS)";
        return is_secure.then(|| Finding::note(check, "visitors come by https, and codiusd speaks no TLS", remedy)).into_iter().collect();
    };
    let certificates = match tls.load() {
        Ok(certificates) => certificates,
        Err(error) => {
            return vec![Finding::bad(check, in_full(&error), "certificate and key as PEM, readable for root (CODIUS_TLS_CERTS)")];
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let judge = |wanted: &str, asked: &str| {
        let ends = certificates.ends_for(asked);
        if ends.is_empty() {
            let remedy = format!(
                "a certificate for {name} and *.{name}: such as certbot certonly --preferred-challenges dns -d {name} -d '*.{name}'"
            );
            return vec![Finding::bad(check, format!("none is for {wanted}"), remedy)];
        }
        let several = ends.len() > 1;
        let of_kind = |(kind, end): (KeyKind, i64)| {
            let wanted = if several { format!("{wanted} ({})", kind.name()) } else { wanted.to_owned() };
            judge_end(check, &wanted, (end - now).div_euclid(DAY))
        };
        ends.into_iter().map(of_kind).collect()
    };
    [judge(name, name), judge(&format!("*.{name}"), &format!("{NO_POD}.{name}"))].concat()
}

fn judge_end(check: &'static str, wanted: &str, days: i64) -> Finding {
    let remedy = "renew it; the new files are taken up as they come";
    match days {
        ..0 => Finding::bad(check, format!("that for {wanted} has expired"), remedy),
        0..DAYS_LEFT_MIN => Finding::note(check, format!("that for {wanted} ends in {days} days"), remedy),
        _ => Finding::good(check, format!("that for {wanted} is good for {days} days")),
    }
}

async fn resolves(check: &'static str, name: &str) -> Finding {
    let (_, parent) = name.split_once('.').unwrap_or_default();
    let record = if name.starts_with(NO_POD) { format!("*.{parent}") } else { name.to_owned() };
    let found = timeout(PATIENCE, resolve(name, 0)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    let addresses: Vec<IpAddr> = match found {
        Ok(found) => found.iter().map(SocketAddr::ip).collect(),
        Err(error) => {
            let remedy = format!("add the DNS record: {record}. A <this machine's public address>");
            return Finding::bad(check, format!("{record} doesn't resolve: {error}"), remedy);
        }
    };
    let text = addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    if addresses.iter().any(|address| matches!(is_own(*address), Ok(Some(true)))) {
        return Finding::good(check, format!("{record} is {text}, this machine"));
    }
    let remedy = "fine if a router or proxy there leads here; otherwise correct the DNS record";
    Finding::note(check, format!("{record} is {text}, which isn't an address of this machine"), remedy)
}

/// What a host that doesn't run would be paid by. One that runs is connected already, and says so itself.
async fn uplink(config: &Config) -> Finding {
    let IlpChoice::Uplink(url) = &config.ilp else {
        return Finding::note("uplink", "embedded: whoever connects pays with play money", "ilp = uplink, with moneyd or ILP_CREDENTIALS");
    };
    let remedy = "start moneyd, or give the connector as ILP_CREDENTIALS={\"server\":\"btp+wss://:secret@host:port\"}";
    match timeout(PATIENCE, Purse::open(url.clone())).await {
        Ok(Ok(purse)) => {
            let account = purse.account();
            Finding::good("uplink", format!("{} is paid in {} at scale {}", account.address, account.asset_code, account.asset_scale))
        }
        Ok(Err(error)) => Finding::bad("uplink", in_full(&error), remedy),
        Err(_) => Finding::bad("uplink", format!("the connector says nothing for {} s", PATIENCE.as_secs()), remedy),
    }
}

async fn readiness(root: &Path) -> Finding {
    let client = Client::builder().unix_socket(root.join("run/control.sock")).timeout(PATIENCE).build();
    let asked = async {
        let client = client?;
        let parts = text(client.get("http://localhost/readyz").send().await?).await?;
        Ok::<_, reqwest::Error>((parts, text(client.get("http://localhost/info").send().await?).await?))
    };
    let (said, info): (Value, Value) = match asked.await {
        Ok((parts, info)) => (serde_json::from_str(&parts).unwrap_or_default(), serde_json::from_str(&info).unwrap_or_default()),
        Err(error) => return Finding::bad("host", format!("it doesn't answer: {}", in_full(&error)), "see its log: journalctl -u codiusd"),
    };
    let is = |part: &str| said.get(part).and_then(Value::as_bool);
    if info.get("selfTestSuccess") == Some(&Value::Bool(false)) {
        let text = "its last self-test wasn't passed: until it has passed one, it takes no uploads";
        return Finding::bad("host", text, "what failed is above, or in its log: journalctl -u codiusd");
    }
    if is("ready") == Some(true) {
        return Finding::good("host", "it takes uploads and serves pods");
    }
    let away: Vec<&str> = ["uplink", "store", "runtime"].into_iter().filter(|part| is(part) != Some(true)).collect();
    let text = if is("draining") == Some(true) { "it is stopping".to_owned() } else { format!("it isn't ready: {}", away.join(", ")) };
    Finding::bad("host", text, "see its log: journalctl -u codiusd")
}

/// A body; nothing of one that is no answer of ours.
async fn text(response: Response) -> reqwest::Result<String> {
    Ok(read_at_most(response, ANSWER_MAX).await?.map_or_else(String::new, |body| String::from_utf8_lossy(&body).into_owned()))
}
