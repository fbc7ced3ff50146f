//! `codiusd doctor`: what is wrong with this machine, the settings or the host, and what to do about it.
//!
//! | room | what is in it |
//! |---|---|
//! | `machine` | kernel, cgroups, nftables, disk, clock, open files |
//! | `host` | settings, certificates, DNS, ports |
//! | `live` | uplink, runtime, the self-test of a host that runs |

mod host;
mod live;
mod machine;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

use super::{ConfigArgs, failure, serve::office_runtime};
use host::Running;

/// Ends `codiusd doctor --help`.
pub(super) const HELP: &str =
    "Each check is ok, warn (worth knowing), FAIL (to be put right; the exit code is 1) or skipped, with a remedy below it.
Nothing is changed. Some checks need root and are skipped without it. With admin_api = true a host that runs tests itself once more: it
pays for a minute of a small pod from an account of its own and visits it at public_uri.

Examples:
  codiusd doctor                      before the first start, and whenever something is odd
  codiusd doctor --json | jq '.checks[] | select(.result == \"FAIL\")'";

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON value, and nothing else
    #[arg(long)]
    json: bool,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
    Skipped,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skipped => "skipped",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    name: String,
    verdict: Verdict,
    what: String,
    remedy: Option<String>,
}

impl Check {
    fn of(name: &str, verdict: Verdict, what: impl Into<String>, remedy: Option<String>) -> Self {
        Self { name: name.to_owned(), verdict, what: what.into(), remedy }
    }

    fn ok(name: &str, what: impl Into<String>) -> Self {
        Self::of(name, Verdict::Ok, what, None)
    }

    fn warn(name: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::of(name, Verdict::Warn, what, Some(remedy.into()))
    }

    fn fail(name: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::of(name, Verdict::Fail, what, Some(remedy.into()))
    }

    fn skipped(name: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::of(name, Verdict::Skipped, what, Some(remedy.into()))
    }

    fn needs_root(name: &str) -> Self {
        Self::skipped(name, "needs root", "sudo codiusd doctor")
    }

    fn json(&self) -> Value {
        json!({ "check": self.name, "result": self.verdict.word(), "what": self.what, "remedy": self.remedy })
    }
}

pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let runtime = match office_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    let checks = runtime.block_on(checks(args));
    if args.json {
        println!("{}", json!({ "ok": is_well(&checks), "checks": checks.iter().map(Check::json).collect::<Vec<_>>() }));
    } else {
        print!("{}", table(&checks));
    }
    if is_well(&checks) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn is_well(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict != Verdict::Fail)
}

async fn checks(args: &DoctorArgs) -> Vec<Check> {
    let is_root = rustix::process::geteuid().is_root();
    let mut checks = machine::kernel();
    checks.extend([machine::cgroups(is_root), machine::clock()]);
    let config = match args.config.settings() {
        Ok((_, config)) => config,
        Err(error) => {
            checks.push(Check::fail(
                "settings",
                error.to_string(),
                "put the value right; codiusd check shows them all, and --help what each is for",
            ));
            return checks;
        }
    };
    checks.push(host::settings(&config));
    let running = Running::of(&config.root);
    checks.extend([machine::disk(&config), machine::open_files(&config), machine::nftables(&config, &running, is_root)]);
    checks.extend(host::certificates(&config));
    checks.extend(host::dns(&config).await);
    checks.extend(host::ports(&config, &running));
    checks.push(live::uplink(&config, &running).await);
    checks.push(live::pods(&config, &running, is_root).await);
    checks.extend(live::self_test(&config, &running).await);
    checks
}

/// A line for each check, and one below for what to do.
fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    let line = |check: &Check| {
        let plain = |text: &str| text.chars().filter(|character| !character.is_control()).collect::<String>();
        let head = format!("{:width$}  {:7}  {}\n", check.name, check.verdict.word(), plain(&check.what));
        match &check.remedy {
            Some(remedy) => format!("{head}{:width$}           -> {}\n", "", plain(remedy)),
            None => head,
        }
    };
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let sum = format!(
        "\n{} ok, {} to look at, {} to put right, {} skipped\n",
        count(Verdict::Ok),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Skipped)
    );
    checks.iter().map(line).chain([sum]).collect()
}

/// The nearest directory of a path that is there.
fn nearest(path: &std::path::Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_count() {
        let good = [Check::ok("a", "fine"), Check::warn("b", "odd", "look"), Check::needs_root("c")];
        assert!(is_well(&good));
        assert!(!is_well(&[Check::fail("d", "bad", "mend it")]));
        assert_eq!(
            table(&good),
            "a  ok       fine\nb  warn     odd\n            -> look\nc  skipped  needs root\n            -> sudo codiusd doctor\n\n1 ok, 1 to look at, 0 to put right, 1 skipped\n"
        );
        assert_eq!(good[1].json(), json!({ "check": "b", "result": "warn", "what": "odd", "remedy": "look" }));
        assert!(!table(&[Check::ok("a", "\u{1b}[31m")]).contains('\u{1b}'));
    }
}
