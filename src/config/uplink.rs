//! Settings of the uplink: how the host is paid.

use std::net::SocketAddr;

use codiusd_ilp::btp::client::BtpUrl;

use super::{ConfigError, parse, source::Settings};

/// Format of an account at a connector, for errors.
pub(super) const ACCOUNT: &str =
    "a btp+ws:// or btp+wss:// URL such as btp+wss://:secret@connector.example:7768, or JSON {\"server\":\"URL\"}";

/// How the host is paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IlpChoice {
    /// As a child of a connector; none: of the local moneyd, with a secret derived from the server's.
    Uplink(Option<BtpUrl>),
    /// By an embedded connector, which doesn't settle.
    Embedded(Vec<SocketAddr>),
}

/// An account at a connector: its URL, or `ILP_CREDENTIALS` as `codius` and `ilp-fetch` write it: JSON with the URL.
pub fn credentials(text: &str) -> Option<BtpUrl> {
    if let Ok(url) = text.parse() {
        return Some(url);
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    json.get("server")?.as_str()?.parse().ok()
}

pub(super) fn ilp(settings: &Settings, dev: bool) -> Result<IlpChoice, ConfigError> {
    let credentials = settings.optional("uplink.url", ACCOUNT, credentials)?;
    let listen = settings.list("uplink.listen", "addresses such as 127.0.0.1:7768,[::1]:7768", parse)?;
    let embedded = settings.optional("uplink.type", "btp or embedded", |text| match text {
        "embedded" => Some(true),
        "btp" | "uplink" => Some(false),
        _ => None,
    })?;
    // Credentials are for an uplink, so setting them selects it.
    let embedded = embedded.unwrap_or_else(|| dev && credentials.is_none());
    if embedded && listen.is_empty() {
        return Err(settings.missing("uplink.listen", "the embedded connector needs an address such as 127.0.0.1:7768"));
    }
    Ok(if embedded { IlpChoice::Embedded(listen) } else { IlpChoice::Uplink(credentials) })
}
