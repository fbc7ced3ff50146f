//! The operator's listener of a host on this machine: where it is, and requests to it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Client, Method, Response, StatusCode, redirect};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use url::Url;

use super::read_at_most;
use crate::{error_chain::innermost, ready_file::ReadyFile};

/// How long an answer may take: the host may stop pods before it answers.
const TIMEOUT: Duration = Duration::from_secs(40);
/// Longest answer that is read, in bytes: enough for thousands of pods.
const ANSWER_MAX: usize = 16 * 1024 * 1024;

/// An operator's request that can't be sent, or that is refused.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nothing answers at its address.
    #[error("nobody answers at {url} ({reason}): has the host ended? Start it with codiusd serve")]
    Away {
        /// Where.
        url: Url,
        /// The innermost cause.
        reason: String,
    },
    /// No host runs there.
    #[error("no host is up: {0} does not exist. Start codiusd serve, or name the host with CODIUS_ROOT, --config or --admin")]
    NoHost(PathBuf),
    /// It has no listener for operators.
    #[error("the admin listener is off: set admin.enabled = true (CODIUS_ADMIN_API) and start it again")]
    NoListener,
    /// It isn't a codiusd, or is another version.
    #[error("{0} doesn't answer like the listener of a codiusd's operator")]
    NotCodius(Url),
    /// The ready file can't be read.
    #[error("can't read {path}: run this as the user the host runs as (root), or use --admin")]
    Ready {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It refuses the request.
    #[error("the host answers {status}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says.
        message: String,
    },
}

/// The fields of the ready file that are used.
#[derive(Deserialize)]
struct Ready {
    admin: Option<std::net::SocketAddr>,
}

/// The fields of a refusal that are used.
#[derive(Deserialize)]
struct Refused {
    message: String,
}

/// The listener of one host.
#[derive(Debug)]
pub struct Operator {
    url: Url,
    client: Client,
}

impl Operator {
    /// The listener of the host that keeps its files in `root`.
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

    /// The listener at a URL.
    pub fn at(url: Url) -> Result<Self, OperatorError> {
        // Fails if the caller has installed a provider already; any provider works.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).build();
        let client = client.map_err(|error| away(&url, &error))?;
        Ok(Self { url, client })
    }

    /// `GET path`.
    pub async fn see<T: DeserializeOwned>(&self, path: &str) -> Result<T, OperatorError> {
        self.ask(Method::GET, path, None::<&()>, TIMEOUT).await
    }

    /// `POST path`. An answer without content is `()`.
    pub async fn tell<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, OperatorError> {
        self.ask(Method::POST, path, Some(body), TIMEOUT).await
    }

    /// `POST path` with a timeout of its own, for requests that take longer.
    pub(crate) async fn tell_within<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, OperatorError> {
        self.ask(Method::POST, path, Some(body), within).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        within: Duration,
    ) -> Result<T, OperatorError> {
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
        let foreign = |_: serde_json::Error| OperatorError::NotCodius(self.url.clone());
        if status == StatusCode::NO_CONTENT {
            return serde_json::from_value(Value::Null).map_err(foreign);
        }
        if status.is_success() {
            return serde_json::from_slice(&text).map_err(foreign);
        }
        let Refused { message } = serde_json::from_slice(&text).map_err(foreign)?;
        Err(OperatorError::Refused { status, message })
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
        assert!(problem().contains("admin.enabled = true"), "{}", problem());
        write("{");
        assert!(problem().starts_with("can't read "), "{}", problem());
        write(r#"{"admin":"127.0.0.1:3001"}"#);
        assert_eq!(Operator::of(root.path()).unwrap().url.as_str(), "http://127.0.0.1:3001/");
    }
}
