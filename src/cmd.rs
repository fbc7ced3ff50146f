//! The command line: what can be asked of codiusd.

mod certs;
mod client;
mod demo;
mod doctor;
mod image;
mod manifest;
mod network;
mod operator;
mod serve;

use std::{num::NonZeroU32, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    causes::in_full,
    config::{self, Config, ConfigError, Settings, TlsChoice, keys},
};

/// Exit code for a command line or configuration that can't be used (`EX_USAGE`).
const USAGE: u8 = 64;

#[derive(Debug, Parser)]
#[command(
    name = "codiusd",
    version,
    about = "Turns this machine into a Codius host: pods paid for over Interledger, served at <hash>.<host>"
)]
#[command(
    after_help = "Try it:\n  codiusd demo                    a whole host on this machine, with a paid pod\n  codiusd serve                   a host (settings: codiusd check)\n  codiusd upload manifest.json --host https://codius.example.com --duration 1h"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a host until it is stopped (SIGTERM or Ctrl-C); pods run on
    #[command(after_long_help = keys::help())]
    Serve(ConfigArgs),
    /// Check the settings and show them, secrets hidden
    #[command(after_long_help = keys::help())]
    Check(ConfigArgs),
    /// Look for what a host needs here and doesn't have, with a remedy for each
    Doctor(doctor::DoctorArgs),
    /// Run a whole host on this machine, upload a page to it, pay for it, and show where it is
    Demo(demo::DemoArgs),
    /// Upload a manifest to a host and pay for its run time
    Upload(client::UploadArgs),
    /// Pay for more run time of a pod
    Extend(client::ExtendArgs),
    /// Show what the containers of a pod with `debug: true` have written
    Logs(client::LogsArgs),
    /// Show what the host on this machine does: uploads, memory, earnings
    Status(operator::HostArgs),
    /// Show its pods
    Pods(operator::HostArgs),
    /// Stop a pod of it now, whatever it has left to run
    Stop(operator::StopArgs),
    /// Refuse a manifest, or an image, from now on
    Ban(operator::BanArgs),
    /// Take a ban back
    Unban(operator::WhatArgs),
    /// Show what is banned
    Bans(operator::HostArgs),
    /// Take no uploads and extensions from now on; pods run on
    Drain(operator::HostArgs),
    /// Take uploads and extensions again
    Undrain(operator::HostArgs),
    /// Show what it logs, or choose that until it ends
    #[command(after_help = operator::LOG_HELP)]
    Log(operator::LogArgs),
    /// Check or hash a manifest, without a host
    #[command(subcommand)]
    Manifest(manifest::ManifestCommand),
    /// Make images
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Show, check or remove the pods' network policy
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Make certificates
    #[command(subcommand)]
    Certs(certs::CertsCommand),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Settings file; without it /etc/codius/codiusd.toml is read if it exists. Every key may also be an environment variable
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn settings(&self) -> Result<(Settings, Config), ConfigError> {
        let settings = Settings::read(self.config.as_deref(), config::environment())?;
        let config = Config::from_settings(&settings)?;
        Ok((settings, config))
    }
}

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be left to read it.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Upload(args) => client::upload(args),
        Command::Extend(args) => client::extend(args),
        Command::Logs(args) => client::logs(args),
        Command::Status(args) => operator::status(&args),
        Command::Pods(args) => operator::pods(&args),
        Command::Stop(args) => operator::stop(&args),
        Command::Ban(args) => operator::ban(&args),
        Command::Unban(args) => operator::unban(&args),
        Command::Bans(args) => operator::bans(&args),
        Command::Drain(args) => operator::drain(&args),
        Command::Undrain(args) => operator::undrain(&args),
        Command::Log(args) => operator::log(&args),
        Command::Manifest(command) => manifest::run(&command),
        Command::Image(command) => image::run(&command),
        Command::Network(command) => network::run(&command),
        Command::Certs(command) => certs::run(&command),
    }
}

fn check(args: &ConfigArgs) -> ExitCode {
    match args.settings() {
        Ok((settings, config)) => {
            if let Some(Err(error)) = config.tls.as_ref().map(TlsChoice::load) {
                return usage(&format_args!("CODIUS_TLS_CERTS: {error}"));
            }
            print!("{}", settings.show(&config));
            ExitCode::SUCCESS
        }
        Err(error) => usage(&error),
    }
}

/// Says what is wrong with how codiusd was called, in one line.
fn usage(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("codiusd: {error}");
    ExitCode::from(USAGE)
}

/// Says why something didn't work, with its causes, in one line.
fn failure(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("codiusd: {}", in_full(error));
    ExitCode::FAILURE
}

/// Reads `90`, `90s`, `15m`, `1h`, `2d`: a run time in seconds.
fn parse_duration(text: &str) -> Result<NonZeroU32, String> {
    let wrong = || format!("{text:?} isn't a duration such as 3600, 90s, 15m, 1h or 2d");
    let (number, unit) = match text.char_indices().last() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => (&text[..at], unit),
        _ => (text, 's'),
    };
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).and_then(NonZeroU32::new).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("1", 1), ("3600", 3600), ("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(parse_duration(text).map(NonZeroU32::get), Ok(seconds), "{text}");
        }
        for text in ["", "0", "-1", "h", "1w", "1.5h", "99999999d", "1 h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
