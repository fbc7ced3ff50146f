//! The upstream of a request, and which faults its failures are.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

use crate::context::shared::Shared;
use crate::policy::limits::Limits;
use crate::request::error_response::Fault;
use crate::request::host::Destination;
use crate::request::visit::Visit;
use crate::routing::tombstones::WithdrawReason;
use crate::telemetry::metrics::Upstreams;
use crate::upstream::route::{DialError, Route};

/// The upstream of a request, and which faults its failures are.
#[derive(Debug)]
pub(crate) enum Target {
    Pod(Arc<Route>),
    Control(Arc<Route>),
}

impl Target {
    pub(crate) fn route(&self) -> &Arc<Route> {
        match self {
            Target::Pod(route) | Target::Control(route) => route,
        }
    }

    pub(crate) fn is_pod(&self) -> bool {
        matches!(self, Target::Pod(_))
    }

    pub(crate) fn of(destination: &Destination, edge: &Shared, visit: &mut Visit) -> Result<Target, Fault> {
        let Destination::Pod(key) = destination else {
            visit.goes_to_control();
            return Ok(Target::Control(Arc::clone(&edge.control)));
        };
        let key = key.ok_or(Fault::NoSuchPod)?;
        visit.is_for(key);
        let route = edge.routes.route(&key).ok_or_else(|| match edge.routes.why_not(&key, now()) {
            Some(WithdrawReason::Expired(at)) => Fault::PodExpired(at),
            Some(WithdrawReason::Exited(at)) => Fault::PodExited(at),
            Some(WithdrawReason::Restarting(_)) => Fault::PodRestarting,
            None => Fault::NoSuchPod,
        })?;
        visit.goes_to_pod(&route);
        Ok(Target::Pod(route))
    }

    /// Whether a request with at least `length` bytes of body may be sent there at `now`.
    pub(crate) fn check_room(&self, edge: &Shared, now: Instant, length: u64) -> Result<(), Fault> {
        if let Target::Pod(pod) = self
            && !edge.gate.admits_to(Arc::as_ptr(pod).addr(), now, &edge.limits)
        {
            return Err(Fault::PodTooBusy);
        }
        if length > self.bytes_max(&edge.limits) { Err(Fault::BodyTooLarge) } else { Ok(()) }
    }

    /// Bytes a request body may have.
    pub(crate) fn bytes_max(&self, limits: &Limits) -> u64 {
        if self.is_pod() { limits.pod_body_bytes } else { limits.control_body_bytes }
    }

    pub(crate) fn patience(&self, edge: &Shared) -> Duration {
        if self.is_pod() { edge.limits.first_byte } else { edge.limits.control_first_byte }
    }

    pub(crate) fn timed_out(&self) -> Fault {
        if self.is_pod() { Fault::PodTimedOut } else { Fault::ControlTimedOut }
    }

    pub(crate) fn broken(&self) -> Fault {
        if self.is_pod() { Fault::PodBroken } else { Fault::ControlBroken }
    }

    pub(crate) fn not_dialled(&self, error: &DialError, counters: &Upstreams) -> Fault {
        match error {
            DialError::Unwanted(_) => counters.unwanted.inc(),
            DialError::Withdrawn => {}
            DialError::Timeout => counters.connect_timeout.inc(),
            DialError::Connect(_) => counters.unreachable.inc(),
        }
        tracing::debug!(error = error as &dyn std::error::Error, route = ?self.route(), "upstream not reached");
        match (self, error) {
            (_, DialError::Unwanted(_)) => Fault::PodRefused,
            (_, DialError::Withdrawn) => Fault::NoSuchPod,
            (Target::Pod(_), DialError::Timeout) => Fault::PodTimedOut,
            (Target::Pod(_), DialError::Connect(_)) => Fault::PodUnreachable,
            (Target::Control(_), DialError::Timeout | DialError::Connect(_)) => Fault::ControlUnreachable,
        }
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or_default()
}
