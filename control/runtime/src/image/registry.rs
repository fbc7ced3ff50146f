//! Blobs and manifests from registries, by digest (OCI Distribution 1.1, Docker's token authentication).
//!
//! The addresses of a registry, its redirects and its token service are untrusted. So there is a single point of egress
//! ([`Registries::send`]): it uses TLS, and connects only to public addresses, at every step. Registries named in the operator's settings
//! are exempt. This needs a client of our own: none of the crates that pull images lets its caller choose addresses and see redirects.

use std::{
    collections::HashMap,
    error::Error,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use oci_spec::distribution::Reference;
use reqwest::{Client, Response, redirect};
use serde::Deserialize;
use url::{Host, Url};

use super::{
    RegistryConfig,
    address::{NotPublic, PublicOnly, is_public},
    manifest::ACCEPTED,
};

/// How long a registry may take to accept a connection, and between two reads.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of redirects: a registry, its blobs' host, and some more.
const REDIRECTS_MAX: usize = 5;
/// Maximum size of an answer with a token, in bytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// A token is valid for at least a minute (Docker's token authentication specification).
const TOKEN_LIFE: Duration = Duration::from_secs(50);
/// Tokens cached at once.
const TOKENS_MAX: usize = 256;

/// A failed fetch; `Display` is fit for uploaders.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("it needs a login this host doesn't have (images.credentials, CODIUS_REGISTRY_CREDENTIALS)")]
    Login,
    #[error(transparent)]
    NotPublic(#[from] NotPublic),
    #[error("the registry can't be reached")]
    Request(#[source] Box<reqwest::Error>),
    #[error("the registry answers {0}")]
    Status(StatusCode),
    #[error("the registry's answer can't be understood")]
    Understood,
    #[error("the registry leads to a place without TLS")]
    Unencrypted,
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        let causes = std::iter::successors(error.source(), |error| (**error).source());
        let refused = causes
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|cause| cause.get_ref().is_some_and(|inner| inner.is::<NotPublic>()));
        if refused { Self::NotPublic(NotPublic) } else { Self::Request(Box::new(error)) }
    }
}

/// The part of an image to fetch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Blob,
    Manifest,
}

/// A client for all registries.
pub(super) struct Registries {
    /// Resolves only public addresses.
    public: Client,
    /// Resolves any address.
    anywhere: Client,
    config: RegistryConfig,
    tokens: Mutex<HashMap<String, (HeaderValue, Instant)>>,
}

