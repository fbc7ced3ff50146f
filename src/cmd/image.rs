//! `codiusd image demo DIR`.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::failure;
use crate::demo_image;

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Write a tiny web page's image as an OCI layout, and print its reference for a manifest
    ///
    /// It serves a page and a WebSocket echo (/ws) on port 8080 and writes a line to its log for every request. A host runs
    /// it if the directory is one of its CODIUS_IMAGE_LAYOUTS.
    Demo {
        /// Directory the layout is written into; made if it isn't there
        directory: PathBuf,
    },
}

pub(super) fn run(command: &ImageCommand) -> ExitCode {
    let ImageCommand::Demo { directory } = command;
    match demo_image::write(directory) {
        Ok(reference) => {
            println!("{reference}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("codiusd: can't write the layout into {}:", directory.display());
            failure(&error)
        }
    }
}
