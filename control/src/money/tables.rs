//! The tables of money: invoices, their credits, and the totals of each asset.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::{Connection, Transaction, named_params, params};

use super::Asset;
use crate::db::{Change, LoadError, amount, integer, milliseconds, time};

/// The state of an invoice. The transitions are in `money/invoices.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvoiceState {
    /// Receives money until the price is paid; then waits for its request.
    Open,
    /// The request is being carried out.
    Consuming,
    /// Spent; keeps the answer for repeated requests.
    Consumed {
        /// JSON body of the answer.
        answer: String,
    },
}

/// An invoice; stored from its first credit on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceRow {
    /// Segment of the ILP address it is paid at.
    pub segment: String,
    /// Hash of its Pay-Token.
    pub token: [u8; 32],
    /// The one request it can pay for.
    pub binding: [u8; 32],
    /// The asset it is paid in.
    pub asset: Asset,
    /// The price of its request.
    pub price: u64,
    /// Its state.
    pub state: InvoiceState,
    /// When it is removed.
    pub expires_at: Timestamp,
}

/// One fulfilled packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditRow {
    /// The packet's condition: a replayed packet has the same.
    pub condition: [u8; 32],
    /// Amount credited.
    pub amount: u64,
}

/// Totals of one asset. Received money that is neither earned nor forfeited is credit on open invoices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Credited by fulfilled packets.
    pub received: u64,
    /// Spent on run time.
    pub earned: u64,
    /// Unused credit that has expired.
    pub forfeited: u64,
}

/// A change of these tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MoneyChange {
    /// Adds a credit to an invoice that is stored.
    Credit { segment: String, credit: CreditRow },
    /// Adds or replaces an invoice.
    Invoice(InvoiceRow),
    /// Removes an invoice with its credits.
    Remove(String),
    /// Adds to an asset's totals.
    Totals(Asset, Totals),
}

impl Change for MoneyChange {
    fn apply(&self, to: &Transaction<'_>) -> rusqlite::Result<()> {
        match self {
            Self::Credit { segment, credit } => {
                let mut insert = to.prepare_cached("INSERT INTO credits (segment, condition, amount) VALUES (?, ?, ?)")?;
                insert.execute(params![segment, credit.condition, integer(credit.amount)?])?;
            }
            Self::Invoice(row) => put_invoice(to, row)?,
            Self::Remove(segment) => {
                to.prepare_cached("DELETE FROM invoices WHERE segment = ?")?.execute([segment])?;
            }
            Self::Totals(asset, added) => add_totals(to, asset, added)?,
        }
        Ok(())
    }
}

fn put_invoice(to: &Transaction<'_>, row: &InvoiceRow) -> rusqlite::Result<()> {
    let (state, answer) = match &row.state {
        InvoiceState::Open => ("open", None),
        InvoiceState::Consuming => ("consuming", None),
        InvoiceState::Consumed { answer } => ("consumed", Some(answer)),
    };
    let mut upsert = to.prepare_cached(
        "INSERT INTO invoices (segment, token, binding, asset_code, asset_scale, price, state, answer, expires_at)
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

fn add_totals(to: &Transaction<'_>, asset: &Asset, added: &Totals) -> rusqlite::Result<()> {
    let mut upsert = to.prepare_cached(
        "INSERT INTO earnings (asset_code, asset_scale, received, earned, forfeited) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (asset_code, asset_scale) DO UPDATE SET received = received + excluded.received,
             earned = earned + excluded.earned, forfeited = forfeited + excluded.forfeited",
    )?;
    let [received, earned, forfeited] = [integer(added.received)?, integer(added.earned)?, integer(added.forfeited)?];
    upsert.execute(params![asset.code, asset.scale, received, earned, forfeited])?;
    Ok(())
}

/// Invoices with their credits.
pub(crate) fn load_invoices(connection: &Connection) -> Result<Vec<(InvoiceRow, Vec<CreditRow>)>, LoadError> {
    let mut credits: HashMap<String, Vec<CreditRow>> = HashMap::new();
    let mut select = connection.prepare("SELECT segment, condition, amount FROM credits")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let credit = CreditRow { condition: row.get("condition")?, amount: amount(row, "amount")? };
        credits.entry(row.get("segment")?).or_default().push(credit);
    }
    let mut select = connection.prepare("SELECT * FROM invoices")?;
    let mut rows = select.query([])?;
    let mut invoices = Vec::new();
    while let Some(row) = rows.next()? {
        let state: String = row.get("state")?;
        let answer: Option<String> = row.get("answer")?;
        let state = match (state.as_str(), answer) {
            ("open", None) => InvoiceState::Open,
            ("consuming", None) => InvoiceState::Consuming,
            ("consumed", Some(answer)) => InvoiceState::Consumed { answer },
            (other, _) => return Err(LoadError::Corrupt(format!("invoices.state {other}"))),
        };
        let invoice = InvoiceRow {
            segment: row.get("segment")?,
            token: row.get("token")?,
            binding: row.get("binding")?,
            asset: Asset { code: row.get("asset_code")?, scale: row.get("asset_scale")? },
            price: amount(row, "price")?,
            state,
            expires_at: time(row, "expires_at")?,
        };
        let credits = credits.remove(&invoice.segment).unwrap_or_default();
        invoices.push((invoice, credits));
    }
    Ok(invoices)
}

pub(crate) fn load_totals(connection: &Connection) -> Result<Vec<(Asset, Totals)>, LoadError> {
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
