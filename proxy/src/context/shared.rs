//! What all connections of one edge share.

use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::policy::gate::Gate;
use crate::policy::limits::Limits;
use crate::policy::trust::Policy;
use crate::routing::table::RouteTable;
use crate::telemetry::access::Log;
use crate::telemetry::metrics::Metrics;
use crate::upstream::route::Route;

/// One edge.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) control: Arc<Route>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) access: Option<Log>,
    /// The port of https that requests over plain HTTP are sent to.
    pub(crate) redirect: Option<u16>,
    /// What is said to browsers over https.
    pub(crate) hsts: Option<HeaderValue>,
    /// Places for idle upstream connections.
    pub(crate) room: Arc<Semaphore>,
    /// Places for pipes.
    pub(crate) pipes: Arc<Semaphore>,
    /// Whom is believed, counted and connected to.
    pub(crate) policy: Policy,
    /// Counts client connections and requests.
    pub(crate) gate: Gate,
    /// Client connections and tunnels.
    pub(crate) tasks: TaskTracker,
    /// The drain's deadline has come.
    pub(crate) cut: CancellationToken,
}
