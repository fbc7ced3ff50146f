//! What has to be tried: the uplink, a container, and the self-test of a host that runs.

use std::{error::Error, time::Duration};

use codiusd_ilp::btp::client::{BtpLink, BtpUrl};
use codiusd_runtime::{EmbeddedRuntime, HyperdConfig, HyperdRuntime, Runtime, RuntimeError, embedded};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{Check, Verdict, host::Running};
use crate::{
    app::{StartError, pods as runtimes},
    client::{Operator, OperatorError},
    cmd::demo::choose_subnet,
    config::{Config, IlpChoice, RuntimeChoice},
};

/// How long a self-test may take, and one before it that goes on.
const SELF_TEST_WITHIN: Duration = Duration::from_secs(300);

/// Whether the connector answers. One that a running host is connected to isn't asked again: with the same credentials that would end
/// the host's connection.
pub(super) async fn uplink(config: &Config, running: &Running) -> Check {
    let uplink = match &config.ilp {
        IlpChoice::Embedded(_) if config.dev => return Check::ok("uplink", "not needed: the embedded connector, with play money"),
        IlpChoice::Embedded(_) => {
            return Check::warn(
                "uplink",
                "the embedded connector settles nothing: whoever connects pays with play money",
                "set ilp to uplink, and ilp_credentials",
            );
        }
        IlpChoice::Uplink(uplink) => uplink.clone(),
    };
    if let Running::Yes(_) = running {
        return of_the_host(config).await;
    }
    // Moneyd gives an account to whoever has a secret.
    let url = uplink.map_or_else(|| format!("btp+ws://:{:032x}@localhost:7768", rand::random::<u128>()).parse::<BtpUrl>(), Ok);
    let answered = async {
        let link = BtpLink::connect(&url?).await?;
        let account = link.account().await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(account)
    };
    match answered.await {
        Ok(account) => {
            Check::ok("uplink", format!("paid to {} in {}, {} decimal places", account.address, account.asset_code, account.asset_scale))
        }
        Err(error) => Check::fail("uplink", causes(error.as_ref()), "start the connector (moneyd), or set ilp_credentials right"),
    }
}

async fn of_the_host(config: &Config) -> Check {
    match Operator::of(&config.root) {
        Ok(host) => match host.see("/status").await {
            Ok(status) => match status["assetCode"].as_str() {
                Some(asset) => Check::ok("uplink", format!("the host is connected, and paid in {asset}")),
                None => Check::fail(
                    "uplink",
                    "the host has no Interledger connection",
                    "start the connector (moneyd), or set ilp_credentials right; the host's log says why",
                ),
            },
            Err(error) => Check::fail("uplink", causes(&error), "look into the host's log"),
        },
        Err(OperatorError::NoListener) => {
            Check::skipped("uplink", "the host that runs can't be asked", "set admin_api = true, and start it again")
        }
        Err(error) => Check::skipped("uplink", causes(&error), "sudo codiusd doctor"),
    }
}

/// Whether pods can be run: a container is made and looked at, as at every start, in a place and network of its own.
pub(super) async fn pods(config: &Config, running: &Running, is_root: bool) -> Check {
    match (&config.runtime, running) {
        (RuntimeChoice::Noop, _) => {
            Check::warn("runtime", "noop: uploads are charged, and nothing runs", "set runtime to embedded or hyperd, unless this is a lab")
        }
        (RuntimeChoice::Hyperd(socket), _) => {
            let hyperd = HyperdRuntime::new(HyperdConfig::new(socket.clone()), &prometheus::Registry::new());
            let ready = match hyperd {
                Ok(hyperd) => hyperd.ready().await.map_err(|error| causes(&error)),
                Err(error) => Err(error.to_string()),
            };
            match ready {
                Ok(()) => Check::ok("runtime", format!("hyperd answers at {}", socket.display())),
                Err(why) => Check::fail("runtime", why, "start hyperd, or set hyper_socket right; it needs root"),
            }
        }
        (RuntimeChoice::Embedded, Running::Yes(_)) => {
            Check::ok("runtime", "embedded: the host that runs has looked at a container at its start")
        }
        (RuntimeChoice::Embedded, _) if !is_root => Check::needs_root("runtime"),
        (RuntimeChoice::Embedded, _) => match try_container(config.clone()).await {
            Ok(()) => Check::ok("runtime", "embedded: a container is confined as it should be"),
            Err(error) => {
                Check::fail("runtime", causes(&error), "the checks above say what is missing; a kernel of a distribution has all of it")
            }
        },
    }
}

async fn try_container(config: Config) -> Result<(), StartError> {
    let work = move || {
        embedded::check_privileges()?;
        let place = std::env::temp_dir().join(format!("codiusd-doctor-{:016x}", rand::random::<u64>()));
        let (subnet, claim) = choose_subnet(&place)?;
        let config = Config { root: place.clone(), pod_subnet: subnet, self_test: None, ..config };
        drop(claim);
        let opened = EmbeddedRuntime::open(runtimes::embedded(&config)).map(drop);
        // It holds nothing that is used any more.
        let _ = std::fs::remove_dir_all(&place);
        Ok(opened?)
    };
    let lost = |error| RuntimeError::Unavailable { operation: "trying a container".to_owned(), source: Some(Box::new(error)) };
    spawn_blocking(work).await.map_err(|error| StartError::Runtime(lost(error)))?
}

/// A line for each step.
pub(super) async fn self_test(config: &Config, running: &Running) -> Vec<Check> {
    let name = "self-test";
    match running {
        Running::No => return vec![Check::skipped(name, "no host runs here", "start it (codiusd serve), then run this again")],
        Running::Unknown(path) => return vec![Check::skipped(name, format!("{} can't be read", path.display()), "sudo codiusd doctor")],
        Running::Yes(ready) if ready.admin.is_none() => {
            return vec![Check::skipped(name, "the host that runs can't be asked", "set admin_api = true, and start it again")];
        }
        Running::Yes(_) => {}
    }
    if config.self_test.is_none() {
        return vec![Check::warn(
            name,
            "off: nobody has looked whether visitors reach this host",
            "set self_test to on, unless this is a lab",
        )];
    }
    let asked = async { Operator::of(&config.root)?.tell_within("/self-test", &json!({}), SELF_TEST_WITHIN).await };
    match asked.await {
        Ok(report) => report["steps"].as_array().map(|steps| steps.iter().map(step).collect()).unwrap_or_default(),
        Err(error) => vec![Check::fail(name, causes(&error), "look into the host's log; start it again if its settings have changed")],
    }
}

fn step(step: &Value) -> Check {
    let text = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let verdict = match step["result"].as_str() {
        Some("ok") => Verdict::Ok,
        Some("skipped") => Verdict::Skipped,
        _ => Verdict::Fail,
    };
    let remedy = step["remedy"].as_str().map(str::to_owned);
    Check::of(&format!("self-test {}", text("step")), verdict, text("what"), remedy)
}

/// An error with its causes, in one line.
fn causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = source.source();
    }
    line
}
