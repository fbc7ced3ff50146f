//! The tables of the operator's run-time changes: bans and settings.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{Ban, OperatorRows};
use crate::{
    db::{Change, LoadError},
    money::CostPerMonth,
};

const COST: &str = "cost_per_month";
const COST_INSTEAD_OF: &str = "cost_per_month_instead_of";
const DRAINING: &str = "draining";

/// A change of these tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OperatorChange {
    /// Adds or replaces a ban; `stop`: whether running pods under it are to be stopped.
    Ban { ban: Ban, stop: bool },
    /// The monthly cost of a small pod, and the configured cost at the time it was set.
    Cost { cost: CostPerMonth, instead_of: CostPerMonth },
    /// Whether uploads and extensions are refused.
    Draining(bool),
    /// Removes a ban.
    Unban(Ban),
}

impl Change for OperatorChange {
    fn apply(&self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Ban { ban, stop } => {
                let mut insert = to.prepare_cached("INSERT OR REPLACE INTO bans (kind, subject, stop) VALUES (?, ?, ?)")?;
                insert.execute(params![ban.kind(), ban.to_string(), stop])?;
            }
            Self::Cost { cost, instead_of } => {
                put(to, COST, &cost.to_string())?;
                put(to, COST_INSTEAD_OF, &instead_of.to_string())?;
            }
            Self::Draining(draining) => put(to, DRAINING, if *draining { "true" } else { "false" })?,
            Self::Unban(ban) => {
                to.prepare_cached("DELETE FROM bans WHERE kind = ? AND subject = ?")?.execute(params![ban.kind(), ban.to_string()])?;
            }
        }
        Ok(())
    }
}

fn put(to: &Transaction<'_>, name: &str, value: &str) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT OR REPLACE INTO operator_settings (name, value) VALUES (?, ?)")?.execute([name, value])?;
    Ok(())
}

pub(crate) fn load(connection: &Connection) -> Result<OperatorRows, LoadError> {
    let stored = |name: &str| {
        let value = "SELECT value FROM operator_settings WHERE name = ?";
        connection.query_row(value, [name], |row| row.get::<_, String>(0)).optional()
    };
    let cost = |name: &str| -> Result<Option<CostPerMonth>, LoadError> {
        let bad = || LoadError::Corrupt(format!("operator_settings {name}"));
        stored(name)?.map(|text| text.parse().map_err(|_| bad())).transpose()
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
    let cost = cost(COST)?.zip(cost(COST_INSTEAD_OF)?);
    Ok(OperatorRows { bans, cost, draining: stored(DRAINING)?.as_deref() == Some("true") })
}
