//! `codiusd status|pods|bans|stop|ban|unban|drain|undrain|log`: what the operator of a running host asks and tells it.

mod shown;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};
use url::Url;

use super::{failure, usage};
use crate::{
    client::{Operator, OperatorError},
    config::{self, ConfigError, Settings},
};

/// Which host, and how it is answered.
#[derive(Debug, Args)]
pub(super) struct HostArgs {
    /// The host's listener for operators, such as http://127.0.0.1:3001; without it that of the host of CODIUS_ROOT
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    admin: Option<Url>,
    /// Settings file; without it /etc/codius/codiusd.toml is read if it exists. Every key may also be an environment variable
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the answer as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The pod's manifest hash
    hash: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
pub(super) struct WhatArgs {
    /// A manifest hash; or an image: its digest (sha256:..., name@sha256:...), or its repository without a tag
    what: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
pub(super) struct BanArgs {
    #[command(flatten)]
    what: WhatArgs,
    /// Also stop what runs of it; without this it runs to its end, and can't be extended
    #[arg(long)]
    stop: bool,
}

/// What follows the arguments in the help of `codiusd log`.
pub(super) const LOG_HELP: &str = "\
A module's level holds for all whose names begin like it; where several do, the longest counts. What nothing holds for is off.
  codiusd_proxy    the front door          codiusd_ilp      payments
  codiusd_control  uploads, pods, peers    codiusd_runtime  containers, images, networks

Examples:
  codiusd log                                      what is logged now
  codiusd log warn,codiusd=info                    what goes wrong anywhere, and what codiusd does
  codiusd log info,codiusd_ilp=debug               also why connections of payers end
  codiusd log info,codiusd_control::peers=debug    also why other hosts aren't believed

The next start of the host reads the setting `log` again.";

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// A level (off, error, warn, info, debug, trace), levels of modules (module=level), or both, separated by commas
    filter: Option<String>,
    #[command(flatten)]
    host: HostArgs,
}

/// The listener speaks plain HTTP, to this machine.
fn parse_url(text: &str) -> Result<Url, String> {
    let url: Option<Url> = text.parse().ok();
    url.filter(|url| url.scheme() == "http" && url.has_host()).ok_or_else(|| format!("{text:?} isn't a URL such as http://127.0.0.1:3001"))
}

pub(super) fn status(args: &HostArgs) -> ExitCode {
    run(args, async |host| host.see("/status").await, shown::status)
}

pub(super) fn pods(args: &HostArgs) -> ExitCode {
    run(args, async |host| host.see("/pods").await, shown::pods)
}

pub(super) fn bans(args: &HostArgs) -> ExitCode {
    run(args, async |host| host.see("/bans").await, shown::bans)
}

pub(super) fn stop(args: &StopArgs) -> ExitCode {
    run(&args.host, async |host| host.tell("/pods/stop", &json!({ "manifestHash": args.hash })).await, shown::stopped)
}

pub(super) fn ban(args: &BanArgs) -> ExitCode {
    let mut body = subject(&args.what.what);
    body["stop"] = args.stop.into();
    run(&args.what.host, async |host| host.tell("/ban", &body).await, shown::stopped)
}

pub(super) fn unban(args: &WhatArgs) -> ExitCode {
    run(&args.host, async |host| host.tell("/unban", &subject(&args.what)).await, |_| "not banned any more\n".to_owned())
}

pub(super) fn drain(args: &HostArgs) -> ExitCode {
    let told =
        |_: &Value| "uploads and extensions are refused from now on, also after a restart; pods run on (codiusd undrain)\n".to_owned();
    run(args, async |host| host.tell("/drain", &json!({})).await, told)
}

pub(super) fn undrain(args: &HostArgs) -> ExitCode {
    run(args, async |host| host.tell("/undrain", &json!({})).await, |_| "uploads and extensions are taken again\n".to_owned())
}

pub(super) fn log(args: &LogArgs) -> ExitCode {
    let ask = async |host: &Operator| {
        if let Some(filter) = &args.filter {
            host.tell("/log", &json!({ "log": filter })).await?;
        }
        Ok(json!({ "log": host.see("/status").await?["log"] }))
    };
    run(&args.host, ask, shown::log)
}

/// What is meant: all that looks like a manifest hash is one, for no image is called so.
fn subject(what: &str) -> Value {
    match what.parse::<codiusd_runtime::PodId>() {
        Ok(id) => json!({ "manifestHash": id }),
        Err(_) => json!({ "image": what }),
    }
}

/// Asks the host, and shows its answer.
fn run(
    args: &HostArgs,
    ask: impl AsyncFnOnce(&Operator) -> Result<Value, OperatorError>,
    shown: impl FnOnce(&Value) -> String,
) -> ExitCode {
    let root = match &args.admin {
        Some(_) => None,
        None => match root(args) {
            Ok(root) => Some(root),
            Err(error) => return usage(&error),
        },
    };
    let runtime = match super::serve::command_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    let answer = runtime.block_on(async {
        let host = match (&args.admin, root) {
            (Some(url), _) => Operator::at(url.clone())?,
            (None, root) => Operator::of(&root.unwrap_or_default())?,
        };
        ask(&host).await
    });
    match answer {
        Ok(answer) if args.json => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            print!("{}", shown(&answer));
            ExitCode::SUCCESS
        }
        Err(error) => failure(&error),
    }
}

/// Where the host keeps its files. Nothing else of the settings needs to be right.
fn root(args: &HostArgs) -> Result<PathBuf, ConfigError> {
    Settings::read(args.config.as_deref(), config::environment())?.root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_told_from_images() {
        let hash = "a".repeat(52);
        assert_eq!(subject(&hash), json!({ "manifestHash": hash }));
        assert_eq!(subject("nginx"), json!({ "image": "nginx" }));
        assert_eq!(subject(&format!("docker.io/{hash}")), json!({ "image": format!("docker.io/{hash}") }));
    }

    #[test]
    fn only_plain_http_is_spoken() {
        assert!(parse_url("http://127.0.0.1:3001").is_ok());
        for text in ["127.0.0.1:3001", "https://127.0.0.1:3001", "http://", ""] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}
