//! The real clients: moneyd, the codius CLI and ilp-fetch, on Node, from tests/interop/js.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{Output, Process},
    upload::Upload,
};

const MONEYD_WITHIN: Duration = Duration::from_secs(30);
/// The CLI itself gives up after 70 s.
const CLI_WITHIN: Duration = Duration::from_secs(90);
const FETCH_WITHIN: Duration = Duration::from_secs(60);

fn scripts() -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop/js");
    assert!(directory.join("node_modules").is_dir(), "no JavaScript clients: run `npm ci --ignore-scripts` in tests/interop/js");
    directory
}

/// Node with one of our preloads, running `script` (relative to tests/interop/js). `home` is where it may write.
fn node(preload: &str, script: &str, home: &Path) -> Command {
    let scripts = scripts();
    let mut command = Command::new("node");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", home).current_dir(home);
    command.arg("-r").arg(scripts.join(preload)).arg(scripts.join(script));
    command
}

/// A client that connects to the BTP server at `btp` under accounts nobody else has.
fn client(script: &str, home: &Path, btp: SocketAddr) -> Command {
    let mut command = node("writable-closed.js", script, home);
    command.env("ILP_BTP_SERVER", format!("btp+ws://{btp}"));
    command
}

fn new_home() -> TempDir {
    tempfile::Builder::new().prefix("codiusd-js-").tempdir().unwrap_or_else(|error| panic!("make a directory: {error}"))
}

/// `moneyd local` on a free port: a connector with no uplink that gives everyone credit.
#[derive(Debug)]
pub struct Moneyd {
    btp: SocketAddr,
    _process: Process,
    _home: TempDir,
}

impl Moneyd {
    /// Starts it and waits until it listens.
    pub async fn start() -> Self {
        let home = new_home();
        let mut command = node("any-port.js", "node_modules/moneyd/bin/moneyd.js", home.path());
        command.arg("local").arg("--config").arg(home.path().join("moneyd.json"));
        let mut process = Process::spawn("moneyd", &mut command, &home.path().join("moneyd.log"));
        let port =
            process.line("its port", MONEYD_WITHIN, |line| line.strip_prefix(r#"{"btpPort":"#)?.strip_suffix('}')?.parse().ok()).await;
        Self { btp: SocketAddr::from(([127, 0, 0, 1], port)), _process: process, _home: home }
    }

    /// Its BTP server.
    pub fn btp(&self) -> SocketAddr {
        self.btp
    }
}

/// The codius CLI in a working directory of its own, where it keeps what it has uploaded.
#[derive(Debug)]
pub struct CodiusCli {
    directory: TempDir,
    btp: SocketAddr,
    credentials: Option<String>,
}

impl CodiusCli {
    /// It pays over the BTP server at `btp`. `upload` is what `codius upload` will upload, without its private variables.
    pub fn new(btp: SocketAddr, upload: &Upload) -> Self {
        let cli = Self { directory: new_home(), btp, credentials: None };
        cli.write("codius.json", &json!({ "manifest": upload.json()["manifest"] }));
        cli.vars(&json!({}), &json!({}));
        cli
    }

    /// Its sessions (it opens three at once) share one account, as they do where `ILP_CREDENTIALS` is set.
    #[must_use]
    pub fn with_credentials(mut self) -> Self {
        self.credentials = Some(format!(r#"{{"server":"btp+ws://:{:032x}@{}"}}"#, rand::random::<u128>(), self.btp));
        self
    }

    /// Sets the public and private variables, each `{NAME: {"value": ...}}`.
    pub fn vars(&self, public: &Value, private: &Value) {
        self.write("codiusvars.json", &json!({ "vars": { "public": public, "private": private } }));
    }

    fn write(&self, name: &str, content: &Value) {
        let file = self.directory.path().join(name);
        fs::write(&file, content.to_string()).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = client("node_modules/codius/bin/codius.js", self.directory.path(), self.btp);
        if let Some(credentials) = &self.credentials {
            command.env("ILP_CREDENTIALS", credentials);
        }
        command.args(arguments);
        command
    }

    /// Runs `codius ARGUMENTS` to its end. Beware: it exits with 0 after a failed upload too; the state file tells.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let log = self.directory.path().join(format!("{}.log", arguments.first().unwrap_or(&"codius")));
        Process::run("codius", &mut self.command(arguments), &log, CLI_WITHIN).await
    }

    /// Starts `codius tail` of what was uploaded; it goes on until dropped.
    pub fn tail(&self) -> Process {
        Process::spawn("codius tail", &mut self.command(&["tail"]), &self.directory.path().join("tail.log"))
    }

    /// What the CLI remembers of its uploads; nothing before the first that succeeded.
    pub fn state(&self) -> Option<CliState> {
        let text = fs::read(self.directory.path().join("default.codiusstate.json")).ok()?;
        let state: Value = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("the CLI's state file: {error}"));
        let hash = state["manifestHash"].as_str()?.to_owned();
        let details = state["status"]["hostDetails"].as_object()?.values().next()?;
        let units = |name: &str| details["price"][name].as_str()?.parse().ok();
        Some(CliState { hash, url: details["url"].as_str()?.to_owned(), last_paid: units("lastPaid")?, total_paid: units("totalPaid")? })
    }
}

/// What the codius CLI makes of a `codius.json` and a `codiusvars.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Generated {
    /// What it uploads, unless it refuses the files. Every nonce is [`Generated::NONCE`].
    pub upload: Option<Value>,
    /// The manifest's hash.
    pub hash: Option<String>,
    /// Why it refuses them.
    pub error: Option<String>,
}

impl Generated {
    /// Instead of a random one.
    pub const NONCE: &str = "abababababababababababababababab";

