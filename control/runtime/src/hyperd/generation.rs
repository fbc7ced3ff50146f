//! Identifies the current run of the daemon. A pod created under an earlier one continues to serve, but its log is dead, and it will block
//! in `write` after a megabyte or two.

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{
    client::{Call, Client},
    error::HyperdError,
};

/// One run of hyperd, from its start to its end; two runs are equal with a probability of one in 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Generation(pub(super) u32);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    /// The daemon's process id, in its own namespace.
    #[serde(rename = "ID")]
    id: serde_json::Value,
}

/// The run of the daemon that answers now: its process id as it reports it, and as the kernel reports it together with the start time. In a
/// container the first is often the same for every run; behind a relay the second is.
pub(super) async fn current(client: &Client) -> Result<Generation, HyperdError> {
    let (answer, peer) = client.call_with_peer(Call::Version, &[], None).await?;
    let version: Version = read(&answer)?;
    let started = match peer {
        Some(pid) => started(pid).await,
        None => None,
    };
    let hash = Sha256::digest(format!("{} {peer:?} {started:?} {}", version.id, boot().await));
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
    Ok(Generation(u32::from_be_bytes([a, b, c, d])))
}

/// Which boot of the machine this is: process ids and ticks start over with each.
async fn boot() -> String {
    tokio::fs::read_to_string("/proc/sys/kernel/random/boot_id").await.unwrap_or_default()
}

/// The start time of a process, in clock ticks since boot (field 22 of /proc/PID/stat).
async fn started(pid: i32) -> Option<u64> {
    let stat = tokio::fs::read_to_string(format!("/proc/{pid}/stat")).await.ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Parses a JSON answer.
pub(super) fn read<T: serde::de::DeserializeOwned>(answer: &Bytes) -> Result<T, HyperdError> {
    serde_json::from_slice(answer).map_err(|_| HyperdError::Unreadable)
}
