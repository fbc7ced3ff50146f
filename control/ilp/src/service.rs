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

/// The embedded connector's asset: XRP in billionths, which `codius` clients expect by default.
const EMBEDDED_ASSET: (&str, u8) = ("XRP", 9);
/// Time limit for stopping.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How the host is connected.
#[derive(Clone, Debug)]
pub enum Config {
    /// As a child of a connector.
    Uplink {
        /// Its server.
        url: BtpUrl,
    },
    /// With an embedded connector, for development.
    Embedded {
        /// Where children connect; port 0 takes any.
        listen: Vec<SocketAddr>,
        /// The second segment of its address, `private.<name>`.
        name: String,
    },
}

/// Why the connection can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name isn't a valid address segment.
    #[error("the connector's name {name:?} can't be part of an ILP address")]
    Name {
        /// The name.
        name: String,
        /// The cause.
        #[source]
        source: BadAddress,
    },
    /// A listener's address can't be bound.
    #[error("can't listen on {address} for BTP: stop what listens there (moneyd?) or choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A running connection; dropping it aborts it.
#[derive(Debug)]
pub struct Interledger {
    account: Arc<watch::Sender<Option<Account>>>,
    listening: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Interledger {
    /// [Connects](Interledger::supervised) in a process without supervision.
    pub async fn start(config: Config, receiver: Arc<Receiver>) -> Result<Self, StartError> {
        Self::supervised(config, receiver, &Supervisor::default()).await
    }

    /// Connects; incoming packets go to `receiver`. An unreachable uplink is retried forever.
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
                    tracing::warn!(%address, "no IPv6 on this machine; BTP listener skipped");
                }
                Err(source) => return Err(StartError::Listen { address, source }),
            }
        }
        let account = Arc::new(watch::Sender::new(Some(router.host().clone())));
        Ok(Self { account, listening, stop, tasks })
    }

    /// The host's current account; none while the uplink is down.
    pub fn account(&self) -> watch::Receiver<Option<Account>> {
        self.account.subscribe()
    }

    /// Addresses the embedded connector listens on.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Takes no more packets, completes those it has begun to answer, and closes its sockets; whatever takes longer than five seconds
    /// is aborted.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let stopped = async {
            for task in &mut self.tasks {
                // A task that panicked has stopped, too.
                let _ = task.await;
            }
        };
        if time::timeout(STOP_MAX, stopped).await.is_err() {
            tracing::warn!("BTP packets in flight at shutdown were abandoned");
        }
    }
}

/// Whether the machine (or container) lacks this address, as opposed to the address being in use.
fn is_without(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}
