//! `/peers` and `/peers/discover`: known hosts, and announcements of hosts. As in the Node codiusd.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, Uri},
};
use codiusd_api_types::error::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::form_urlencoded;
use utoipa::ToSchema;

use super::{Api, VERSION, error::ApiError, request, self_test_gate::Untested};
use crate::peers::PeerUri;

/// Hosts of one answer, at most.
pub(super) const LIMIT_MAX: u16 = 1000;

/// Other hosts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Known {
    /// Their public URIs.
    #[schema(value_type = Vec<String>)]
    peers: Vec<PeerUri>,
}

/// Returns a random sample of the hosts this one knows
#[utoipa::path(
    get,
    path = "/peers",
    tag = "peers",
    params(("limit" = Option<u16>, Query, description = "how many, at most", minimum = 1, maximum = 1000)),
    responses(
        (status = 200, description = "A random sample", body = Known),
        (status = 400, description = "A query parameter is invalid", body = Failure),
    ),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Known>, ApiError> {
    let mut limit = None;
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        match (name.as_ref(), limit) {
            ("limit", None) => limit = Some(number(&value).ok_or_else(|| ApiError::Query(bad_limit()))?),
            ("limit", Some(_)) => return Err(ApiError::Query("limit is given more than once".to_owned())),
            _ => return Err(ApiError::Query("limit is all there is to say".to_owned())),
        }
    }
    Ok(Json(Known { peers: api.peers.sample(limit.unwrap_or(LIMIT_MAX).into()) }))
}

/// Hosts to announce.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Discovery {
    /// Their public URIs.
    #[schema(value_type = Vec<String>)]
    peers: Value,
    /// Accepted and ignored.
    #[serde(default)]
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Value>,
}

/// The program, and hosts it knows.
#[derive(Serialize, ToSchema)]
pub(super) struct Discovered {
    /// The program.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// The public URIs of the hosts.
    #[schema(value_type = Vec<String>)]
    peers: Vec<PeerUri>,
}

/// Announces hosts to this one; returns a random sample
///
/// The sample is taken before the announced hosts are checked; not all of them are kept.
#[utoipa::path(
    post,
    path = "/peers/discover",
    tag = "peers",
    request_body(content = Discovery, description = "Hosts to announce"),
    responses(
        (status = 200, description = "A random sample of those known before", body = Discovered),
        (status = 400, description = "`peers` is missing or invalid", body = Failure),
        (status = 413, description = "The body is too large", body = Failure),
        (status = 415, description = "The body is not JSON", body = Failure),
        (
            status = 503,
            description = "The host has not passed its self-test",
            body = Untested,
            headers(("Retry-After" = u32, description = "Seconds"))
        ),
    ),
)]
pub(super) async fn discover(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Json<Discovered>, ApiError> {
    let body = request::json_body(&headers, body).await?;
    let payload: Value = serde_json::from_slice(&body).map_err(|error| ApiError::Json(error.to_string()))?;
    // serde would read a list of values as a list of fields.
    let payload = Some(payload).filter(Value::is_object).ok_or_else(|| ApiError::Payload("must be {\"peers\": [...]}".to_owned()))?;
    let discovery: Discovery = serde_json::from_value(payload).map_err(|error| ApiError::Payload(error.to_string()))?;
    if discovery.limit.is_some_and(|limit| limit.as_str().map_or_else(|| number(&limit.to_string()), number).is_none()) {
        return Err(ApiError::Payload(bad_limit()));
    }
    let names =
        names(discovery.peers).ok_or_else(|| ApiError::Payload("peers must be a list of strings, none of them empty".to_owned()))?;
    let peers = api.peers.sample(LIMIT_MAX.into());
    api.peers.submit(submitter(&headers), names.iter().map(String::as_str).take(LIMIT_MAX.into()));
    Ok(Json(Discovered { name: VERSION.name, version: VERSION.version, peers }))
}

fn bad_limit() -> String {
    format!("limit must be a whole number from 1 to {LIMIT_MAX}")
}

/// A list of names, or the JSON text of one.
fn names(peers: Value) -> Option<Vec<String>> {
    let list = match peers {
        Value::String(text) => serde_json::from_str(&text).ok()?,
        list => list,
    };
    let names: Vec<String> = serde_json::from_value(list).ok()?;
    (!names.iter().any(String::is_empty)).then_some(names)
}

/// A whole number from 1 to the limit, as JavaScript reads numbers: `1e2`, and ` 1`.
fn number(text: &str) -> Option<u16> {
    let number: f64 = text.trim().parse().ok()?;
    (1..=LIMIT_MAX).find(|whole| f64::from(*whole) == number)
}

/// The client's address as reported by the edge, which appends it as the last entry.
fn submitter(headers: &HeaderMap) -> Option<IpAddr> {
    let chain = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    chain.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_as_the_node_codiusd_does() {
        let table = [
            ("1", Some(1)),
            ("2", Some(2)),
            ("1000", Some(1000)),
            ("1e2", Some(100)),
            (" 1", Some(1)),
            ("5.0", Some(5)),
            ("0", None),
            ("-1", None),
            ("1001", None),
            ("1.5", None),
            ("", None),
            ("abc", None),
            ("0x10", None),
            ("99999999999999999999", None),
            ("null", None),
            ("true", None),
            ("inf", None),
            ("NaN", None),
        ];
        for (text, expected) in table {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }

    #[test]
    fn names_are_strings_with_something_in_them() {
        let read = |text: &str| names(serde_json::from_str(text).unwrap());
        for text in [r#"["https://a","b"]"#, r#""[\"https://a\",\"b\"]""#] {
            assert_eq!(read(text).unwrap(), ["https://a", "b"], "{text}");
        }
        for text in [r#"[""]"#, "[1]", "[null]", "null", "{}", r#""https://a""#, r#"[["a"]]"#, r#""[\"\"]""#] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_address_that_the_edge_appends_is_who_asks() {
        let from = |fields: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("x-forwarded-for", field.parse().unwrap());
            }
            submitter(&headers).map(|address| address.to_string())
        };
        assert_eq!(from(&["192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(from(&["6.6.6.6", "7.7.7.7, 192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(from(&["2001:db8::1"]).as_deref(), Some("2001:db8::1"));
        assert_eq!(from(&["nonsense"]), None);
        assert_eq!(from(&[]), None);
    }
}
