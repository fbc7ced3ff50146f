//! The host's Interledger connection: an uplink, or the embedded connector.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use codiusd_supervisor::Supervisor;
use tokio::{sync::watch, time};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    address::BadAddress,
    btp::client::BtpUrl,
    connector::{
        router::Router,
        server::{bind, serve},
    },
    ildcp::Account,
    stream::receiver::Receiver,
    uplink,
};

/// What the embedded connector counts in: XRP in billionths, which `codius` clients expect by default.
const EMBEDDED_ASSET: (&str, u8) = ("XRP", 9);
/// How long stopping may take.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How the host is connected.
#[derive(Clone, Debug)]
pub enum Config {
    /// As a child of a connector.
    Uplink {
        /// Its server.
        url: BtpUrl,
    },
    /// As a connector of its own, for development.
    Embedded {
        /// Where children connect; port 0 takes any.
        listen: Vec<SocketAddr>,
        /// The second segment of its address, `private.<name>`.
        name: String,
    },
}

/// The connection can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name can't be part of an address.
    #[error("the connector's name {name:?} can't be part of an ILP address")]
    Name {
        /// The name.
        name: String,
        /// The cause.
        #[source]
        source: BadAddress,
    },
    /// An address can't be listened on.
    #[error("can't listen on {address} for BTP: stop what listens there (moneyd?) or choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A running connection; breaks off when dropped.
#[derive(Debug)]
pub struct Interledger {
    account: Arc<watch::Sender<Option<Account>>>,
    listening: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Interledger {
    /// [Connects](Interledger::supervised) for a process that nobody supervises.
    pub async fn start(config: Config, receiver: Arc<Receiver>) -> Result<Self, StartError> {
        Self::supervised(config, receiver, &Supervisor::default()).await
    }

    /// Connects; what arrives goes to `receiver`. An uplink that can't be reached is tried again for ever.
    pub async fn supervised(config: Config, receiver: Arc<Receiver>, supervisor: &Supervisor) -> Result<Self, StartError> {
        match config {
            Config::Uplink { url } => {
                let account = Arc::new(watch::Sender::new(None));
                let stop = CancellationToken::new();
                let task = supervisor.spawn_service("uplink", uplink::keep_up(url, receiver, account.clone(), stop.clone()));
                Ok(Self { account, listening: Vec::new(), stop, tasks: vec![AbortOnDropHandle::new(task)] })
            }
            Config::Embedded { listen, name } => Self::embedded(listen, name, receiver, supervisor).await,
        }
    }

    async fn embedded(listen: Vec<SocketAddr>, name: String, receiver: Arc<Receiver>, supervisor: &Supervisor) -> Result<Self, StartError> {
        let address = format!("private.{name}").parse().map_err(|source| StartError::Name { name, source })?;
        let (code, asset_scale) = EMBEDDED_ASSET;
        let own = Account { address, asset_code: code.to_owned(), asset_scale };
        let router = Arc::new(Router::new(own, receiver));
        let stop = CancellationToken::new();
        let (mut listening, mut tasks) = (Vec::new(), Vec::new());
        for address in listen {
            match bind(address).await {
                Ok((listener, bound)) => {
                    let served = supervisor.spawn_service("connector", serve(listener, router.clone(), stop.clone()));
                    tasks.push(AbortOnDropHandle::new(served));
                    listening.push(bound);
                }
                Err(error) if address.is_ipv6() && address.ip().is_loopback() && is_without(&error) => {
                    tracing::warn!(%address, "this machine has no IPv6; BTP isn't served there");
                }
                Err(source) => return Err(StartError::Listen { address, source }),
            }
        }
        let account = Arc::new(watch::Sender::new(Some(router.host().clone())));
        Ok(Self { account, listening, stop, tasks })
    }

    /// What the host is paid to at the moment; none while the uplink is down.
    pub fn account(&self) -> watch::Receiver<Option<Account>> {
        self.account.subscribe()
    }

    /// Where the embedded connector listens.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Takes no more packets, answers those it has begun to answer, and closes its sockets; what isn't done after five seconds
    /// is broken off.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let stopped = async {
            for task in &mut self.tasks {
                // A task that panicked has stopped, too.
                let _ = task.await;
            }
        };
        if time::timeout(STOP_MAX, stopped).await.is_err() {
            tracing::warn!("packets that were still being answered are given up");
        }
    }
}

/// Whether the machine (or container) has no such address at all, as opposed to one that is taken.
fn is_without(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}