    /// Of each pair of files.
    pub async fn from_files(pairs: &[(Value, Value)]) -> Vec<Self> {
        let home = new_home();
        let mut command = node("writable-closed.js", "generate-manifests.js", home.path());
        let output = Process::run("codius-manifest", command.arg(json!(pairs).to_string()), &home.path().join("log"), CLI_WITHIN).await;
        let line = output.text.lines().rfind(|line| line.starts_with("{\"generated\":"));
        let generated = line.and_then(|line| serde_json::from_str::<Value>(line).ok()).map(|mut json| json["generated"].take());
        let generated = generated.and_then(|generated| serde_json::from_value(generated).ok());
        generated.unwrap_or_else(|| panic!("codius-manifest has no result ({}): {}", output.status, output.text))
    }
}

/// What the CLI's state file says of its only host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliState {
    /// The manifest hash, as the CLI computes it.
    pub hash: String,
    /// Where the pod is.
    pub url: String,
    /// What the last upload or extension cost, in the asset's smallest unit.
    pub last_paid: u64,
    /// What all of them cost.
    pub total_paid: u64,
}

/// One request by ilp-fetch.
#[derive(Clone, Debug)]
pub struct IlpFetch {
    options: Value,
    btp: SocketAddr,
}

impl IlpFetch {
    /// `method url` with a JSON body, paying up to `max_price` over the BTP server at `btp`.
    pub fn new(btp: SocketAddr, method: &str, url: &str, body: &Value, max_price: u64) -> Self {
        let headers = json!({ "Content-Type": "application/json" });
        let options =
            json!({ "url": url, "method": method, "headers": headers, "body": body.to_string(), "maxPrice": max_price.to_string() });
        Self { options, btp }
    }

    /// Uses this Pay-Token instead of a random one.
    #[must_use]
    pub fn token(mut self, token: [u8; 16]) -> Self {
        self.options["payToken"] = json!(hex::encode(token));
        self
    }

    /// Makes the request.
    pub async fn run(&self) -> Fetched {
        let home = new_home();
        let mut command = client("pay.js", home.path(), self.btp);
        let output = Process::run("ilp-fetch", command.arg(self.options.to_string()), &home.path().join("pay.log"), FETCH_WITHIN).await;
        let line = output.text.lines().rfind(|line| line.starts_with("{\""));
        let fetched = line.and_then(|line| serde_json::from_str(line).ok());
        fetched.unwrap_or_else(|| panic!("ilp-fetch has no result ({}): {}", output.status, output.text))
    }
}

/// What ilp-fetch says of a request.
#[derive(Clone, Debug, Deserialize)]
pub struct Fetched {
    /// The status of the last answer.
    pub status: u16,
    /// Its body.
    pub body: String,
    /// What was paid, in the payer's smallest unit.
    #[serde(deserialize_with = "from_text")]
    pub price: u64,
}

impl Fetched {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}) in: {} {}", self.status, self.body))
    }
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// The published interledger-stream crate, from tests/interop.
#[derive(Clone, Copy, Debug)]
pub struct StreamSender;

impl StreamSender {
    /// Sends `amount` to what a `Pay` header names; true if it finished within `within` (it never gives up by itself).
    pub async fn send(btp: SocketAddr, pay: &str, amount: u64, within: Duration) -> Option<u64> {
        let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interop/target/debug/stream-sender");
        assert!(binary.is_file(), "no {}: run `cargo build` in tests/interop", binary.display());
        let [_, address, secret] = pay.split(' ').collect::<Vec<_>>()[..] else { panic!("not a Pay header: {pay}") };
        let home = new_home();
        let log = home.path().join("sender.log");
        let mut command = Command::new(binary);
        command.args([&btp.to_string(), address, secret, &amount.to_string()]);
        let mut process = Process::spawn("stream-sender", &mut command, &log);
        let status = tokio::time::timeout(within, process.exit(FETCH_WITHIN)).await.ok()?;
        assert!(status.success(), "stream-sender: {}", process.log());
        let receipt: Value = serde_json::from_str(&process.log()).unwrap_or_else(|error| panic!("its receipt: {error}"));
        receipt["delivered"].as_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payer::{Payer, pay_token};

    #[tokio::test]
    async fn our_sender_and_moneyd_understand_each_other() {
        let moneyd = Moneyd::start().await;
        let payer = Payer::connect(moneyd.btp()).await;
        let nobody = format!("interledger-stream private.moneyd.local.{} {}", pay_token(), "A".repeat(43) + "=");
        let error = payer.pay(&nobody, 1000).await.expect_err("nobody is there");
        assert_eq!(error.delivery.sent, 0, "{error:?}");
    }
}
