//! `codiusd upload|extend|logs`: the uploader's commands.

use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use codiusd_api_types::pods::{Quote, Receipt};
use codiusd_control::manifest::{MergedFile, merge};
use codiusd_ilp::btp::client::BtpUrl;
use futures::StreamExt;
use serde_json::{Value, json};
use url::Url;

use super::{failure, manifest::read, parse_duration, usage};
use crate::client::{self, Host, PaidAction, Payer, Spent};

/// Longest line of a log that is buffered, in bytes; a longer one is printed in parts.
const LOG_LINE_MAX: usize = 1024 * 1024;
/// The files that are read from a directory.
const CODIUS_FILE: &str = "codius.json";
const VARS_FILE: &str = "codiusvars.json";
const MANIFEST_FILE: &str = "manifest.json";

#[derive(Debug, Args)]
struct PaidArgs {
    /// The host, such as codius.example.com; https unless it says http://
    #[arg(long, value_name = "URL", value_parser = parse_host)]
    host: Url,
    /// Run time: 3600, 90s, 15m, 1h, 2d
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    duration: NonZeroU32,
    /// Spend at most this, in the smallest unit of your own asset; without it the quoted price and 1 %
    #[arg(long, value_name = "UNITS")]
    max_price: Option<u64>,
    /// The Pay-Token of an earlier try: what was paid then is used
    #[arg(long, value_name = "TOKEN")]
    pay_token: Option<String>,
    /// Print the answer as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Pays through ILP_CREDENTIALS, or the connector (moneyd, codiusd in dev mode) at localhost:7768.\n\nA directory is taken as the codius CLI takes it: variables of codiusvars.json, if there is one, are put into the manifest of codius.json; private ones get a nonce each time, so each upload has a hash of its own. Images need a digest. Without codius.json it is manifest.json that is sent, as it is.\n\nExamples:\n  codiusd upload manifest.json --host https://codius.example.com --duration 1h\n  codiusd upload . --host https://codius.example.com --duration 1h"
)]
pub(super) struct UploadArgs {
    /// A manifest, `{"manifest": ..., "private": ...}`, - for standard input, or a directory with codius.json and codiusvars.json
    file: PathBuf,
    #[command(flatten)]
    paid: PaidArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExtendArgs {
    /// The pod's manifest hash
    hash: String,
    #[command(flatten)]
    paid: PaidArgs,
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The pod's manifest hash
    hash: String,
    /// The host, such as codius.example.com; https unless it says http://
    #[arg(long, value_name = "URL", value_parser = parse_host)]
    host: Url,
    /// Go on with what is written from now on, until the pod ends
    #[arg(long, short)]
    follow: bool,
}

fn parse_host(text: &str) -> Result<Url, String> {
    client::host_url(text).ok_or_else(|| format!("{text:?} isn't a host's URL such as https://codius.example.com"))
}

/// An error for the user.
type Problem = Box<dyn std::error::Error>;

pub(super) fn upload(args: UploadArgs) -> ExitCode {
    let body = match body_of(&args.file) {
        Ok(body) => body,
        Err(problem) => return usage(&format!("{}: {problem}", args.file.display())),
    };
    run(async move {
        let host = Host::new(args.paid.host.clone())?;
        let action = PaidAction::Upload(body.clone(), args.paid.duration);
        pay(&host, &body, &action, args.paid).await
    })
}

pub(super) fn extend(args: ExtendArgs) -> ExitCode {
    run(async move {
        let host = Host::new(args.paid.host.clone())?;
        let body = host.manifest(&args.hash).await?;
        let action = PaidAction::Extend(args.hash, args.paid.duration);
        pay(&host, &body, &action, args.paid).await
    })
}

pub(super) fn logs(args: LogsArgs) -> ExitCode {
    run(async move {
        let host = Host::new(args.host)?;
        let mut chunks = std::pin::pin!(client::logs(&host, &args.hash, args.follow).await?);
        let mut out = io::stdout();
        let mut line = Vec::new();
        while let Some(chunk) = chunks.next().await {
            line.extend_from_slice(&chunk?);
            // Prints whole lines only, without the host's keep-alive lines.
            if line.len() > LOG_LINE_MAX {
                line.push(b'\n');
            }
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let rest = line.split_off(end + 1);
                if line != b"\n" && line != b"ping\n" {
                    out.write_all(&line)?;
                }
                line = rest;
            }
            out.flush()?;
        }
        Ok(())
    })
}

fn run(work: impl Future<Output = Result<(), Problem>>) -> ExitCode {
    let runtime = match super::serve::command_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => failure(problem.as_ref()),
    }
}

/// Requests a quote for `body`, and pays for the action.
async fn pay(host: &Host, body: &[u8], action: &PaidAction, args: PaidArgs) -> Result<(), Problem> {
    let quote = host.quote(body, args.duration).await?;
    if !args.json {
        eprintln!("{} s cost {}", args.duration, price(&quote));
    }
    let mut payer = Payer::open(credentials()?).await?;
    payer.limit(match args.max_price {
        Some(max) => max,
        None => client::most_for(&quote, payer.account())?,
    });
    let live = io::stderr().is_terminal() && !args.json;
    let mut progress = |spent: Spent| {
        if live {
            eprint!("\rpaid {} of at most {} ", units(spent.sent, spent.scale), units(spent.max, spent.scale));
        }
    };
    let paid = client::pay_for(host, Some(&payer), action, args.pay_token, &mut progress).await;
    if live {
        eprintln!();
    }
    show(&paid?, args.json);
    Ok(())
}

