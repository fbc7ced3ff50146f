//! `codiusd admin`: the operator's queries and commands to a running host.

mod shown;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use codiusd_api_types::admin::{BanRequest, HostStatus, LogFilter, PodSelector};
use codiusd_runtime::PodId;
use serde::Serialize;
use serde_json::json;
use url::Url;

use super::{failure, usage};
use crate::{
    client::{Operator, OperatorError},
    config::{self, ConfigError, Settings},
};

#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Print whether uploads are accepted, what pods hold, what was earned
    Status(HostArgs),
    /// Print the pods
    Pods(HostArgs),
    /// Stop a pod now; its remaining time is lost
    Stop(StopArgs),
    /// Refuse a manifest or an image from now on
    Ban(BanArgs),
    /// Remove a ban
    Unban(SubjectArgs),
    /// Print the bans
    Bans(HostArgs),
    /// Refuse uploads and extensions from now on; running pods continue
    Drain(HostArgs),
    /// Accept uploads and extensions again
    Undrain(HostArgs),
    /// Print the log filter, or change it until the host stops
    #[command(after_help = LOG_HELP)]
    LogLevel(LogArgs),
}

/// Which host, and how its answer is printed.
#[derive(Debug, Args)]
pub(super) struct HostArgs {
    /// The operator's listener, such as http://127.0.0.1:3001 [default: that of the host at root]
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    admin: Option<Url>,
    /// Settings file [default: /etc/codius/codiusd.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Manifest hash of the pod
    hash: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
pub(super) struct SubjectArgs {
    /// Manifest hash, image digest (sha256:... or name@sha256:...), or image repository without a tag
    what: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
pub(super) struct BanArgs {
    #[command(flatten)]
    what: SubjectArgs,
    /// Also stop running pods; without this they run to their end and can't be extended
    #[arg(long)]
    stop: bool,
}

/// Help text after the arguments of `codiusd admin log-level`.
const LOG_HELP: &str = "\
A level applies to the module and its submodules; the most specific match wins. Other modules are off.
  codiusd_proxy    the edge                codiusd_ilp      payments
  codiusd_control  uploads, pods, peers    codiusd_runtime  containers, images, networks

Examples:
  codiusd admin log-level                                      the current filter
  codiusd admin log-level warn,codiusd=info                    warnings of every module, and what codiusd does
  codiusd admin log-level info,codiusd_ilp=debug               also why payment connections end
  codiusd admin log-level info,codiusd_control::peers=debug    also why other hosts are rejected

The next start of the host applies the setting log.filter again.";

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// A level (off, error, warn, info, debug, trace), levels of modules (module=level), or both, separated by commas
    filter: Option<String>,
    #[command(flatten)]
    host: HostArgs,
}

/// Parses the listener's URL. It must be plain HTTP.
fn parse_url(text: &str) -> Result<Url, String> {
    let url: Option<Url> = text.parse().ok();
    url.filter(|url| url.scheme() == "http" && url.has_host()).ok_or_else(|| format!("{text:?} isn't a URL such as http://127.0.0.1:3001"))
}

pub(super) fn run(command: &AdminCommand) -> ExitCode {
    match command {
        AdminCommand::Status(args) => ask(args, async |host| host.see("/status").await, shown::status),
        AdminCommand::Pods(args) => ask(args, async |host| host.see("/pods").await, shown::pods),
        AdminCommand::Bans(args) => ask(args, async |host| host.see("/bans").await, shown::bans),
        AdminCommand::Stop(args) => {
            let pod = PodSelector { manifest_hash: Some(args.hash.clone()) };
            ask(&args.host, async |host| host.tell("/pods/stop", &pod).await, shown::stopped)
        }
        AdminCommand::Ban(BanArgs { what, stop }) => {
            let ban = BanRequest { stop: *stop, ..subject(&what.what) };
            ask(&what.host, async |host| host.tell("/ban", &ban).await, shown::stopped)
        }
        AdminCommand::Unban(args) => {
            ask(&args.host, async |host| host.tell("/unban", &subject(&args.what)).await, |&()| "ban removed\n".to_owned())
        }
        AdminCommand::Drain(args) => ask(
            args,
            async |host| host.tell("/drain", &json!({})).await,
            |&()| "uploads and extensions are refused, also after a restart; running pods continue (codiusd admin undrain)\n".to_owned(),
        ),
        AdminCommand::Undrain(args) => {
            ask(args, async |host| host.tell("/undrain", &json!({})).await, |&()| "uploads and extensions are accepted again\n".to_owned())
        }
        AdminCommand::LogLevel(args) => ask(&args.host, async |host| log_level(host, args.filter.as_deref()).await, shown::log),
    }
}

async fn log_level(host: &Operator, filter: Option<&str>) -> Result<LogFilter, OperatorError> {
    if let Some(filter) = filter {
        let () = host.tell("/log", &LogFilter { log: filter.to_owned() }).await?;
    }
    let status: HostStatus = host.see("/status").await?;
    Ok(LogFilter { log: status.log })
}

/// A ban of a manifest if the text looks like a manifest hash, which no image name does; otherwise of an image.
fn subject(what: &str) -> BanRequest {
    let what_is_meant = Some(what.to_owned());
    match what.parse::<PodId>() {
        Ok(_) => BanRequest { manifest_hash: what_is_meant, ..BanRequest::default() },
        Err(_) => BanRequest { image: what_is_meant, ..BanRequest::default() },
    }
}

/// Sends a request to the host and prints its answer.
fn ask<T: Serialize>(
    args: &HostArgs,
    ask: impl AsyncFnOnce(&Operator) -> Result<T, OperatorError>,
    shown: impl FnOnce(&T) -> String,
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
            println!("{}", serde_json::to_string(&answer).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            print!("{}", shown(&answer));
            ExitCode::SUCCESS
        }
        Err(error) => failure(&error),
    }
}

/// Where the host keeps its files. Other settings aren't validated.
fn root(args: &HostArgs) -> Result<PathBuf, ConfigError> {
    Settings::read(args.config.as_deref(), config::environment())?.root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_told_from_images() {
        let hash = "a".repeat(52);
        assert_eq!(subject(&hash).manifest_hash.as_deref(), Some(hash.as_str()));
        for image in ["nginx", &format!("docker.io/{hash}")] {
            assert_eq!(subject(image).image.as_deref(), Some(image));
        }
    }

    #[test]
    fn only_plain_http_is_spoken() {
        assert!(parse_url("http://127.0.0.1:3001").is_ok());
        for text in ["127.0.0.1:3001", "https://127.0.0.1:3001", "http://", ""] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}
