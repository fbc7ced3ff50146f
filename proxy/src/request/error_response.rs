//! The one table from failure to answer. Nothing an upstream said, and no address, gets into an answer.
//!
//! | fault | status | whose | what the operator does |
//! |---|---|---|---|
//! | `BadHost` | 400 | client | nothing |
//! | `BadBody` | 400 | client | nothing |
//! | `BadFraming` | 400 | client | nothing: somebody tries what the edge believes |
//! | `BadRequest` | 400 | client | nothing |
//! | `BadTarget` | 400 | client | nothing |
//! | `HeadTooLarge` | 431 | client | raise `header_bytes` if it is a good one |
//! | `Misdirected` | 421 | client | nothing: it asks anew on another connection |
//! | `TooManyFields` | 431 | client | raise `header_fields` if it is a good one |
//! | `MethodNotAllowed` | 405 | client | nothing |
//! | `ClientStalled`, `ClientTooSlow` | 408 | client | nothing |
//! | `BodyTooLarge` | 413 | client | nothing |
//! | `ClientTooFast` | 429 | client | raise `requests_per_client` if it is a good one |
//! | `PodTooBusy` | 429 | client | raise `requests_per_pod` if the machine bears it |
//! | `NoSuchPod` | 404 | client | nothing: never started, or gone for long |
//! | `PodExpired` | 404 | client | nothing: its paid time is over. Not 410: whoever asks knows 404 from before, and it may be paid again |
//! | `PodExited` | 404 | pod | nothing: all its containers have exited |
//! | `PodRestarting` | 503 | host | look at the log: the runtime has lost it, or can't look after it any more |
//! | `PodTunnelsFull` | 503 | pod | raise `tunnels_per_pod` if the machine bears it |
//! | `PodRefused` | 503 | host | look at the log: the runtime named an address no pod may have |
//! | `PodUnreachable` | 503 | pod | look whether the pod listens on its manifest's port |
//! | `PodTimedOut` | 504 | pod | as above |
//! | `PodBroken` | 502 | pod | the pod closed without an answer, or its answer is not HTTP |
//! | `ControlUnreachable` | 503 | host | is the control plane up? |
//! | `ControlTimedOut` | 504 | host | look at the control plane's log |
//! | `ControlBroken` | 502 | host | look at the control plane's log |

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER, SERVER};
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;

use crate::telemetry::request_id::{RequestId, X_REQUEST_ID};
use crate::wire::{BadHead, syntax};

/// Seconds after which a client may try again when something is down that should come back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");
/// The same for requests that come too fast: they are counted by the second.
const RETRY_NEXT_SECOND: HeaderValue = HeaderValue::from_static("1");

/// Who answers: no version, which would only help whoever looks for a weak one.
const OURSELVES: HeaderValue = HeaderValue::from_static("codiusd");

/// How a page tells the time.
const TIME: &str = "%Y-%m-%d %H:%M:%S";

/// Why a request gets no upstream's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    BadHost,
    BadBody,
    BadFraming,
    BadRequest,
    BadTarget,
    HeadTooLarge,
    Misdirected,
    MethodNotAllowed,
    TooManyFields,
    ClientStalled,
    ClientTooSlow,
    ClientTooFast,
    BodyTooLarge,
    NoSuchPod,
    /// With its end.
    PodExpired(Timestamp),
    /// With the time that was noticed.
    PodExited(Timestamp),
    PodRestarting,
    PodTooBusy,
    PodTunnelsFull,
    PodRefused,
    PodUnreachable,
    PodTimedOut,
    PodBroken,
    ControlUnreachable,
    ControlTimedOut,
    ControlBroken,
}

