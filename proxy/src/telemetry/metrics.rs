//! The edge's counters. Labels are closed sets; no host name, path or pod is ever one.

use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, Registry};

use crate::telemetry::families::{counters, gauge};
use crate::telemetry::handshakes::Handshakes;

const DESTINATIONS: [&str; 3] = ["pod", "control", "none"];
const METHODS: [&str; 3] = ["read", "write", "other"];
/// The last is for clients that left before they were answered.
const STATUSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "client_closed"];
/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Where a request was sent; [`Nowhere`](To::Nowhere) when it was refused before that was known, or there is no such pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Pod,
    Control,
    Nowhere,
}

/// Handles resolved once, so that a request only adds.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// By destination, method and status.
    requests: [[[IntCounter; 6]; 3]; 3],
    seconds: [Histogram; 3],
    faults: Vec<(&'static str, IntCounter)>,
    pub(crate) connections: IntGauge,
    pub(crate) parked: IntGauge,
    refused_total_limit: IntCounter,
    refused_client_limit: IntCounter,
    refused_untrusted: IntCounter,
    pub(crate) cut: Cut,
    pub(crate) handshakes: Handshakes,
    pub(crate) tunnels: IntGauge,
    pub(crate) upstream: Upstreams,
    /// Body bytes from clients, and those of tunnels.
    pub(crate) received: IntCounter,
    /// The same to clients.
    pub(crate) sent: IntCounter,
    pub(crate) log_dropped: IntCounter,
}

/// Client connections that are closed for what the client does or doesn't.
#[derive(Debug)]
pub(crate) struct Cut {
    /// What it sends is no HTTP.
    pub(crate) malformed: IntCounter,
    pub(crate) header_too_large: IntCounter,
    pub(crate) header_deadline: IntCounter,
    /// It takes none of what is sent to it.
    pub(crate) send_stall: IntCounter,
    /// It should begin with a PROXY protocol header, and doesn't, or not in time.
    pub(crate) proxy_header: IntCounter,
    /// It takes too little of it.
    pub(crate) send_too_slow: IntCounter,
    /// It takes back one request after the other, or does other things over HTTP/2 that only cost.
    pub(crate) abusive: IntCounter,
}

/// What is done with upstream connections, and what goes wrong.
#[derive(Debug)]
pub(crate) struct Upstreams {
    pub(crate) dialled: IntCounter,
    pub(crate) reused: IntCounter,
    pub(crate) retried: IntCounter,
    /// Nobody listens there, or the network says no.
    pub(crate) unreachable: IntCounter,
    pub(crate) connect_timeout: IntCounter,
    pub(crate) answer_timeout: IntCounter,
    /// Ended before an answer, or with one that is none.
    pub(crate) broken: IntCounter,
    /// The policy says that no pod may be there.
    pub(crate) unwanted: IntCounter,
}

/// Why a connection is closed as it arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Everywhere,
    ForClient,
    /// Here only trusted proxies may connect, and the peer is none.
    ForStrangers,
}

