//! Requests to a host; `*.localhost` is this machine.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use reqwest::{
    Client, ClientBuilder, Method, RequestBuilder, Response, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderMap, HeaderValue},
    redirect,
};
use serde_json::Value;
use url::Url;

use codiusd_api_types::pods::{Quote, Receipt};

use super::PaidAction;
use crate::error_chain::innermost;

/// How long a paid request may take: hosts answer within a minute.
const ORDER_TIMEOUT: Duration = Duration::from_secs(90);
/// How long any other request may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Also lets hosts tell us from the `codius` CLI, which fails on a keep-alive line in a log.
const USER_AGENT: &str = concat!("codiusd/", env!("CARGO_PKG_VERSION"));
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 4 * 1024 * 1024;

/// A request to a host that failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It can't be reached, or the connection broke.
    #[error("can't reach {host}: {reason}")]
    Unreachable {
        /// The host.
        host: Url,
        /// The innermost cause.
        reason: String,
    },
    /// Its answer was cut off.
    #[error("what {host} sends breaks off before its end ({reason}): more has been written than is shown, or the pod runs on")]
    BrokenOff {
        /// The host.
        host: Url,
        /// The innermost cause.
        reason: String,
    },
    /// It refuses the request.
    #[error("{host} answers {status}: {message}")]
    Refused {
        /// The host.
        host: Url,
        /// HTTP status.
        status: StatusCode,
        /// What it says.
        message: String,
    },
    /// Its answer isn't a Codius host's.
    #[error("{0} doesn't answer like a Codius host")]
    NotCodius(Url),
}

/// A host's answer to a paid request.
pub(super) enum Answer {
    Done(Receipt),
    Due(Due),
}

/// The content of a 402 answer.
pub(super) struct Due {
    pub(super) pay: String,
    pub(super) required: String,
    pub(super) received: String,
}

/// A host, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Host {
    url: Url,
    client: Client,
}

impl Host {
    /// The host at a URL.
    pub fn new(url: Url) -> Result<Self, HostError> {
        Self::with(url, Client::builder())
    }

    fn with(url: Url, client: ClientBuilder) -> Result<Self, HostError> {
        // Fails if the caller has installed a provider already; any provider works.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client.user_agent(USER_AGENT).dns_resolver(Arc::new(LocalhostResolver)).redirect(redirect::Policy::none()).build();
        let client = client.map_err(|error| unreachable_host(&url, &error))?;
        Ok(Self { url, client })
    }

