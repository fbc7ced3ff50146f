//! Documents generated from the command line: man pages, completions, the reference in docs/operate/cli.md.

use std::{fmt::Write, fs, io, path::PathBuf, process::ExitCode};

use clap::{Args, Command};
use clap_complete::Shell;

use super::{command_line, failure};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// bash, elvish, fish, powershell or zsh
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Directory that gets codiusd.1, codiusd-serve.1, ...
    directory: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> ExitCode {
    clap_complete::generate(args.shell, &mut command_line(), "codiusd", &mut io::stdout());
    ExitCode::SUCCESS
}

pub(super) fn man(args: &ManArgs) -> ExitCode {
    let written = fs::create_dir_all(&args.directory).and_then(|()| clap_mangen::generate_to(command_line(), &args.directory));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// The commands and their options as Markdown, for docs/operate/cli.md.
pub fn command_reference() -> String {
    let mut text = String::new();
    let mut command = command_line();
    command.build();
    describe(&command, &mut text);
    text
}

fn describe(command: &Command, text: &mut String) {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let arguments: Vec<String> = command.get_arguments().filter(|argument| argument.get_id() != "help").map(argument).collect();
        // Writing to a string doesn't fail.
        let _ = write!(text, "## {name}\n\n{about}.\n\n");
        if !arguments.is_empty() {
            let _ = write!(text, "| argument | what it does |\n|---|---|\n{}\n", arguments.concat());
        }
        describe(command, text);
    }
}

fn argument(argument: &clap::Arg) -> String {
    let values = argument.get_value_names().filter(|_| argument.get_action().takes_values()).unwrap_or_default();
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let shown = match argument.get_long() {
        Some(long) => format!("{short}--{long} {}", values.join(" ")),
        None => values.join(" "),
    };
    let help = argument.get_help().map(|help| help.to_string().replace('|', "\\|")).unwrap_or_default();
    format!("| `{}` | {help} |\n", shown.trim())
}
