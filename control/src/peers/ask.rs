//! Asking other hosts: who they are, and whom they know. What they answer, where their names lead, and how long they take is theirs to
//! choose; how much of it we take is ours.

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

/// Longest answer that is read, in bytes: a thousand hosts with long names fit.
const ANSWER_MAX: usize = 256 * 1024;
/// Hosts that are taken of one answer.
const PEERS_MAX: usize = 1000;

/// A host that doesn't answer as one should.
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

/// Asks hosts within reach.
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
    /// Each question takes no longer than `within`.
    pub(super) fn new(reach: Reach, within: Duration) -> reqwest::Result<Self> {
        // Whoever runs us may have chosen a provider before; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .https_only(reach == Reach::Public)
            // A proxy would connect where we may not; a redirect would lead there.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(WithinReach(reach)))
            .timeout(within)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("codiusd/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, reach })
    }

    /// Makes sure that a host is who its name says; answers where it is.
    pub(super) async fn look(&self, peer: &PeerUri) -> Result<IpAddr, AskError> {
        let (bytes, address) = answer(self.client.get(format!("{peer}/info"))).await?;
        let info: Info = serde_json::from_slice(&bytes)?;
        let address = address.filter(|_| PeerUri::parse(&info.uri, self.reach).as_ref() == Some(peer));
        address.map(|address| address.ip().to_canonical()).ok_or(AskError::SomebodyElse)
    }

    /// Tells a host of some, and learns some that it knows.
    pub(super) async fn exchange(&self, peer: &PeerUri, ours: &[PeerUri]) -> Result<Vec<PeerUri>, AskError> {
        let (bytes, _) = answer(self.client.post(format!("{peer}/peers/discover")).json(&json!({ "peers": ours }))).await?;
        let theirs: Discovery = serde_json::from_slice(&bytes)?;
        let names = theirs.peers.iter().take(PEERS_MAX).filter_map(Value::as_str);
        Ok(names.filter_map(|name| PeerUri::parse(name, self.reach)).collect())
    }
}

/// The whole of a successful answer, and where it came from.
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

/// Finds the addresses of a name, and leaves only those we may connect to: what is checked is what is connected to.
#[derive(Debug)]
struct WithinReach(Reach);

impl Resolve for WithinReach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            // As it is checked, so it is connected to: an IPv4 address in disguise becomes one.
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
