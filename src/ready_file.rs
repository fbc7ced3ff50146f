//! `ROOT/run/ready.json`: tells other processes on this machine that the host is up, and its addresses. It exists while the host serves.

use std::{
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use codiusd_proxy::Edge;
use serde_json::json;

/// The file; removed when dropped.
#[derive(Debug)]
pub(crate) struct ReadyFile(PathBuf);

impl ReadyFile {
    /// The path of the file in a host's `run` directory.
    pub(crate) fn path(run: &Path) -> PathBuf {
        run.join("ready.json")
    }

    /// Removes the file of an earlier process that was killed.
    pub(crate) fn forget(run: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(run)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the file once the host serves.
    pub(crate) fn write(run: &Path, edge: &Edge, ilp: &[SocketAddr], admin: Option<SocketAddr>, public_uri: &str) -> io::Result<Self> {
        let path = Self::path(run);
        let unfinished = path.with_extension("tmp");
        let ready = json!({
            "edge": edge.address(),
            "tls": edge.tls_addresses(),
            "ilp": ilp,
            "admin": admin,
            "publicUri": public_uri,
            "pid": std::process::id(),
        });
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(ready.to_string().as_bytes())?;
        fs::rename(unfinished, &path)?;
        Ok(Self(path))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, file = %self.0.display(), "ready file not removed");
        }
    }
}
