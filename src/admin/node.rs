//! The endpoints that operators' tools of the Node codiusd use, in its format.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
};
use codiusd_control::{
    money::{Asset, CostPerMonth, Totals, decimal},
    pods::{PodPhase, PodSummary},
};
use codiusd_runtime::PodId;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{
    AdminState,
    answer::{AdminError, object},
};

/// Unit of a pod's memory in answers.
const MIB: u64 = 1 << 20;

pub(super) async fn here() -> Json<Value> {
    Json(json!({ "test": "This shows that you are running the Codiusd Admin API." }))
}

pub(super) async fn running(State(admin): State<Arc<AdminState>>) -> Json<Value> {
    let pods = admin.paid_requests.pods().summaries();
    let ids: Vec<&str> = pods.iter().filter(|pod| pod.phase == PodPhase::Running).map(|pod| pod.order.spec.id.as_str()).collect();
    Json(json!({ "running": ids }))
}

#[derive(Deserialize)]
pub(super) struct PodParams {
    id: Option<String>,
}

pub(super) async fn pod(
    State(admin): State<Arc<AdminState>>,
    Query(PodParams { id }): Query<PodParams>,
) -> Result<Json<Value>, AdminError> {
    let text = id.filter(|id| !id.is_empty()).ok_or(AdminError::NoHash)?;
    let facts = text.parse::<PodId>().ok().and_then(|id| admin.paid_requests.pods().facts(&id));
    let facts = facts.ok_or(AdminError::NoPod(text))?;
    Ok(Json(json!({
        "id": facts.order.spec.id,
        "running": facts.phase == PodPhase::Running,
        "start": facts.run.map(|run| format!("{:.3}", run.since)),
        "expiry": facts.run.map(|run| format!("{:.3}", run.term.expires_at)),
        "memory": facts.memory_bytes / MIB,
        "totalUptime": bought_seconds(&facts),
        "port": facts.order.port,
        "ip": facts.run.map(|run| run.address),
    })))
}

pub(super) async fn uptime(State(admin): State<Arc<AdminState>>) -> Json<Value> {
    let seconds = admin.paid_requests.pods().summaries().iter().map(bought_seconds).fold(0, u64::saturating_add);
    let mut earnings = earnings(&admin.paid_requests.totals());
    if let Some(asset) = admin.paid_requests.asset() {
        earnings.entry(asset.code).or_insert_with(|| "0".to_owned());
    }
    Json(json!({ "aggregate_pod_uptime": seconds.to_string(), "aggregate_earnings": earnings }))
}

/// Total run time bought for a running pod.
fn bought_seconds(pod: &PodSummary) -> u64 {
    pod.run.map_or(0, |run| run.term.bought_seconds.into())
}

/// Exact earnings by currency. An asset whose scale has changed counts as one currency; it is listed separately only if the sum
/// would overflow.
fn earnings(totals: &[(Asset, Totals)]) -> BTreeMap<String, String> {
    let mut sums: BTreeMap<String, (u128, u8)> = BTreeMap::new();
    let mut apart = BTreeMap::new();
    for (asset, total) in totals {
        let earned = u128::from(total.earned);
        let sum = match sums.get(&asset.code) {
            None => Some((earned, asset.scale)),
            Some(known) => added(*known, (earned, asset.scale)),
        };
        match sum {
            Some(sum) => drop(sums.insert(asset.code.clone(), sum)),
            None => drop(apart.insert(asset.to_string(), decimal(earned, asset.scale))),
        }
    }
    apart.extend(sums.into_iter().map(|(code, (units, scale))| (code, decimal(units, scale))));
    apart
}

/// The sum of two amounts at the finer of their scales; none if it overflows.
fn added(one: (u128, u8), other: (u128, u8)) -> Option<(u128, u8)> {
    let scale = one.1.max(other.1);
    let fine = |(units, of): (u128, u8)| 10_u128.checked_pow((scale - of).into())?.checked_mul(units);
    Some((fine(one)?.checked_add(fine(other)?)?, scale))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigParams {
    #[serde(default, rename = "hostCostPerMonth", deserialize_with = "said")]
    cost: Option<Value>,
    #[serde(default)]
    durable: Option<bool>,
}

/// Reads `null` as a value, so that it is distinct from a missing field.
fn said<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// Changes the price: from the next quote on, and (unless `durable` is false) after a restart. 0 is free, as in the settings.
pub(super) async fn config(State(admin): State<Arc<AdminState>>, headers: HeaderMap, body: Bytes) -> Result<StatusCode, AdminError> {
    let ConfigParams { cost, durable } = object(&headers, &body)?;
    if let Some(value) = cost {
        let wrong = || AdminError::Payload(format!("hostCostPerMonth: {}", codiusd_control::money::BadCost));
        let cost = cost_of(&value).ok_or_else(wrong)?;
        admin.paid_requests.pods().set_cost(cost, durable.unwrap_or(true)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// A price as a number or as text. A number with a decimal point is read as a double, as JavaScript does, and means the shortest
/// decimal that parses to it: exactly what was written, up to 15 digits. Text is exact.
fn cost_of(value: &Value) -> Option<CostPerMonth> {
    match value {
        Value::Number(number) => match number.as_u64() {
            Some(whole) => whole.to_string().parse().ok(),
            None => number.as_f64()?.to_string().parse().ok(),
        },
        Value::String(text) => text.parse().ok(),
        Value::Array(_) | Value::Bool(_) | Value::Null | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_exactly() {
        for (json, expected) in [
            ("20", Some("20")),
            ("0", Some("0")),
            ("0.1", Some("0.1")),
            ("1e-7", Some("0.0000001")),
            ("123456789.123456", Some("123456789.123456")),
            ("1e3", Some("1000")),
            (r#""0.000000000000000001""#, Some("0.000000000000000001")),
            (r#""15""#, Some("15")),
            ("18446744073709551615", Some("18446744073709551615")),
            ("1e300", None),
            ("-1", None),
            ("-0.5", None),
            (r#""abc""#, None),
            (r#""-1""#, None),
            (r#""""#, None),
            ("null", None),
            ("true", None),
            ("[1]", None),
        ] {
            let value = serde_json::from_str(json).unwrap();
            assert_eq!(cost_of(&value).map(|cost| cost.to_string()).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn earnings_of_a_currency_are_one_sum() {
        let total = |code: &str, scale, earned| (Asset { code: code.to_owned(), scale }, Totals { earned, ..Totals::default() });
        let sums = |totals: &[_]| serde_json::to_string(&earnings(totals)).unwrap();
        assert_eq!(sums(&[total("XRP", 9, 12_300_000)]), r#"{"XRP":"0.0123"}"#);
        assert_eq!(sums(&[total("USD", 2, 5), total("XRP", 6, 1), total("XRP", 9, 1)]), r#"{"USD":"0.05","XRP":"0.000001001"}"#);
        let far = sums(&[total("XRP", 2, 150), total("XRP", 60, 1)]);
        assert_eq!(far, format!(r#"{{"XRP":"1.5","XRP scale 60":"0.{}1"}}"#, "0".repeat(59)));
    }
}
