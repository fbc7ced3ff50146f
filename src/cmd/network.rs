//! `codiusd network show|check|remove`: the network policy of pods, and whether the kernel enforces it.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    process::ExitCode,
};

use clap::{Args, Subcommand};
use codiusd_runtime::network::{self, Grade, Policy};
use serde_json::json;

use super::{ConfigArgs, failure, usage};
use crate::{config::Config, runtimes};

#[derive(Debug, Subcommand)]
pub(super) enum NetworkCommand {
    /// Show what pods may send to whom, row by row: the first row that matches decides; traffic that matches none passes
    Show {
        #[command(flatten)]
        common: Common,
        /// As an nft script
        #[arg(long, conflicts_with = "json")]
        nft: bool,
    },
    /// Compare the policy with the kernel's rules; exit code 1 if pods can reach more. Needs root
    Check(Common),
    /// Remove the policy from the kernel, when this machine stops being a host: after codiusd and its pods. Other programs' tables stay. Needs root
    Remove {
        #[command(flatten)]
        common: Common,
        /// Also while there are pods, which can then reach everything, or a codiusd, which puts it back
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    config: ConfigArgs,
    /// For programs: one JSON value
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &NetworkCommand) -> ExitCode {
    let (NetworkCommand::Show { common, .. } | NetworkCommand::Check(common) | NetworkCommand::Remove { common, .. }) = command;
    let config = match common.config.settings() {
        Ok((_, config)) => config,
        Err(error) => return usage(&error),
    };
    let Some(policy) = runtimes::plan(&config).network_policy() else {
        return usage(&"no pods run here that have a network policy (runtime.type, hyperd.bridge)");
    };
    let done = match command {
        NetworkCommand::Show { nft: true, .. } => {
            println!("{}", network::nft(&policy));
            Ok(ExitCode::SUCCESS)
        }
        NetworkCommand::Show { .. } => {
            show(&policy, common.json);
            Ok(ExitCode::SUCCESS)
        }
        NetworkCommand::Check(_) => check(&policy, common.json),
        NetworkCommand::Remove { force, .. } => remove(&config, &policy, *force, common.json),
    };
    done.unwrap_or_else(|error| failure(&error))
}

fn show(policy: &Policy, json: bool) {
    if json {
        let rows = policy.rows.iter().map(|row| {
            let (from, to) = row.way.ends();
            json!({ "id": row.id, "from": from, "to": to, "what": row.what.to_string(), "fate": row.fate.to_string(), "why": row.why })
        });
        println!("{}", json!({ "table": policy.table, "rows": rows.collect::<Vec<_>>(), "linkBytesPerSecond": policy.carried }));
        return;
    }
    println!("table inet {}", policy.table);
    if let network::Links::Bridge(bridge) = &policy.links {
        println!("table bridge {}: by each port of a pod at {bridge}, only what is sent with that pod's addresses comes in", policy.table);
    }
    for row in &policy.rows {
        let (from, to) = row.way.ends();
        println!("{:16} {from:>5} -> {to:8} {:24} {} ({})", row.id, row.fate.to_string(), row.what, row.why);
    }
    if policy.carried > 0 {
        println!("each pod's link carries {} Mbit/s each way; what is beyond waits", u64::from(policy.carried) * 8 / 1_000_000);
    }
}

fn check(policy: &Policy, json: bool) -> io::Result<ExitCode> {
    let findings = network::check(policy)?;
    if json {
        let findings: Vec<_> = findings.iter().map(|found| json!({ "grade": found.grade.to_string(), "text": found.text })).collect();
        println!("{}", json!({ "table": policy.table, "findings": findings }));
    } else {
        findings.iter().for_each(|found| println!("{:5} {}", found.grade, found.text));
    }
    let holds = findings.iter().all(|found| found.grade != Grade::Bad);
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn remove(config: &Config, policy: &Policy, force: bool, json: bool) -> io::Result<ExitCode> {
    if !force && runs(&config.root)? {
        return Err(io::Error::other("a codiusd runs with these settings, and would put it back: stop it first, or --force"));
    }
    let pods = network::links(&policy.links)?.len();
    if pods > 0 && !force {
        return Err(io::Error::other(format!(
            "there are {pods} links of pods, which would reach everything: stop the pods first, or --force"
        )));
    }
    network::remove(policy)?;
    if json {
        println!("{}", json!({ "removed": policy.table }));
    } else {
        println!("tables {} are gone; a codiusd that starts, or still runs, puts it back", policy.table);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a codiusd uses this directory.
fn runs(root: &Path) -> io::Result<bool> {
    let lock = match File::open(root.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
