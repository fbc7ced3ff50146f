//! The command line of codiusd.

mod certs;
mod client;
mod demo;
mod doctor;
mod image;
mod manifest;
mod network;
mod operator;
mod reference;
mod serve;

use std::{num::NonZeroU32, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use operator::AdminCommand;
pub use reference::command_reference;

use crate::{
    config::{self, Config, ConfigError, Settings, TlsChoice, keys, units},
    error_chain::in_full,
};

/// Exit code for a command line or configuration that can't be used (`EX_USAGE`).
const USAGE: u8 = 64;

/// The command line of codiusd.
#[derive(Debug, Parser)]
#[command(name = "codiusd", version, about = "Turns one Linux machine into a Codius host: pods paid by the second over Interledger")]
#[command(help_template = "{about}\n\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}")]
#[command(
    after_help = "\nTry it:\n  codiusd demo                    a whole host on this machine, with a paid pod\n  codiusd upload manifest.json --host https://codius.example.com --duration 1h"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a host until SIGTERM or Ctrl-C; running pods continue
    #[command(after_long_help = keys::help())]
    Serve(ConfigArgs),
    /// Check the settings and print them, secrets hidden
    #[command(after_long_help = keys::help())]
    Check(CheckArgs),
    /// Check what a host needs on this machine, with a remedy for what is missing
    Doctor(doctor::DoctorArgs),
    /// Run a whole host on this machine, upload a page to it and pay for it
    Demo(demo::DemoArgs),
    /// Operate the running host: status, pods, bans, drain, log level
    #[command(subcommand)]
    Admin(operator::AdminCommand),
    /// Short for codiusd admin status
    Status(operator::HostArgs),
    /// Short for codiusd admin pods
    Pods(operator::HostArgs),
    /// Short for codiusd admin stop
    Stop(operator::StopArgs),
    /// Short for codiusd admin ban
    #[command(hide = true)]
    Ban(operator::BanArgs),
    /// Short for codiusd admin unban
    #[command(hide = true)]
    Unban(operator::SubjectArgs),
    /// Short for codiusd admin bans
    #[command(hide = true)]
    Bans(operator::HostArgs),
    /// Short for codiusd admin drain
    #[command(hide = true)]
    Drain(operator::HostArgs),
    /// Short for codiusd admin undrain
    #[command(hide = true)]
    Undrain(operator::HostArgs),
    /// Short for codiusd admin log-level
    #[command(hide = true)]
    Log(operator::LogArgs),
    /// Upload a manifest to a host and pay for its run time
    Upload(client::UploadArgs),
    /// Pay for more run time of a pod
    Extend(client::ExtendArgs),
    /// Print the log of a pod whose manifest has `debug: true`
    Logs(client::LogsArgs),
    /// Check or hash a manifest, without a host
    #[command(subcommand)]
    Manifest(manifest::ManifestCommand),
    /// Write the demo image
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Print, verify or remove the network policy of pods
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Make certificates for development
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Print the completions of a shell
    Completions(reference::CompletionsArgs),
    /// Write the man pages into a directory
    Man(reference::ManArgs),
}

/// Commands in the groups that `codiusd --help` shows.
const GROUPS: &[(&str, &[&str])] = &[
    ("Run a host", &["serve", "check", "doctor", "demo"]),
    ("Operate a running host", &["admin", "status", "pods", "stop"]),
    ("Use a host", &["upload", "extend", "logs"]),
    ("Tools", &["manifest", "image", "network", "certs", "completions", "man"]),
];

/// The clap command, with its subcommands listed in groups.
pub(crate) fn command_line() -> clap::Command {
    let command = Cli::command();
    let line = |name: &&str| {
        let about = command.find_subcommand(name).and_then(clap::Command::get_about).map(ToString::to_string).unwrap_or_default();
        format!("  {name:<12} {about}\n")
    };
    let groups = GROUPS.iter().map(|(title, names)| format!("{title}:\n{}\n", names.iter().map(line).collect::<String>()));
    let groups: String = groups.collect();
    command.before_help(groups)
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Settings file [default: /etc/codius/codiusd.toml, if it exists]; environment variables win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print a settings file with every key at its default, commented out
    #[arg(long)]
    print_default: bool,
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
    let cli = command_line().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => {
            // The output may be closed already.
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
        Command::Admin(command) => operator::run(&command),
        Command::Status(args) => operator::run(&AdminCommand::Status(args)),
        Command::Pods(args) => operator::run(&AdminCommand::Pods(args)),
        Command::Stop(args) => operator::run(&AdminCommand::Stop(args)),
        Command::Ban(args) => operator::run(&AdminCommand::Ban(args)),
        Command::Unban(args) => operator::run(&AdminCommand::Unban(args)),
        Command::Bans(args) => operator::run(&AdminCommand::Bans(args)),
        Command::Drain(args) => operator::run(&AdminCommand::Drain(args)),
        Command::Undrain(args) => operator::run(&AdminCommand::Undrain(args)),
        Command::Log(args) => operator::run(&AdminCommand::LogLevel(args)),
        Command::Manifest(command) => manifest::run(&command),
        Command::Image(command) => image::run(&command),
        Command::Network(command) => network::run(&command),
        Command::Certs(command) => certs::run(&command),
        Command::Completions(args) => reference::completions(&args),
        Command::Man(args) => reference::man(&args),
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    if args.print_default {
        print!("{}", keys::default_file());
        return ExitCode::SUCCESS;
    }
    match args.config.settings() {
        Ok((settings, config)) => {
            if let Some(Err(error)) = config.tls.as_ref().map(TlsChoice::load) {
                return usage(&format_args!("tls.certificates (CODIUS_TLS_CERTS): {error}"));
            }
            print!("{}", settings.show(&config));
            ExitCode::SUCCESS
        }
        Err(error) => usage(&error),
    }
}

/// Reports a usage or configuration error, in one line.
fn usage(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("codiusd: {error}");
    ExitCode::from(USAGE)
}

/// Reports an error with its causes, in one line.
fn failure(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("codiusd: {}", in_full(error));
    ExitCode::FAILURE
}

/// A run time in seconds: `90`, `90s`, `15m`, `1h`, `2d`.
fn parse_duration(text: &str) -> Result<NonZeroU32, String> {
    let whole = units::parse_duration(text).filter(|time| time.subsec_nanos() == 0);
    let seconds = whole.and_then(|time| time.as_secs().try_into().ok()).and_then(NonZeroU32::new);
    seconds.ok_or_else(|| format!("{text:?} is not a duration such as 3600, 90s, 15m, 1h or 2d"))
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
        command_line().debug_assert();
        let command = command_line();
        let visible: Vec<&str> = command.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name).collect();
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        assert_eq!(visible.len(), grouped.len(), "{visible:?} in {grouped:?}");
        assert!(visible.iter().all(|name| grouped.contains(name)), "{visible:?} in {grouped:?}");
    }
}