impl Metrics {
    /// With a counter for each of these faults.
    pub(crate) fn register(registry: &Registry, fault_labels: impl Iterator<Item = &'static str>) -> Result<Metrics, prometheus::Error> {
        let requests = "Requests by destination, method (read: GET, HEAD, OPTIONS) and status; client_closed: the client closed the connection before an answer.";
        let requests = counters(registry, "codius_edge_requests_total", requests, &["to", "method", "status"])?;
        let seconds = HistogramOpts::new("codius_edge_request_seconds", "From the head of a request to the head of its answer.");
        let seconds = HistogramVec::new(seconds.buckets(SECONDS.to_vec()), &["to"])?;
        registry.register(Box::new(seconds.clone()))?;
        let faults = counters(registry, "codius_edge_faults_total", "Requests answered by the edge itself, by reason.", &["fault"])?;
        let upstream = counters(registry, "codius_edge_upstream_total", "Upstream connections, by what became of them.", &["event"])?;
        let full = counters(registry, "codius_edge_connections_refused_total", "Client connections closed as they came.", &["reason"])?;
        let cut = counters(registry, "codius_edge_connections_cut_total", "Client connections closed for a client's fault.", &["reason"])?;
        let bytes = counters(registry, "codius_edge_bytes_total", "Bytes of bodies and tunnels, from and to clients.", &["direction"])?;
        let log_dropped = IntCounter::new("codius_edge_access_log_dropped_total", "Lines the access log could not take.")?;
        registry.register(Box::new(log_dropped.clone()))?;
        Ok(Metrics {
            requests: DESTINATIONS.map(|to| METHODS.map(|method| STATUSES.map(|status| requests.with_label_values(&[to, method, status])))),
            seconds: DESTINATIONS.map(|to| seconds.with_label_values(&[to])),
            faults: fault_labels.map(|label| (label, faults.with_label_values(&[label]))).collect(),
            connections: gauge(registry, "codius_edge_connections", "Client connections open, tunnels included.")?,
            parked: gauge(registry, "codius_edge_connections_parked", "Idle client connections that hold nothing but their stream.")?,
            refused_total_limit: full.with_label_values(&["limit_total"]),
            refused_client_limit: full.with_label_values(&["limit_client"]),
            refused_untrusted: full.with_label_values(&["untrusted_peer"]),
            cut: Cut {
                malformed: cut.with_label_values(&["malformed"]),
                header_too_large: cut.with_label_values(&["header_too_large"]),
                header_deadline: cut.with_label_values(&["header_deadline"]),
                send_stall: cut.with_label_values(&["send_stall"]),
                proxy_header: cut.with_label_values(&["proxy_header"]),
                send_too_slow: cut.with_label_values(&["send_too_slow"]),
                abusive: cut.with_label_values(&["abusive"]),
            },
            handshakes: Handshakes::register(registry)?,
            tunnels: gauge(registry, "codius_edge_tunnels", "Upgraded connections open.")?,
            upstream: Upstreams {
                dialled: upstream.with_label_values(&["dialled"]),
                reused: upstream.with_label_values(&["reused"]),
                retried: upstream.with_label_values(&["retried"]),
                unreachable: upstream.with_label_values(&["unreachable"]),
                connect_timeout: upstream.with_label_values(&["connect_timeout"]),
                answer_timeout: upstream.with_label_values(&["answer_timeout"]),
                broken: upstream.with_label_values(&["broken"]),
                unwanted: upstream.with_label_values(&["unwanted"]),
            },
            received: bytes.with_label_values(&["received"]),
            sent: bytes.with_label_values(&["sent"]),
            log_dropped,
        })
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, to: To, method: &Method, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1).min(STATUSES.len() - 2);
        self.count(to, method, class);
        if let Some(histogram) = self.seconds.get(to as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Counts a request whose client did not wait for an answer.
    pub(crate) fn left(&self, to: To, method: &Method) {
        self.count(to, method, STATUSES.len() - 1);
    }

    fn count(&self, to: To, method: &Method, status: usize) {
        let method = match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => 0,
            Method::POST | Method::PUT | Method::PATCH | Method::DELETE => 1,
            _ => 2,
        };
        let handle = self.requests.get(to as usize).and_then(|methods| methods.get(method)).and_then(|statuses| statuses.get(status));
        if let Some(handle) = handle {
            handle.inc();
        }
    }

    /// Counts a connection that was closed as it came.
    pub(crate) fn turned_away(&self, full: Full) {
        match full {
            Full::Everywhere => self.refused_total_limit.inc(),
            Full::ForClient => self.refused_client_limit.inc(),
            Full::ForStrangers => self.refused_untrusted.inc(),
        }
    }

    /// Counts a request the edge answered itself, by the label of its fault.
    pub(crate) fn failed(&self, fault: &str) {
        if let Some((_, counter)) = self.faults.iter().find(|(label, _)| *label == fault) {
            counter.inc();
        }
    }
}

/// One more while it lives.
#[derive(Debug)]
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