impl Registries {
    pub(super) fn new(config: RegistryConfig) -> reqwest::Result<Self> {
        // Another part of the program may have installed a provider; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            let agent = concat!("codiusd/", env!("CARGO_PKG_VERSION"));
            // Without a proxy, which would resolve names itself.
            let builder = Client::builder().user_agent(agent).redirect(redirect::Policy::none()).no_proxy();
            builder.connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT)
        };
        let (public, anywhere) = (builder().dns_resolver(PublicOnly).build()?, builder().build()?);
        Ok(Self { public, anywhere, config, tokens: Mutex::default() })
    }

    /// Requests a part of an image; its content is still to be read and verified.
    pub(super) async fn fetch(&self, reference: &Reference, part: Part, digest: &str) -> Result<Response, FetchError> {
        let registry = reference.resolve_registry();
        let repository = reference.repository();
        let kind = match part {
            Part::Blob => "blobs",
            Part::Manifest => "manifests",
        };
        let scheme = if self.config.insecure.iter().any(|insecure| insecure == registry) { "http" } else { "https" };
        let first = format!("{scheme}://{registry}/v2/{repository}/{kind}/{digest}").parse::<Url>();
        let first = first.map_err(|_| FetchError::Understood)?;
        let place = format!("{registry}/{repository}");
        let response = self.follow(&first, self.token(&place)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return successful(response);
        }
        let token = self.log_in(registry, repository, response.headers()).await?;
        self.remember(place, &token);
        let response = self.follow(&first, Some(token)).await?;
        if response.status() == StatusCode::UNAUTHORIZED { Err(FetchError::Login) } else { successful(response) }
    }

    /// Follows the registry's redirects. Credentials are never sent to another origin.
    async fn follow(&self, first: &Url, token: Option<HeaderValue>) -> Result<Response, FetchError> {
        let mut at = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(&ACCEPTED.join(", ")).map_err(|_| FetchError::Understood)?);
            if let Some(token) = token.as_ref().filter(|_| at.origin() == first.origin()) {
                headers.insert(header::AUTHORIZATION, token.clone());
            }
            let response = self.send(&at, headers).await?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            at = location.and_then(|location| at.join(location).ok()).ok_or(FetchError::Understood)?;
        }
        Err(FetchError::Understood)
    }

    /// The single point of egress.
    async fn send(&self, url: &Url, headers: HeaderMap) -> Result<Response, FetchError> {
        let host = url.host().ok_or(FetchError::Understood)?;
        let named = |list: &[String]| {
            let (bare, full) = (host.to_string(), format!("{host}:{}", url.port_or_known_default().unwrap_or_default()));
            list.iter().any(|entry| *entry == full || (*entry == bare && url.port().is_none()))
        };
        let insecure = named(&self.config.insecure);
        if url.scheme() != "https" && !insecure {
            return Err(FetchError::Unencrypted);
        }
        let client = if insecure || named(&self.config.private) {
            &self.anywhere
        } else {
            let literal = match host {
                Host::Ipv4(address) => Some(IpAddr::V4(address)),
                Host::Ipv6(address) => Some(IpAddr::V6(address)),
                Host::Domain(_) => None,
            };
            // Literal addresses skip the resolver.
            if literal.is_some_and(|address| !is_public(address)) {
                return Err(NotPublic.into());
            }
            &self.public
        };
        Ok(client.get(url.clone()).headers(headers).send().await?)
    }

    /// Fetches a token for reading a repository, as the registry's refusal specifies.
    async fn log_in(&self, registry: &str, repository: &str, refusal: &HeaderMap) -> Result<HeaderValue, FetchError> {
        let credential = self.config.credentials.iter().find(|credential| credential.registry == registry);
        let challenge = refusal.get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).ok_or(FetchError::Understood)?;
        let (scheme, parameters) = challenge.split_once(' ').ok_or(FetchError::Understood)?;
        if scheme.eq_ignore_ascii_case("basic") {
            return secret(&credential.ok_or(FetchError::Login)?.basic());
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(FetchError::Understood);
        }
        let parameter = |name: &str| parameters_of(parameters).find(|(known, _)| *known == name).map(|(_, value)| value);
        let mut realm: Url = parameter("realm").and_then(|realm| realm.parse().ok()).ok_or(FetchError::Understood)?;
        let scope = format!("repository:{repository}:pull");
        realm.query_pairs_mut().extend_pairs(parameter("service").map(|service| ("service", service))).append_pair("scope", &scope);
        let mut headers = HeaderMap::new();
        if let Some(credential) = credential {
            headers.insert(header::AUTHORIZATION, secret(&credential.basic())?);
        }
        let mut response = self.send(&realm, headers).await?;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(FetchError::Login);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > TOKEN_BYTES_MAX {
                return Err(FetchError::Understood);
            }
        }
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| FetchError::Understood)?;
        let token = answer.token.or(answer.access_token).ok_or(FetchError::Understood)?;
        secret(&format!("Bearer {token}"))
    }

    fn token(&self, place: &str) -> Option<HeaderValue> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(place).filter(|(_, until)| *until > Instant::now()).map(|(token, _)| token.clone())
    }

    fn remember(&self, place: String, token: &HeaderValue) {
        let (mut tokens, now) = (self.tokens.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        tokens.retain(|_, (_, until)| *until > now);
        if tokens.len() < TOKENS_MAX {
            tokens.insert(place, (token.clone(), now + TOKEN_LIFE));
        }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

fn successful(response: Response) -> Result<Response, FetchError> {
    if response.status() == StatusCode::OK { Ok(response) } else { Err(FetchError::Status(response.status())) }
}

/// A header that is redacted in logs.
fn secret(text: &str) -> Result<HeaderValue, FetchError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| FetchError::Understood)?;
    value.set_sensitive(true);
    Ok(value)
}

/// `name="value",name="value"`
fn parameters_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, after) = rest.trim_start_matches([',', ' ']).split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        rest = after;
        Some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_whatever_is_in_them() {
        let text = r#"realm="https://a.example/token?x=1,2",service=plain, scope="repository:a:pull,push""#;
        let found: Vec<_> = parameters_of(text).collect();
        assert_eq!(found, [("realm", "https://a.example/token?x=1,2"), ("service", "plain"), ("scope", "repository:a:pull,push")]);
        for odd in ["", "=", ",,,", "realm=\"", "realm", "\"=\"=\""] {
            assert!(parameters_of(odd).count() <= 2, "{odd}");
        }
    }
}