impl Fault {
    /// One of each kind.
    pub(crate) const ALL: [Fault; 26] = [
        Fault::BadHost,
        Fault::BadBody,
        Fault::BadFraming,
        Fault::BadRequest,
        Fault::BadTarget,
        Fault::HeadTooLarge,
        Fault::Misdirected,
        Fault::MethodNotAllowed,
        Fault::TooManyFields,
        Fault::ClientStalled,
        Fault::ClientTooSlow,
        Fault::ClientTooFast,
        Fault::BodyTooLarge,
        Fault::NoSuchPod,
        Fault::PodExpired(Timestamp::UNIX_EPOCH),
        Fault::PodExited(Timestamp::UNIX_EPOCH),
        Fault::PodRestarting,
        Fault::PodTooBusy,
        Fault::PodTunnelsFull,
        Fault::PodRefused,
        Fault::PodUnreachable,
        Fault::PodTimedOut,
        Fault::PodBroken,
        Fault::ControlUnreachable,
        Fault::ControlTimedOut,
        Fault::ControlBroken,
    ];

    /// Status, metric label, and what the client is told.
    const fn row(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Fault::BadHost => (StatusCode::BAD_REQUEST, "bad_host", "The request must name exactly one valid host."),
            Fault::BadBody => (StatusCode::BAD_REQUEST, "bad_body", "The request body is malformed or broke off."),
            Fault::BadFraming => (StatusCode::BAD_REQUEST, "bad_framing", "The request must say in one way how long it is."),
            Fault::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", "The request is malformed."),
            Fault::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", "The head of the request is larger than this host takes.")
            }
            Fault::BadTarget => (StatusCode::BAD_REQUEST, "bad_target", "The request must be for a path of a host, over http or https."),
            Fault::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "misdirected", "This connection was opened for another host name."),
            Fault::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This method is not supported here."),
            Fault::TooManyFields => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_fields", "The request has more header fields than this host takes.")
            }
            Fault::ClientStalled => (StatusCode::REQUEST_TIMEOUT, "client_stalled", "The request body stopped arriving."),
            Fault::ClientTooSlow => (StatusCode::REQUEST_TIMEOUT, "client_too_slow", "The request body arrives too slowly."),
            Fault::ClientTooFast => (StatusCode::TOO_MANY_REQUESTS, "client_too_fast", "You are sending too many requests. Slow down."),
            Fault::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The request body is larger than this host takes."),
            Fault::NoSuchPod => (StatusCode::NOT_FOUND, "no_such_pod", "There is no pod with this name on this host. It may have expired."),
            Fault::PodExpired(_) => (StatusCode::NOT_FOUND, "pod_expired", "This pod has expired: the time it was paid for is over."),
            Fault::PodExited(_) => (StatusCode::NOT_FOUND, "pod_exited", "This pod has stopped by itself."),
            Fault::PodRestarting => (StatusCode::SERVICE_UNAVAILABLE, "pod_restarting", "The pod is being restarted. Try again shortly."),
            Fault::PodTooBusy => (StatusCode::TOO_MANY_REQUESTS, "pod_too_busy", "The pod gets too many requests. Try again shortly."),
            Fault::PodTunnelsFull => {
                (StatusCode::SERVICE_UNAVAILABLE, "pod_tunnels_full", "The pod has too many open connections. Try again shortly.")
            }
            Fault::PodRefused => (StatusCode::SERVICE_UNAVAILABLE, "pod_refused", "The pod cannot be reached on this host."),
            Fault::PodUnreachable => (StatusCode::SERVICE_UNAVAILABLE, "pod_unreachable", "The pod is not accepting connections."),
            Fault::PodTimedOut => (StatusCode::GATEWAY_TIMEOUT, "pod_timed_out", "The pod did not answer in time."),
            Fault::PodBroken => (StatusCode::BAD_GATEWAY, "pod_broken", "The pod closed the connection or sent an invalid answer."),
            Fault::ControlUnreachable => {
                (StatusCode::SERVICE_UNAVAILABLE, "control_unreachable", "This host is starting or stopping. Try again shortly.")
            }
            Fault::ControlTimedOut => (StatusCode::GATEWAY_TIMEOUT, "control_timed_out", "This host did not answer in time."),
            Fault::ControlBroken => (StatusCode::BAD_GATEWAY, "control_broken", "This host failed to answer."),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        self.row().0
    }

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        self.row().1
    }

    fn message(self) -> &'static str {
        self.row().2
    }

    /// When what is wrong came about, if that is told.
    fn since(self) -> Option<Timestamp> {
        match self {
            Fault::PodExpired(at) | Fault::PodExited(at) => Some(at),
            _ => None,
        }
    }
}

