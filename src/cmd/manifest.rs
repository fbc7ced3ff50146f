//! `codiusd manifest check|hash FILE`.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use codiusd_control::manifest::{Rules, Upload};

use super::failure;

#[derive(Debug, Subcommand)]
pub(super) enum ManifestCommand {
    /// Say whether a host would take it, and what is wrong with which field if not
    Check {
        /// A manifest, or `{"manifest": ..., "private": ...}`; - for standard input
        file: PathBuf,
    },
    /// Print its hash, the pod's name, whether or not a host would run it
    Hash {
        /// A manifest, or `{"manifest": ..., "private": ...}`; - for standard input
        file: PathBuf,
    },
}

pub(super) fn run(command: &ManifestCommand) -> ExitCode {
    let (ManifestCommand::Check { file } | ManifestCommand::Hash { file }) = command;
    let contents = match read(file) {
        Ok(contents) => contents,
        Err(error) => {
            eprintln!("codiusd: can't read {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    };
    let checked = Upload::parse_file(&contents, &Rules::default());
    match command {
        ManifestCommand::Check { .. } => match checked {
            Ok(upload) => println!("{} is a valid manifest with hash {}", file.display(), upload.hash()),
            Err(error) => return failure(&error),
        },
        ManifestCommand::Hash { .. } => match Upload::hash_file(&contents) {
            Ok(hash) => {
                if let Err(error) = checked {
                    eprintln!("codiusd: no host runs this manifest: {error}");
                }
                println!("{hash}");
            }
            Err(error) => return failure(&error),
        },
    }
    ExitCode::SUCCESS
}

/// A file's bytes, or those of standard input for `-`.
pub(super) fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file != Path::new("-") {
        return fs::read(file);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}