fn show(receipt: &Receipt, as_json: bool) {
    if as_json {
        println!("{}", json!(receipt));
    } else {
        println!("{}", receipt.url);
        eprintln!("runs until {} as {}", receipt.expiry, receipt.manifest_hash);
    }
}

/// Reads ILP_CREDENTIALS as `codius` and `ilp-fetch` do.
fn credentials() -> Result<Option<BtpUrl>, Problem> {
    let Ok(text) = std::env::var("ILP_CREDENTIALS") else { return Ok(None) };
    let wrong = "ILP_CREDENTIALS: must be JSON such as {\"server\":\"btp+ws://:secret@localhost:7768\"}";
    let json: Value = serde_json::from_str(&text).map_err(|_| wrong)?;
    let server = json.get("server").and_then(|server| server.as_str()).and_then(|server| server.parse().ok());
    Ok(Some(server.ok_or(wrong)?))
}

fn price(quote: &Quote) -> String {
    match (quote.price.parse(), &quote.asset_code, quote.asset_scale) {
        (Ok(price), Some(code), Some(scale)) => format!("{} {code}", units(price, scale)),
        _ => format!("{} units", quote.price),
    }
}

/// An amount in whole units.
fn units(amount: u64, scale: u8) -> String {
    let digits = format!("{amount:0>width$}", width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

/// The request body for a file or directory.
fn body_of(path: &Path) -> Result<Vec<u8>, Problem> {
    let upload = if path.is_dir() { directory(path)? } else { whole(json_of(path)?) };
    Ok(upload.to_string().into_bytes())
}

/// `{"manifest": ..., "private": ...}`; a bare manifest is wrapped.
fn whole(json: Value) -> Value {
    if json.get("manifest").is_some() { json } else { json!({ "manifest": json }) }
}

fn directory(path: &Path) -> Result<Value, Problem> {
    let in_it = |name: &str| Some(path.join(name)).filter(|file| file.exists());
    let Some(codius) = in_it(CODIUS_FILE) else {
        let manifest = in_it(MANIFEST_FILE).ok_or_else(|| format!("holds neither {CODIUS_FILE} nor {MANIFEST_FILE}; write one of them"))?;
        return Ok(whole(json_of(&manifest).map_err(|problem| format!("{MANIFEST_FILE}: {problem}"))?));
    };
    let codius = json_of(&codius).map_err(|problem| format!("{CODIUS_FILE}: {problem}"))?;
    let vars = in_it(VARS_FILE).map(|vars| json_of(&vars)).transpose().map_err(|problem| format!("{VARS_FILE}: {problem}"))?;
    let nonce = || format!("{:032x}", rand::random::<u128>());
    Ok(merge(codius, vars.as_ref(), nonce).map_err(|error| {
        let file = match error.file {
            MergedFile::Codius => CODIUS_FILE,
            MergedFile::Vars => VARS_FILE,
        };
        format!("{file}: {error}")
    })?)
}

fn json_of(file: &Path) -> Result<Value, Problem> {
    Ok(serde_json::from_slice(&read(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_in_whole_units() {
        for (amount, scale, shown) in [(0, 9, "0"), (1, 9, "0.000000001"), (2_500_000_000, 9, "2.5"), (7, 0, "7"), (1230, 2, "12.3")] {
            assert_eq!(units(amount, scale), shown);
        }
    }

    #[test]
    fn a_directory_is_an_upload_or_an_error_that_names_the_file_and_the_key() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
        let image = format!("nginx@sha256:{}", "a".repeat(64));
        let manifest =
            json!({ "name": "page", "version": "1.0.0", "containers": [{ "id": "web", "image": image, "environment": { "A": "$A" } }] });
        let codius = json!({ "manifest": manifest }).to_string();
        let vars = json!({ "vars": { "private": { "A": { "value": "hush" } } } }).to_string();
        let (bare, wrong) = (json!({ "name": "bare" }).to_string(), json!({ "vars": { "private": { "A": "hush" } } }).to_string());
        let table: [Case<'_>; 9] = [
            (&[], &["neither codius.json nor manifest.json", "write one"]),
            (&[("codius.json", "{")], &["codius.json: ", "line 1"]),
            (&[("codius.json", &codius), ("codiusvars.json", "{")], &["codiusvars.json: ", "line 1"]),
            (&[("codius.json", &codius), ("codiusvars.json", &wrong)], &["codiusvars.json: vars.private.A: ", "an object"]),
            (&[("codius.json", &codius)], &["codius.json: manifest.containers[0].environment.A: ", "vars.private of codiusvars.json"]),
            (&[("manifest.json", "[")], &["manifest.json: ", "line 1"]),
            (&[("manifest.json", &bare)], &[]),
            (&[("codius.json", &codius), ("codiusvars.json", &vars)], &[]),
            (&[("codius.json", &codius), ("codiusvars.json", &vars), ("manifest.json", "[")], &[]),
        ];
        for (files, said) in table {
            let directory = tempfile::tempdir().unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(directory.path().join(name), text).unwrap());
            match body_of(directory.path()) {
                Ok(body) => assert!(said.is_empty() && body.starts_with(b"{\"manifest\":{\"name\":"), "{files:?}"),
                Err(problem) => {
                    let problem = problem.to_string();
                    assert!(!said.is_empty() && said.iter().all(|part| problem.contains(part)), "{files:?}: {problem}");
                    assert!(!problem.contains("hush"), "{problem}");
                }
            }
        }
    }
}
