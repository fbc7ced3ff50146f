//! Checks how visitors reach this host, and how it is paid.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use codiusd_net::is_local;
use codiusd_proxy::KeyKind;
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use super::{Finding, NO_POD, visits};
use crate::{
    client::{Payer, read_at_most, resolve},
    config::{Config, IlpChoice},
    error_chain::in_full,
    ready_file::ReadyFile,
};

/// Timeout of network requests.
const PATIENCE: Duration = Duration::from_secs(10);
/// A certificate that expires sooner should have been renewed.
const DAYS_LEFT_MIN: i64 = 14;
const DAY: i64 = 86_400;
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    // The public URI of the host that runs here.
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
            let text = format!("no host is running at {}", config.root.display());
            found.push(Finding::note("host", text, "start it and run the doctor again: codiusd serve, or systemctl start codiusd"));
        }
    }
    found
}

/// The public URI of the host that runs in this directory, from its ready file.
fn running(root: &Path) -> Option<Url> {
    let ready = fs::read(ReadyFile::path(&root.join("run"))).ok()?;
    let ready: Value = serde_json::from_slice(&ready).ok()?;
    // A host that was killed leaves its file behind.
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
        Err(error) if error.kind() == ErrorKind::AddrInUse && runs => Finding::good("ports", format!("{address} is in use by this host")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let remedy = format!("find it (ss -ltnp sport = :{}) and stop it; often nginx or apache", address.port());
            Finding::bad("ports", format!("another program listens at {address}"), remedy)
        }
        Err(error) => Finding::bad(
            "ports",
            format!("{address}: {error}"),
            "use root (or CAP_NET_BIND_SERVICE) and an address of this machine (edge.bind_ip, tls.listen)",
        ),
    }
}

fn certificates(config: &Config, name: &str, is_secure: bool) -> Vec<Finding> {
    let check = "certificate";
    let Some(tls) = &config.tls else {
        let remedy = "set tls.listen and tls.certificates (CODIUS_TLS_LISTEN, CODIUS_TLS_CERTS), unless a proxy in front speaks TLS";
        return is_secure.then(|| Finding::note(check, "visitors use https, and codiusd speaks no TLS", remedy)).into_iter().collect();
    };
    let certificates = match tls.load() {
        Ok(certificates) => certificates,
        Err(error) => {
            return vec![Finding::bad(
                check,
                in_full(&error),
                "provide chain and key as PEM, readable for root (tls.certificates, CODIUS_TLS_CERTS)",
            )];
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let judge = |wanted: &str, asked: &str| {
        let ends = certificates.ends_for(asked);
        if ends.is_empty() {
            let remedy = format!(
                "get a certificate for {name} and *.{name}, such as with certbot certonly --preferred-challenges dns -d {name} -d '*.{name}'"
            );
            return vec![Finding::bad(check, format!("none covers {wanted}"), remedy)];
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
    let remedy = "renew it; codiusd reloads changed files";
    match days {
        ..0 => Finding::bad(check, format!("the one for {wanted} has expired"), remedy),
        0..DAYS_LEFT_MIN => Finding::note(check, format!("the one for {wanted} expires in {days} days"), remedy),
        _ => Finding::good(check, format!("the one for {wanted} is valid for {days} days")),
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
    if addresses.iter().any(|address| matches!(is_local(*address), Ok(Some(true)))) {
        return Finding::good(check, format!("{record} is {text}, this machine"));
    }
    let remedy = "fine if a router or proxy there forwards to this machine; otherwise correct the DNS record";
    Finding::note(check, format!("{record} is {text}, not an address of this machine"), remedy)
}

/// Checks the uplink of a host that doesn't run. A running host is connected already, and reports that itself.
async fn uplink(config: &Config) -> Finding {
    let IlpChoice::Uplink(url) = &config.ilp else {
        return Finding::note("uplink", "embedded: payments are play money", "set uplink.type = \"btp\", with moneyd or uplink.url");
    };
    let remedy = "start moneyd, or set uplink.url to your account at a connector (btp+wss://:secret@host:port)";
    match timeout(PATIENCE, Payer::open(url.clone())).await {
        Ok(Ok(payer)) => {
            let account = payer.account();
            Finding::good("uplink", format!("{} is paid in {} at scale {}", account.address, account.asset_code, account.asset_scale))
        }
        Ok(Err(error)) => Finding::bad("uplink", in_full(&error), remedy),
        Err(_) => Finding::bad("uplink", format!("the connector did not answer within {} s", PATIENCE.as_secs()), remedy),
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
        Err(error) => return Finding::bad("host", format!("no answer: {}", in_full(&error)), "check its log: journalctl -u codiusd"),
    };
    let is = |part: &str| said.get(part).and_then(Value::as_bool);
    if info.get("selfTestSuccess") == Some(&Value::Bool(false)) {
        let text = "the last self-test failed; the host refuses uploads until one passes";
        return Finding::bad("host", text, "the failed step is above, or in its log: journalctl -u codiusd");
    }
    if is("ready") == Some(true) {
        return Finding::good("host", "accepts uploads and serves pods");
    }
    let away: Vec<&str> = ["uplink", "store", "runtime"].into_iter().filter(|part| is(part) != Some(true)).collect();
    let text = if is("draining") == Some(true) { "stopping".to_owned() } else { format!("not ready: {}", away.join(", ")) };
    Finding::bad("host", text, "check its log: journalctl -u codiusd")
}

/// The body of an answer; empty if it is longer than any answer of codiusd.
async fn text(response: Response) -> reqwest::Result<String> {
    Ok(read_at_most(response, ANSWER_MAX).await?.map_or_else(String::new, |body| String::from_utf8_lossy(&body).into_owned()))
}
