//! The image of the demo page, embedded in this binary.

use std::{io, path::Path};

use codiusd_runtime::image::layout::{NewFile, NewImage, write as write_layout};

/// The page's static binary, built by `build.rs`.
const PAGE: &[u8] = include_bytes!(env!("CODIUS_DEMO_BINARY"));

/// Writes the image as an OCI layout into `directory` and returns its reference, `local/demo@sha256:...`.
pub fn write(directory: &Path) -> io::Result<String> {
    let files = [NewFile { path: "codius-demo-page", content: PAGE, mode: 0o755 }];
    let image = NewImage { name: "demo", files: &files, entrypoint: &["/codius-demo-page"], user: "1000:1000", ports: &["8080/tcp"] };
    write_layout(directory, &image)
}
