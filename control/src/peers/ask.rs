//! Asks other hosts for their identity and their peers. What they answer, where their names resolve to, and how long they take is up to
//! them; this module bounds how much of it we accept.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client, RequestBuilder, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    address::is_fair_game,
    uri::{PeerUri, Reach},
};

/// Longest answer accepted, in bytes: a thousand hosts with long names fit.
const ANSWER_MAX: usize = 256 * 1024;
/// Hosts accepted from one answer.
const PEERS_MAX: usize = 1000;

/// Why a host's answer is rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("its answer is longer than {ANSWER_MAX} bytes")]
    Long,
    #[error("its answer is no Codius host's")]
    Odd(#[from] serde_json::Error),
    #[error("it can't be asked")]
    Request(#[from] reqwest::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("it says it is another host")]
    SomebodyElse,
}

/// Sends requests to hosts within reach.
#[derive(Debug)]
pub(super) struct Asker {
    client: Client,
    reach: Reach,
}

#[derive(Deserialize)]
struct Info {
    uri: String,
}

#[derive(Deserialize)]
struct Discovery {
    peers: Vec<Value>,
}

impl Asker {
    /// Each request times out after `within`.
    pub(super) fn new(reach: Reach, within: Duration) -> reqwest::Result<Self> {
        // The process may have installed a provider already; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .https_only(reach == Reach::Public)
            // A proxy would connect on our behalf without the address check; a redirect could lead to a refused address.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(WithinReach(reach)))
            .timeout(within)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("codiusd/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, reach })
    }

    /// Verifies that a host is the one its name says; returns its address.
    pub(super) async fn look(&self, peer: &PeerUri) -> Result<IpAddr, AskError> {
        let (bytes, address) = answer(self.client.get(format!("{peer}/info"))).await?;
        let info: Info = serde_json::from_slice(&bytes)?;
        let address = address.filter(|_| PeerUri::parse(&info.uri, self.reach).as_ref() == Some(peer));
        address.map(|address| address.ip().to_canonical()).ok_or(AskError::SomebodyElse)
    }

    /// Sends a host some of our peers, and returns some of its own.
    pub(super) async fn exchange(&self, peer: &PeerUri, ours: &[PeerUri]) -> Result<Vec<PeerUri>, AskError> {
        let (bytes, _) = answer(self.client.post(format!("{peer}/peers/discover")).json(&json!({ "peers": ours }))).await?;
        let theirs: Discovery = serde_json::from_slice(&bytes)?;
        let names = theirs.peers.iter().take(PEERS_MAX).filter_map(Value::as_str);
        Ok(names.filter_map(|name| PeerUri::parse(name, self.reach)).collect())
    }
}

/// The body of a successful answer, and the remote address.
async fn answer(request: RequestBuilder) -> Result<(Vec<u8>, Option<SocketAddr>), AskError> {
    let mut response = request.send().await?;
    if response.status() != StatusCode::OK {
        return Err(AskError::Status(response.status()));
    }
    let address = response.remote_addr();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > ANSWER_MAX {
            return Err(AskError::Long);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, address))
}

/// Resolves a name, and keeps only the addresses we may connect to: the connection uses exactly the checked ones.
#[derive(Debug)]
struct WithinReach(Reach);

impl Resolve for WithinReach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            // Connect to the canonical form that is checked: an IPv4-mapped IPv6 address becomes IPv4.
            let found = found.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
            let allowed: Vec<SocketAddr> = found.filter(|address| reach == Reach::Anywhere || is_fair_game(address.ip())).collect();
            if allowed.is_empty() {
                let refused: Box<dyn Error + Send + Sync> = "it has no public address".into();
                return Err(refused);
            }
            let allowed: Addrs = Box::new(allowed.into_iter());
            Ok(allowed)
        })
    }
}
