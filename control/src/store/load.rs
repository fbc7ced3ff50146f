//! Reading everything at start.

use std::collections::HashMap;

use codiusd_runtime::{PodId, PodSpec};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    apply,
    rows::{CreditRow, PaymentRow, PaymentState, Snapshot, Totals},
};
use crate::house::{Ban, HouseRows};
use crate::machines::SMALL;
use crate::pay::{Asset, CostPerMonth};
use crate::pods::{Marks, Order, Pod, PodRecord, Term};

/// What may be wrong with the file.
#[derive(Debug)]
pub(super) enum LoadError {
    Corrupt(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for LoadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

pub(super) fn everything(connection: &Connection) -> Result<Snapshot, LoadError> {
    Ok(Snapshot {
        server_secret: apply::server_secret(connection)?,
        house: house(connection)?,
        marks: marks(connection)?,
        payments: payments(connection)?,
        peers: peers(connection)?,
        pods: pods(connection)?,
        totals: totals(connection)?,
    })
}

fn payments(connection: &Connection) -> Result<Vec<(PaymentRow, Vec<CreditRow>)>, LoadError> {
    let mut credits: HashMap<String, Vec<CreditRow>> = HashMap::new();
    let mut select = connection.prepare("SELECT segment, condition, amount FROM credits")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let credit = CreditRow { condition: row.get("condition")?, amount: amount(row, "amount")? };
        credits.entry(row.get("segment")?).or_default().push(credit);
    }
    let mut select = connection.prepare("SELECT * FROM payments")?;
    let mut rows = select.query([])?;
    let mut payments = Vec::new();
    while let Some(row) = rows.next()? {
        let state: String = row.get("state")?;
        let answer: Option<String> = row.get("answer")?;
        let state = match (state.as_str(), answer) {
            ("open", None) => PaymentState::Open,
            ("consuming", None) => PaymentState::Consuming,
            ("consumed", Some(answer)) => PaymentState::Consumed { answer },
            (other, _) => return Err(LoadError::Corrupt(format!("payments.state {other}"))),
        };
        let payment = PaymentRow {
            segment: row.get("segment")?,
            token: row.get("token")?,
            binding: row.get("binding")?,
            asset: Asset { code: row.get("asset_code")?, scale: row.get("asset_scale")? },
            price: amount(row, "price")?,
            state,
            expires_at: time(row, "expires_at")?,
        };
        let credits = credits.remove(&payment.segment).unwrap_or_default();
        payments.push((payment, credits));
    }
    Ok(payments)
}

fn house(connection: &Connection) -> Result<HouseRows, LoadError> {
    let said =
        |name: &str| connection.query_row("SELECT value FROM house WHERE name = ?", [name], |row| row.get::<_, String>(0)).optional();
    let cost = |name: &str| -> Result<Option<CostPerMonth>, LoadError> {
        let bad = || LoadError::Corrupt(format!("house {name}"));
        said(name)?.map(|text| text.parse().map_err(|_| bad())).transpose()
    };
    let mut select = connection.prepare("SELECT kind, subject, stop FROM bans")?;
    let mut rows = select.query([])?;
    let mut bans = Vec::new();
    while let Some(row) = rows.next()? {
        let (kind, subject): (String, String) = (row.get("kind")?, row.get("subject")?);
        let ban = match kind.as_str() {
            "manifest" => subject.parse().ok().map(Ban::Manifest),
            _ => Ban::image(&subject).ok(),
        };
        bans.push((ban.ok_or_else(|| LoadError::Corrupt(format!("bans.subject {subject}")))?, row.get("stop")?));
    }
    let cost = cost(apply::COST)?.zip(cost(apply::COST_INSTEAD_OF)?);
    Ok(HouseRows { bans, cost, draining: said(apply::DRAINING)?.as_deref() == Some("true") })
}

fn marks(connection: &Connection) -> Result<Vec<(PodId, Marks)>, LoadError> {
    let mut select = connection.prepare("SELECT * FROM marks")?;
    let mut rows = select.query([])?;
    let mut marks = Vec::new();
    while let Some(row) = rows.next()? {
        let hash: String = row.get("hash")?;
        let id = hash.parse().map_err(|_| LoadError::Corrupt(format!("marks.hash {hash}")))?;
        let crashed = row.get::<_, Option<[u8; 8]>>("crashed")?.map(u64::from_be_bytes);
        marks.push((id, Marks { strikes: row.get("strikes")?, suspicions: row.get("suspicions")?, last: time(row, "last")?, crashed }));
    }
    Ok(marks)
}

fn peers(connection: &Connection) -> Result<Vec<String>, LoadError> {
    let mut select = connection.prepare("SELECT uri FROM peers")?;
    let uris = select.query_map([], |row| row.get(0))?;
    Ok(uris.collect::<rusqlite::Result<_>>()?)
}

fn pods(connection: &Connection) -> Result<Vec<PodRecord>, LoadError> {
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
        let order = Order { spec, machine, manifest: manifest.into(), port: row.get("port")?, debug: row.get("debug")? };
        pods.push(PodRecord { order, pod });
    }
    Ok(pods)
}

/// The size a stored manifest asks for.
fn machine_of(manifest: &str) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_str(manifest).ok()?;
    manifest.get("machine").map_or(Some(SMALL), serde_json::Value::as_str).map(str::to_owned)
}

fn totals(connection: &Connection) -> Result<Vec<(Asset, Totals)>, LoadError> {
    let mut select = connection.prepare("SELECT * FROM earnings")?;
    let mut rows = select.query([])?;
    let mut totals = Vec::new();
    while let Some(row) = rows.next()? {
        let asset = Asset { code: row.get("asset_code")?, scale: row.get("asset_scale")? };
        let sums = Totals { received: amount(row, "received")?, earned: amount(row, "earned")?, forfeited: amount(row, "forfeited")? };
        totals.push((asset, sums));
    }
    Ok(totals)
}

fn amount(row: &Row<'_>, column: &str) -> Result<u64, LoadError> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| LoadError::Corrupt(format!("{column} {value}")))
}

fn time(row: &Row<'_>, column: &str) -> Result<Timestamp, LoadError> {
    let value: i64 = row.get(column)?;
    Timestamp::from_millisecond(value).map_err(|_| LoadError::Corrupt(format!("{column} {value}")))
}