    /// The host under its own self-test: connects directly, and sends this token for its gate.
    pub(crate) fn tested(url: Url, token: &str) -> Result<Self, HostError> {
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).map(|mut bearer| {
            bearer.set_sensitive(true);
            bearer
        });
        let bearer = bearer.map_err(|_| HostError::NotCodius(url.clone()))?;
        Self::direct(url, HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]))
    }

    /// A pod of that host: connects directly, without a token.
    pub(crate) fn visited(url: Url) -> Result<Self, HostError> {
        Self::direct(url, HeaderMap::new())
    }

    fn direct(url: Url, headers: HeaderMap) -> Result<Self, HostError> {
        Self::with(url, Client::builder().no_proxy().default_headers(headers))
    }

    /// What an upload would cost; free.
    pub async fn quote(&self, body: &[u8], seconds: NonZeroU32) -> Result<Quote, HostError> {
        let request = self.request(Method::OPTIONS, "/pods", &[("duration", &seconds.to_string())]).body(body.to_vec());
        let response = self.send(request.header("Content-Type", "application/json").timeout(TIMEOUT)).await?;
        self.read(self.accepted(response).await?).await
    }

    /// The manifest of a running pod, as an upload body; enough for a quote.
    pub async fn manifest(&self, hash: &str) -> Result<Vec<u8>, HostError> {
        let request = self.request(Method::GET, "/pods", &[("manifestHash", hash)]).timeout(TIMEOUT);
        let pod: Value = self.read(self.accepted(self.send(request).await?).await?).await?;
        let manifest = pod.get("manifest").ok_or_else(|| HostError::NotCodius(self.url.clone()))?;
        Ok(serde_json::json!({ "manifest": manifest }).to_string().into_bytes())
    }

    /// One paid request.
    pub(super) async fn order(&self, action: &PaidAction, token: &str) -> Result<Answer, HostError> {
        let request = match action {
            PaidAction::Upload(body, seconds) => self
                .request(Method::POST, "/pods", &[("duration", &seconds.to_string())])
                .header("Content-Type", "application/json")
                .body(body.clone()),
            PaidAction::Extend(hash, seconds) => {
                self.request(Method::PUT, "/pods", &[("manifestHash", hash), ("duration", &seconds.to_string())])
            }
        };
        let response = self.send(request.header("Pay-Token", token).timeout(ORDER_TIMEOUT)).await?;
        if response.status() != StatusCode::PAYMENT_REQUIRED {
            return Ok(Answer::Done(self.read(self.accepted(response).await?).await?));
        }
        let pay = response.headers().get("pay").and_then(|pay| pay.to_str().ok()).map(str::to_owned);
        let pay = pay.ok_or_else(|| HostError::NotCodius(self.url.clone()))?;
        let body: Value = self.read(response).await.unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        Ok(Answer::Due(Due { pay, required: text("required"), received: text("received") }))
    }

    pub(super) async fn logs(&self, hash: &str, follow: bool) -> Result<impl Stream<Item = Result<Vec<u8>, HostError>> + use<>, HostError> {
        let request = self.request(Method::GET, &format!("/pods/{hash}/logs"), &[("follow", if follow { "true" } else { "false" })]);
        let response = self.accepted(self.send(request).await?).await?;
        let url = self.url.clone();
        Ok(response.bytes_stream().map(move |chunk| {
            chunk.map(|bytes| bytes.to_vec()).map_err(|error| HostError::BrokenOff { host: url.clone(), reason: innermost(&error) })
        }))
    }

    /// Fetches a pod's page; the figures of `codiusd demo` come from it.
    pub async fn page(&self) -> Result<StatusCode, HostError> {
        Ok(self.send(self.request(Method::GET, "/", &[]).timeout(TIMEOUT)).await?.status())
    }

    /// Fetches a path, and reads at most `bytes_max` of the answer.
    pub(crate) async fn fetch(&self, path: &str, bytes_max: usize) -> Result<(StatusCode, Vec<u8>), HostError> {
        let response = self.send(self.request(Method::GET, path, &[]).timeout(TIMEOUT)).await?;
        let status = response.status();
        let body = read_at_most(response, bytes_max).await.map_err(|error| unreachable_host(&self.url, &error))?;
        Ok((status, body.ok_or_else(|| HostError::NotCodius(self.url.clone()))?))
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.url.clone();
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.client.request(method, url)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, HostError> {
        request.send().await.map_err(|error| unreachable_host(&self.url, &error))
    }

    /// The response, if its status is a success.
    async fn accepted(&self, response: Response) -> Result<Response, HostError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body: Value = self.read(response).await.unwrap_or_default();
        let message = body.get("message").and_then(Value::as_str).unwrap_or("without a reason").to_owned();
        Err(HostError::Refused { host: self.url.clone(), status, message })
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, response: Response) -> Result<T, HostError> {
        let body = read_at_most(response, ANSWER_MAX).await.map_err(|error| unreachable_host(&self.url, &error))?;
        body.and_then(|body| serde_json::from_slice(&body).ok()).ok_or_else(|| HostError::NotCodius(self.url.clone()))
    }
}

/// The body of an answer; none if it is longer than `max` bytes.
pub(crate) async fn read_at_most(mut response: Response, max: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > max {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

fn unreachable_host(host: &Url, error: &reqwest::Error) -> HostError {
    HostError::Unreachable { host: host.clone(), reason: innermost(error) }
}

/// The addresses of a name. `localhost` and all names below it are this machine (RFC 6761, 6.3), which not every resolver implements.
pub(crate) async fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if name == "localhost" || name.ends_with(".localhost") {
        return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
    }
    Ok(tokio::net::lookup_host((name, port)).await?.collect())
}

/// The same resolver for reqwest.
struct LocalhostResolver;

impl Resolve for LocalhostResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = resolve(name.as_str(), 0).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