impl From<BadHead> for Fault {
    fn from(bad: BadHead) -> Self {
        match bad {
            BadHead::Malformed => Fault::BadRequest,
            BadHead::Ambiguous => Fault::BadFraming,
            BadHead::TooLong => Fault::HeadTooLarge,
            BadHead::TooManyFields => Fault::TooManyFields,
        }
    }
}

/// What kind of answer the client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Person,
    Program,
}

impl Reader {
    /// Whichever of text/html and application/json the client would rather have; browsers name the first, and wildcards neither.
    pub(crate) fn of<'b>(values: impl Iterator<Item = &'b [u8]>) -> Reader {
        let values = values.filter_map(syntax::text);
        let (mut reader, mut best) = (Reader::Program, 0.0);
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let named = match parts.next() {
                Some(kind) if kind.eq_ignore_ascii_case("text/html") => Reader::Person,
                Some(kind) if kind.eq_ignore_ascii_case("application/json") => Reader::Program,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > best {
                (reader, best) = (named, weight);
            }
        }
        reader
    }
}

/// The answer to a request over plain HTTP that belongs at `location`; the method stays what it is (RFC 9110 section 15.4.9).
pub(crate) fn moved(location: HeaderValue) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response.headers_mut().insert(SERVER, OURSELVES);
    response
}

/// The answer to a request that failed with `fault`.
pub(crate) fn answer(fault: Fault, reader: Reader, now: Timestamp, id: RequestId) -> Response<Bytes> {
    let status = fault.status();
    let title = status.canonical_reason().unwrap_or("Error");
    let message = match fault.since() {
        Some(at) => format!("{} ({} UTC)", fault.message(), at.strftime(TIME)),
        None => fault.message().to_owned(),
    };
    let (kind, text) = match reader {
        Reader::Person => ("text/html; charset=utf-8", page(status.as_u16(), title, &message, now, id)),
        Reader::Program => (
            "application/json; charset=utf-8",
            serde_json::json!({ "statusCode": status.as_u16(), "error": title, "message": message, "requestId": id.to_string() })
                .to_string(),
        ),
    };
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(SERVER, OURSELVES);
    headers.insert(X_REQUEST_ID, id.value());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        headers.insert(RETRY_AFTER, RETRY_NEXT_SECOND);
    }
    if fault == Fault::BadFraming {
        // Nobody knows where the next request would begin.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    response
}

fn page(status: u16, title: &str, message: &str, now: Timestamp, id: RequestId) -> String {
    let time = now.strftime(TIME);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{status} {title}</title><style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}}\
         </style><h1>{title}</h1><p>{message}</p><p><small>{status} &middot; {time} UTC &middot; {id}</small></p></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_is_who_would_rather_have_a_page() {
        let table = [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Reader::Person),
            ("Text/HTML", Reader::Person),
            ("application/json;q=0.1, text/html; q=0.9", Reader::Person),
            ("application/json, text/html;q=0.1", Reader::Program),
            ("text/html;q=0.5, application/json;Q=0.6", Reader::Program),
            ("text/html;q=0", Reader::Program),
            ("text/html;q=nonsense", Reader::Program),
            ("text/html-ish", Reader::Program),
            ("application/json", Reader::Program),
            ("*/*", Reader::Program),
            ("", Reader::Program),
        ];
        for (accept, reader) in table {
            assert_eq!(Reader::of([accept.as_bytes()].into_iter()), reader, "{accept}");
        }
        assert_eq!(Reader::of(std::iter::empty()), Reader::Program);
    }
}
