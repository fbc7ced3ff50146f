//! Connections to one upstream, and the shelves of its idle ones: sockets, which HTTP/1 drives itself, and links, which hyper drives for
//! HTTP/2.
//!
//! ```text
//! dial --> in use --> put --> on the shelf --> take --> in use ...
//!                       \--> closed: withdrawn, shelf full, worn out
//! ```
//!
//! The shelves belong to the [`Route`], which belongs to one incarnation of a pod, so another tenant cannot be handed its connections:
//! there is no key to mistake. Withdrawing the route empties them.
//!
//! A connection lives and dies with the runtime that dialled it, so none of another edge that shares the route table is given out.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::body::Upload;
use crate::hearing::{Heard, Hearing};
use crate::http1::socket::{Socket, Stream};
use crate::idle::{LazyTimer, Moment, WhenWoken};
use crate::limits::Limits;
use crate::policy::{self, Policy, Unwanted};
use crate::shelf::{Fit, Shelf};
use crate::traffic::Traffic;

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
    sockets: Shelf<Socket>,
    /// Those of HTTP/2's requests.
    links: Shelf<Link>,
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

/// A connection that carries at most one request at a time. Dropping it closes the connection at once, unless it has been upgraded.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) sender: SendRequest<Upload>,
    _driver: AbortOnDropHandle<()>,
    heard: Arc<Heard>,
    home: runtime::Id,
    patience: LazyTimer,
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
    #[error("starting HTTP on the connection failed")]
    Handshake(#[source] hyper::Error),
}

impl Link {
    /// Bytes received since the connection was opened: tells a failure before any answer from one amid it.
    pub(crate) fn received(&self) -> u64 {
        self.heard.received()
    }

    /// What comes of `answered`, if it comes within `patience`.
    pub(crate) async fn within<T>(&mut self, patience: Duration, mut answered: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let deadline = Moment::now().after(patience);
        poll_fn(|cx| match answered.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => self.patience.poll(deadline, cx).map(|()| None),
        })
        .await
    }
}

impl Route {
    pub(crate) fn new(address: Address) -> Route {
        Route {
            address,
            sockets: Shelf::default(),
            links: Shelf::default(),
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
        self.sockets.clear();
        self.links.clear();
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
    pub(crate) fn take_socket(&self) -> Option<Socket> {
        self.sockets.take(Socket::fit)
    }

    /// Shelves a connection; closes it when there is no room.
    pub(crate) fn put_socket(&self, socket: Socket, room: &Arc<Semaphore>, limits: &Limits) {
        self.sockets.put(socket, room, limits, &self.withdrawn);
    }

    /// Opens a connection; it ends `withdrawn_grace` after the route's withdrawal.
    pub(crate) async fn dial_socket(&self, limits: &Limits, policy: &Policy) -> Result<Socket, DialError> {
        let stream = self.connect(limits, policy).await?;
        Ok(Socket::new(stream, Box::pin(self.cut_after(limits.withdrawn_grace))))
    }

    /// The same for HTTP/2's links.
    pub(crate) fn take(&self) -> Option<Link> {
        let home = runtime::Handle::current().id();
        self.links.take(|link| match () {
            () if link.sender.is_closed() => Fit::Closed,
            () if link.home == home && link.sender.is_ready() => Fit::Usable,
            () => Fit::Elsewhere,
        })
    }

    /// Shelves a link whose answer has been read to its end; closes it when there is no room.
    pub(crate) fn put(&self, link: Link, room: &Arc<Semaphore>, limits: &Limits) {
        if !link.sender.is_closed() && !link.heard.is_deaf() {
            self.links.put(link, room, limits, &self.withdrawn);
        }
    }

    /// Closes what has been idle for `age` at `now`, and forgets what is known to be closed.
    pub(crate) fn reap(&self, now: Moment, age: Duration) {
        self.links.reap(now, age, |link| link.sender.is_closed());
        self.sockets.reap(now, age, |_| false);
    }

    /// Opens a connection; its driving task ends with the connection, or `withdrawn_grace` after the route's withdrawal.
    pub(crate) async fn dial(&self, limits: &Limits, policy: &Policy) -> Result<Link, DialError> {
        let stream = self.connect(limits, policy).await?;
        self.launch(stream, limits).await
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
            let verdict = policy.upstreams.check(address, policy::is_own);
            if let Err(reason) = &verdict {
                tracing::error!(%address, %reason, "the runtime says a pod is where none may be; it is not connected to");
            }
            verdict
        })
    }

    async fn launch(&self, stream: Stream, limits: &Limits) -> Result<Link, DialError> {
        let heard = Arc::<Heard>::default();
        let stream = Hearing::new(stream, Arc::clone(&heard));
        let (sender, connection) = Builder::new()
            .max_header_size(limits.header_bytes)
            .max_headers(limits.header_fields)
            .max_buf_size(limits.buffer_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(DialError::Handshake)?;
        let cut = WhenWoken::new(self.cut_after(limits.withdrawn_grace));
        let driver = tokio::spawn(async move {
            tokio::select! {
                biased;
                ended = connection.with_upgrades() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "upstream connection ended");
                    }
                }
                () = cut => {}
            }
        });
        let home = runtime::Handle::current().id();
        Ok(Link { sender, _driver: AbortOnDropHandle::new(driver), heard, home, patience: LazyTimer::default() })
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
