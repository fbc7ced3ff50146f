//! `codiusd doctor`: reports what is missing, with remedies.

use std::process::ExitCode;

use clap::Args;
use codiusd_runtime::network::Grade;
use serde_json::json;

use super::{ConfigArgs, failure, serve::command_runtime, usage};
use crate::doctor::{self, Finding};

#[derive(Debug, Args)]
#[command(
    after_help = "Looks at the settings, the kernel, ports, certificates, names and the uplink; and if the host runs, at whether it is ready and \
                  visitors reach it by its public URI. Nothing is changed. Some of it takes root.\n\nExit code: 0 if the host can do its work, \
                  1 if something is BAD, 64 if a setting is wrong."
)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// For programs: one JSON value
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DoctorArgs) -> ExitCode {
    let config = match args.config.settings() {
        Ok((_, config)) => config,
        Err(error) => return usage(&error),
    };
    // Fails if the caller has installed a provider already; any provider works.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match command_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&error),
    };
    let found = runtime.block_on(doctor::examine(&config));
    let well = found.iter().all(|finding| finding.grade != Grade::Bad);
    if args.json {
        let findings: Vec<_> = found
            .iter()
            .map(|found| json!({ "check": found.check, "grade": found.grade.to_string(), "text": found.text, "remedy": found.remedy }))
            .collect();
        println!("{}", json!({ "well": well, "findings": findings }));
    } else {
        found.iter().for_each(show);
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(finding: &Finding) {
    println!("{:5} {:17} {}", finding.grade, finding.check, finding.text);
    if let Some(remedy) = &finding.remedy {
        println!("{:23} -> {remedy}", "");
    }
}
