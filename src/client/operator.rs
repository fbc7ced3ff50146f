//! The operator's listener of a host on this machine: where it is, and requests to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Client, Method, Response, StatusCode, redirect};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::read_at_most;
use crate::{causes::innermost, ready::ReadyFile};

/// How long an answer may take: pods are stopped before it comes.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Longest answer that is read, in bytes: thousands of pods.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// An operator's request that can't be made, or isn't granted.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nobody is there, though a host says so.
    #[error("nobody answers at {url} ({reason}): has the host ended? Start it with codiusd serve")]
    Away {
        /// Where.
        url: Url,
        /// The innermost cause.
        reason: String,
    },
    /// No host runs there.
    #[error("no host is up: there is no {0}. Start one with codiusd serve, or say where it is with CODIUS_ROOT, --config or --admin")]
    NoHost(PathBuf),
    /// It has no listener for operators.
    #[error("the host has no listener for its operator: set admin_api = true (CODIUS_ADMIN_API) and start it again")]
    NoListener,
    /// It is no codiusd, or another version.
    #[error("{0} doesn't answer like the listener of a codiusd's operator")]
    NotCodius(Url),
    /// Where it is can't be read.
    #[error("can't read {path}: run this as the user the host runs as (root), or use --admin")]
    Ready {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It says no.
    #[error("the host answers {status}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says.
        message: String,
    },
}

/// What is read of what a host says when it is up.
#[derive(Deserialize)]
struct Ready {
    admin: Option<std::net::SocketAddr>,
}

/// The listener of one host.
#[derive(Debug)]
pub struct Operator {
    url: Url,
    client: Client,
}

impl Operator {
    /// That of the host which keeps its files in `root`.
    pub fn of(root: &Path) -> Result<Self, OperatorError> {
        let path = ReadyFile::path(&root.join("run"));
        let text = fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OperatorError::NoHost(path.clone()),
            _ => OperatorError::Ready { path: path.clone(), source },
        })?;
        let unread = |error: serde_json::Error| OperatorError::Ready { path: path.clone(), source: error.into() };
        let ready: Ready = serde_json::from_slice(&text).map_err(unread)?;
        let address = ready.admin.ok_or(OperatorError::NoListener)?;
        Self::at(format!("http://{address}").parse().unwrap_or_else(|_| unreachable!("an address makes a valid URL")))
    }

    /// That at a URL.
    pub fn at(url: Url) -> Result<Self, OperatorError> {
        // Whoever runs us may have chosen a provider before; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).build();
        let client = client.map_err(|error| away(&url, &error))?;
        Ok(Self { url, client })
    }

    /// `GET path`.
    pub async fn see(&self, path: &str) -> Result<Value, OperatorError> {
        self.ask(Method::GET, path, None, TIMEOUT).await
    }

    /// `POST path`. Null if nothing is answered.
    pub async fn tell(&self, path: &str, body: &Value) -> Result<Value, OperatorError> {
        self.ask(Method::POST, path, Some(body), TIMEOUT).await
    }

    /// The same of what takes longer.
    pub(crate) async fn tell_within(&self, path: &str, body: &Value, within: Duration) -> Result<Value, OperatorError> {
        self.ask(Method::POST, path, Some(body), within).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>, within: Duration) -> Result<Value, OperatorError> {
        let mut url = self.url.clone();
        url.set_path(path);
        let request = self.client.request(method, url).timeout(within);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.map_err(|error| away(&self.url, &error))?;
        let status = response.status();
        let text = self.text(response).await?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let answer: Value = serde_json::from_slice(&text).map_err(|_| OperatorError::NotCodius(self.url.clone()))?;
        match answer.get("message").and_then(Value::as_str) {
            _ if status.is_success() => Ok(answer),
            Some(message) => Err(OperatorError::Refused { status, message: message.to_owned() }),
            None => Err(OperatorError::NotCodius(self.url.clone())),
        }
    }

    async fn text(&self, response: Response) -> Result<Vec<u8>, OperatorError> {
        let text = read_at_most(response, ANSWER_MAX).await.map_err(|error| away(&self.url, &error))?;
        text.ok_or_else(|| OperatorError::NotCodius(self.url.clone()))
    }
}

fn away(url: &Url, error: &reqwest::Error) -> OperatorError {
    OperatorError::Away { url: url.clone(), reason: innermost(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_a_remedy() {
        let root = tempfile::tempdir().unwrap();
        let problem = || Operator::of(root.path()).unwrap_err().to_string();
        assert!(problem().contains("run/ready.json") && problem().contains("codiusd serve"), "{}", problem());
        fs::create_dir(root.path().join("run")).unwrap();
        let write = |text: &str| fs::write(root.path().join("run/ready.json"), text).unwrap();
        write(r#"{"edge":"127.0.0.1:1","admin":null}"#);
        assert!(problem().contains("admin_api = true"), "{}", problem());
        write("{");
        assert!(problem().starts_with("can't read "), "{}", problem());
        write(r#"{"admin":"127.0.0.1:3001"}"#);
        assert_eq!(Operator::of(root.path()).unwrap().url.as_str(), "http://127.0.0.1:3001/");
    }
}
