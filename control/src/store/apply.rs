//! One change as SQL.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, named_params, params};

use super::rows::{PaymentRow, PaymentState, Totals, Write};
use crate::pay::Asset;
use crate::pods::{Pod, PodRecord, Term};

/// Names of what the operator has said.
pub(super) const COST: &str = "cost_per_month";
pub(super) const COST_INSTEAD_OF: &str = "cost_per_month_instead_of";
pub(super) const DRAINING: &str = "draining";

/// Makes all changes durable, or none.
pub(super) fn group<'a>(connection: &mut Connection, writes: impl Iterator<Item = &'a Write>) -> rusqlite::Result<()> {
    let mut writes = writes.peekable();
    if writes.peek().is_none() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for write in writes {
        apply(&transaction, write)?;
    }
    transaction.commit()
}

fn apply(to: &Transaction<'_>, write: &Write) -> rusqlite::Result<()> {
    match write {
        Write::Ban { ban, stop } => {
            let mut insert = to.prepare_cached("INSERT OR REPLACE INTO bans (kind, subject, stop) VALUES (?, ?, ?)")?;
            insert.execute(params![ban.kind(), ban.to_string(), stop])?;
        }
        Write::Cost { cost, instead_of } => {
            house(to, COST, &cost.to_string())?;
            house(to, COST_INSTEAD_OF, &instead_of.to_string())?;
        }
        Write::Draining(draining) => house(to, DRAINING, if *draining { "true" } else { "false" })?,
        Write::Credit { segment, credit } => {
            let mut insert = to.prepare_cached("INSERT INTO credits (segment, condition, amount) VALUES (?, ?, ?)")?;
            insert.execute(params![segment, credit.condition, integer(credit.amount)?])?;
        }
        Write::ForgetMarks(id) => {
            to.prepare_cached("DELETE FROM marks WHERE hash = ?")?.execute([id.as_str()])?;
        }
        Write::ForgetPayment(segment) => {
            to.prepare_cached("DELETE FROM payments WHERE segment = ?")?.execute([segment])?;
        }
        Write::ForgetPeer(uri) => {
            to.prepare_cached("DELETE FROM peers WHERE uri = ?")?.execute([uri])?;
        }
        Write::ForgetPod(id) => {
            to.prepare_cached("DELETE FROM manifests WHERE hash = ?")?.execute([id.as_str()])?;
        }
        Write::Marks(id, marks) => {
            let mut insert =
                to.prepare_cached("INSERT OR REPLACE INTO marks (hash, strikes, suspicions, last, crashed) VALUES (?, ?, ?, ?, ?)")?;
            let crashed = marks.crashed.map(u64::to_be_bytes);
            insert.execute(params![id.as_str(), marks.strikes, marks.suspicions, milliseconds(marks.last), crashed])?;
        }
        Write::Payment(row) => payment(to, row)?,
        Write::Peer(uri) => {
            to.prepare_cached("INSERT OR IGNORE INTO peers (uri) VALUES (?)")?.execute([uri])?;
        }
        Write::Pod(record) => pod(to, record)?,
        Write::PodProgress(id, pod) => progress(to, id.as_str(), pod)?,
        Write::Totals(asset, added) => totals(to, asset, added)?,
        Write::Unban(ban) => {
            to.prepare_cached("DELETE FROM bans WHERE kind = ? AND subject = ?")?.execute(params![ban.kind(), ban.to_string()])?;
        }
    }
    Ok(())
}

fn house(to: &Transaction<'_>, name: &str, value: &str) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT OR REPLACE INTO house (name, value) VALUES (?, ?)")?.execute([name, value])?;
    Ok(())
}

fn payment(to: &Transaction<'_>, row: &PaymentRow) -> rusqlite::Result<()> {
    let (state, answer) = match &row.state {
        PaymentState::Open => ("open", None),
        PaymentState::Consuming => ("consuming", None),
        PaymentState::Consumed { answer } => ("consumed", Some(answer)),
    };
    let mut upsert = to.prepare_cached(
        "INSERT INTO payments (segment, token, binding, asset_code, asset_scale, price, state, answer, expires_at)
         VALUES (:segment, :token, :binding, :code, :scale, :price, :state, :answer, :expires_at)
         ON CONFLICT (segment) DO UPDATE SET binding = excluded.binding, asset_code = excluded.asset_code,
             asset_scale = excluded.asset_scale, price = excluded.price, state = excluded.state, answer = excluded.answer,
             expires_at = excluded.expires_at",
    )?;
    upsert.execute(named_params! {
        ":segment": row.segment, ":token": row.token, ":binding": row.binding, ":code": row.asset.code, ":scale": row.asset.scale,
        ":price": integer(row.price)?, ":state": state, ":answer": answer, ":expires_at": milliseconds(row.expires_at),
    })?;
    Ok(())
}

fn pod(to: &Transaction<'_>, record: &PodRecord) -> rusqlite::Result<()> {
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
    progress(to, order.spec.id.as_str(), &record.pod)
}

fn progress(to: &Transaction<'_>, hash: &str, pod: &Pod) -> rusqlite::Result<()> {
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

fn totals(to: &Transaction<'_>, asset: &Asset, added: &Totals) -> rusqlite::Result<()> {
    let mut upsert = to.prepare_cached(
        "INSERT INTO earnings (asset_code, asset_scale, received, earned, forfeited) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (asset_code, asset_scale) DO UPDATE SET received = received + excluded.received,
             earned = earned + excluded.earned, forfeited = forfeited + excluded.forfeited",
    )?;
    let [received, earned, forfeited] = [integer(added.received)?, integer(added.earned)?, integer(added.forfeited)?];
    upsert.execute(params![asset.code, asset.scale, received, earned, forfeited])?;
    Ok(())
}

/// The secret all STREAM secrets of this host derive from; made at the first start.
pub(super) fn server_secret(connection: &Connection) -> rusqlite::Result<[u8; 32]> {
    let name = "server_secret";
    let known = connection.query_row("SELECT value FROM meta WHERE name = ?", [name], |row| row.get(0)).optional()?;
    if let Some(secret) = known {
        return Ok(secret);
    }
    let secret: [u8; 32] = rand::random();
    connection.execute("INSERT INTO meta (name, value) VALUES (?, ?)", params![name, secret])?;
    Ok(secret)
}

fn integer(amount: u64) -> rusqlite::Result<i64> {
    i64::try_from(amount).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn milliseconds(time: Timestamp) -> i64 {
    time.as_millisecond()
}
