//! Connections to one upstream, and the shelf of its idle ones.
//!
//! ```text
//! dial --> in use --> put --> on the shelf --> take --> in use ...
//!                       \--> closed: withdrawn, shelf full, worn out
//! ```
//!
//! The shelf belongs to the [`Route`], which belongs to one incarnation of a pod, so another tenant cannot be handed its connections:
//! there is no key to mistake. Withdrawing the route empties it.
//!
//! A connection lives and dies with the runtime that dialled it, so none of another edge that shares the route table is given out.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::policy::limits::Limits;
use crate::policy::trust::{self, Policy, Unwanted};
use crate::telemetry::traffic::Traffic;
use crate::time::timers::Moment;
use crate::upstream::shelf::Shelf;
use crate::upstream::socket::{Socket, Stream};

/// Where an upstream listens.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// A pod.
    Tcp(SocketAddr),
    /// The control plane.
    Unix(PathBuf),
}

/// One upstream: its address, its idle connections, and whether it is still routable.
#[derive(Debug)]
pub(crate) struct Route {
    address: Address,
    idle: Shelf<Socket>,
    withdrawn: CancellationToken,
    tunnels: AtomicUsize,
    traffic: Arc<Traffic>,
    /// Whether the edge may connect there, once it has been asked.
    vetted: OnceLock<Result<(), Unwanted>>,
}

/// Room for one tunnel to a route; free again when dropped.
#[derive(Debug)]
pub(crate) struct TunnelPlace(Arc<Route>);

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("a pod may not be there")]
    Unwanted(#[source] Unwanted),
    #[error("connecting took longer than allowed")]
    Timeout,
    #[error("connecting failed")]
    Connect(#[source] io::Error),
    #[error("the route was withdrawn meanwhile: another tenant may be there")]
    Withdrawn,
}

impl Route {
    pub(crate) fn new(address: Address) -> Route {
        Route {
            address,
            idle: Shelf::default(),
            withdrawn: CancellationToken::new(),
            tunnels: AtomicUsize::new(0),
            traffic: Arc::default(),
            vetted: OnceLock::new(),
        }
    }

    /// Room for one more tunnel, if there is.
    pub(crate) fn tunnel(self: &Arc<Self>, limits: &Limits) -> Option<TunnelPlace> {
        let place = TunnelPlace(Arc::clone(self));
        (self.tunnels.fetch_add(1, Ordering::Relaxed) < limits.tunnels_per_pod).then_some(place)
    }

    /// What has been counted of the requests sent there. Not the route itself: whoever holds that uses it.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Closes idle connections and starts the grace of busy ones.
    pub(crate) fn withdraw(&self) {
        self.withdrawn.cancel();
        self.idle.clear();
    }

    #[cfg(test)]
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.is_cancelled()
    }

    /// Resolves `grace` after the route was withdrawn.
    pub(crate) fn cut_after(&self, grace: Duration) -> impl Future<Output = ()> + Send + 'static {
        let withdrawn = self.withdrawn.clone();
        async move {
            withdrawn.cancelled_owned().await;
            tokio::time::sleep(grace).await;
        }
    }

    /// The most recently used idle connection of this runtime, if one is alive.
    pub(crate) fn take(&self) -> Option<Socket> {
        self.idle.take(Socket::fit)
    }

    /// Shelves a connection; closes it when there is no room.
    pub(crate) fn put(&self, socket: Socket, room: &Arc<Semaphore>, limits: &Limits) {
        self.idle.put(socket, room, limits, &self.withdrawn);
    }

    /// Closes what has been idle for `age` at `now`.
    pub(crate) fn reap(&self, now: Moment, age: Duration) {
        self.idle.reap(now, age);
    }

    /// Opens a connection; it ends `withdrawn_grace` after the route's withdrawal.
    pub(crate) async fn dial(&self, limits: &Limits, policy: &Policy) -> Result<Socket, DialError> {
        let stream = self.connect(limits, policy).await?;
        Ok(Socket::new(stream, Box::pin(self.cut_after(limits.withdrawn_grace))))
    }

    async fn connect(&self, limits: &Limits, policy: &Policy) -> Result<Stream, DialError> {
        let stream = match &self.address {
            Address::Tcp(address) => {
                self.vet(*address, policy).map_err(DialError::Unwanted)?;
                let stream = connect(TcpStream::connect(address), limits).await?;
                stream.set_nodelay(true).map_err(DialError::Connect)?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => Stream::Unix(connect(UnixStream::connect(path), limits).await?),
        };
        // Whoever gets this address next is there only after the withdrawal.
        if self.withdrawn.is_cancelled() { Err(DialError::Withdrawn) } else { Ok(stream) }
    }

    fn vet(&self, address: SocketAddr, policy: &Policy) -> Result<(), Unwanted> {
        *self.vetted.get_or_init(|| {
            let verdict = policy.upstreams.check(address, trust::is_local);
            if let Err(reason) = &verdict {
                tracing::error!(%address, %reason, "pod address outside the allowed networks; refusing to connect");
            }
            verdict
        })
    }
}

async fn connect<S>(attempt: impl Future<Output = io::Result<S>>, limits: &Limits) -> Result<S, DialError> {
    match timeout(limits.connect, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(DialError::Timeout),
        Ok(Err(error)) => Err(DialError::Connect(error)),
        Err(_elapsed) => Err(DialError::Timeout),
    }
}
