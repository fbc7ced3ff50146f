//! The tables of pods: orders, stages, and crash histories.

use codiusd_runtime::{PodId, PodSpec};
use rusqlite::{Connection, Transaction, named_params, params};

use super::{CrashHistory, Pod, PodRecord, Term};
use crate::{
    db::{Change, LoadError, milliseconds, time},
    pod_sizes::SMALL,
    workload::PodOrder,
};

/// A change of these tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodChange {
    /// Replaces a pod's crash history.
    CrashHistory(PodId, CrashHistory),
    /// Replaces a pod's stage, but not its manifest and spec.
    Progress(PodId, Pod),
    /// Adds or replaces a pod.
    Put(Box<PodRecord>),
    /// Removes a pod with its manifest and private values.
    Remove(PodId),
    /// Removes a pod's crash history.
    RemoveCrashHistory(PodId),
}

impl Change for PodChange {
    fn apply(&self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Self::CrashHistory(id, history) => {
                let mut insert = to.prepare_cached(
                    "INSERT OR REPLACE INTO crash_history (hash, strikes, suspicions, last, crashed) VALUES (?, ?, ?, ?, ?)",
                )?;
                let crashed = history.crashed.map(u64::to_be_bytes);
                insert.execute(params![id.as_str(), history.strikes, history.suspicions, milliseconds(history.last), crashed])?;
            }
            Self::Progress(id, pod) => put_progress(to, id.as_str(), pod)?,
            Self::Put(record) => put_pod(to, record)?,
            Self::Remove(id) => {
                to.prepare_cached("DELETE FROM manifests WHERE hash = ?")?.execute([id.as_str()])?;
            }
            Self::RemoveCrashHistory(id) => {
                to.prepare_cached("DELETE FROM crash_history WHERE hash = ?")?.execute([id.as_str()])?;
            }
        }
        Ok(())
    }

    fn deletes_secrets(&self) -> bool {
        matches!(self, Self::Remove(_))
    }
}

fn put_pod(to: &Transaction<'_>, record: &PodRecord) -> rusqlite::Result<()> {
    let order = &record.order;
    let json = |error: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(Box::new(error));
    let spec = serde_json::to_string(&order.spec).map_err(json)?;
    let mut upsert = to.prepare_cached(
        "INSERT INTO manifests (hash, manifest, spec, port, debug) VALUES (:hash, :manifest, :spec, :port, :debug)
         ON CONFLICT (hash) DO UPDATE SET manifest = excluded.manifest, spec = excluded.spec, port = excluded.port, debug = excluded.debug",
    )?;
    upsert.execute(named_params! {
        ":hash": order.spec.id.as_str(), ":manifest": order.manifest.as_ref(), ":spec": spec, ":port": order.port, ":debug": order.debug,
    })?;
    put_progress(to, order.spec.id.as_str(), &record.pod)
}

fn put_progress(to: &Transaction<'_>, hash: &str, pod: &Pod) -> rusqlite::Result<()> {
    let mut upsert = to.prepare_cached(
        "INSERT OR REPLACE INTO pods (hash, state, segment, seconds, kept_seconds, at)
         VALUES (:hash, :state, :segment, :seconds, :kept, :at)",
    )?;
    match pod {
        Pod::Starting { segment, seconds, kept_seconds } => upsert.execute(named_params! {
            ":hash": hash, ":state": "starting", ":segment": segment, ":seconds": seconds, ":kept": kept_seconds, ":at": None::<i64>,
        })?,
        Pod::Running { term: Term { expires_at, bought_seconds } } => upsert.execute(named_params! {
            ":hash": hash, ":state": "running", ":segment": None::<&str>, ":seconds": bought_seconds, ":kept": None::<u32>,
            ":at": milliseconds(*expires_at),
        })?,
        Pod::Exited { seconds, forget_at } => upsert.execute(named_params! {
            ":hash": hash, ":state": "exited", ":segment": None::<&str>, ":seconds": seconds, ":kept": None::<u32>,
            ":at": milliseconds(*forget_at),
        })?,
    };
    Ok(())
}

pub(crate) fn load_pods(connection: &Connection) -> Result<Vec<PodRecord>, LoadError> {
    let mut select = connection.prepare("SELECT * FROM manifests JOIN pods USING (hash)")?;
    let mut rows = select.query([])?;
    let mut pods = Vec::new();
    while let Some(row) = rows.next()? {
        let hash: String = row.get("hash")?;
        let bad = |column: &str| LoadError::Corrupt(format!("{column} of pod {hash}"));
        let spec: PodSpec = serde_json::from_str(&row.get::<_, String>("spec")?).map_err(|_| bad("manifests.spec"))?;
        let manifest: String = row.get("manifest")?;
        if spec.id.as_str() != hash {
            return Err(bad("manifests.spec"));
        }
        let state: String = row.get("state")?;
        let pod = match state.as_str() {
            "starting" => {
                Pod::Starting { segment: row.get("segment")?, seconds: row.get("seconds")?, kept_seconds: row.get("kept_seconds")? }
            }
            "running" => Pod::Running { term: Term { expires_at: time(row, "at")?, bought_seconds: row.get("seconds")? } },
            "exited" => Pod::Exited { seconds: row.get("seconds")?, forget_at: time(row, "at")? },
            _ => return Err(bad("pods.state")),
        };
        let machine = machine_of(&manifest).ok_or_else(|| bad("manifests.manifest"))?;
        let order = PodOrder { spec, machine, manifest: manifest.into(), port: row.get("port")?, debug: row.get("debug")? };
        pods.push(PodRecord { order, pod });
    }
    Ok(pods)
}

/// The size a stored manifest asks for.
fn machine_of(manifest: &str) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_str(manifest).ok()?;
    manifest.get("machine").map_or(Some(SMALL), serde_json::Value::as_str).map(str::to_owned)
}

pub(crate) fn load_crash_histories(connection: &Connection) -> Result<Vec<(PodId, CrashHistory)>, LoadError> {
    let mut select = connection.prepare("SELECT * FROM crash_history")?;
    let mut rows = select.query([])?;
    let mut histories = Vec::new();
    while let Some(row) = rows.next()? {
        let hash: String = row.get("hash")?;
        let id = hash.parse().map_err(|_| LoadError::Corrupt(format!("crash_history.hash {hash}")))?;
        let crashed = row.get::<_, Option<[u8; 8]>>("crashed")?.map(u64::from_be_bytes);
        let (strikes, suspicions, last) = (row.get("strikes")?, row.get("suspicions")?, time(row, "last")?);
        histories.push((id, CrashHistory { strikes, suspicions, last, crashed }));
    }
    Ok(histories)
}
