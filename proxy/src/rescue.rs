//! The one table from failure to answer. Nothing an upstream said, and no address, gets into an answer.
//!
//! | fault | status | whose | what the operator does |
//! |---|---|---|---|
//! | `BadHost` | 400 | client | nothing |
//! | `BadBody` | 400 | client | nothing |
//! | `MethodNotAllowed` | 405 | client | nothing |
//! | `ClientStalled` | 408 | client | nothing |
//! | `NoSuchPod` | 404 | client | nothing: never started, or its paid time is over |
//! | `PodUnreachable` | 503 | pod | look whether the pod listens on its manifest's port |
//! | `PodTimedOut` | 504 | pod | as above |
//! | `PodBroken` | 502 | pod | the pod closed without an answer, or its answer is not HTTP |
//! | `ControlUnreachable` | 503 | host | is the control plane up? |
//! | `ControlTimedOut` | 504 | host | look at the control plane's log |
//! | `ControlBroken` | 502 | host | look at the control plane's log |

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// Seconds after which a client may try again when something is down that should come back.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Why a request gets no upstream's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    BadHost,
    BadBody,
    MethodNotAllowed,
    ClientStalled,
    NoSuchPod,
    PodUnreachable,
    PodTimedOut,
    PodBroken,
    ControlUnreachable,
    ControlTimedOut,
    ControlBroken,
}

impl Fault {
    pub(crate) const ALL: [Fault; 11] = [
        Fault::BadHost,
        Fault::BadBody,
        Fault::MethodNotAllowed,
        Fault::ClientStalled,
        Fault::NoSuchPod,
        Fault::PodUnreachable,
        Fault::PodTimedOut,
        Fault::PodBroken,
        Fault::ControlUnreachable,
        Fault::ControlTimedOut,
        Fault::ControlBroken,
    ];

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Fault::BadHost | Fault::BadBody => StatusCode::BAD_REQUEST,
            Fault::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Fault::ClientStalled => StatusCode::REQUEST_TIMEOUT,
            Fault::NoSuchPod => StatusCode::NOT_FOUND,
            Fault::PodUnreachable | Fault::ControlUnreachable => StatusCode::SERVICE_UNAVAILABLE,
            Fault::PodTimedOut | Fault::ControlTimedOut => StatusCode::GATEWAY_TIMEOUT,
            Fault::PodBroken | Fault::ControlBroken => StatusCode::BAD_GATEWAY,
        }
    }

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Fault::BadHost => "bad_host",
            Fault::BadBody => "bad_body",
            Fault::MethodNotAllowed => "method_not_allowed",
            Fault::ClientStalled => "client_stalled",
            Fault::NoSuchPod => "no_such_pod",
            Fault::PodUnreachable => "pod_unreachable",
            Fault::PodTimedOut => "pod_timed_out",
            Fault::PodBroken => "pod_broken",
            Fault::ControlUnreachable => "control_unreachable",
            Fault::ControlTimedOut => "control_timed_out",
            Fault::ControlBroken => "control_broken",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Fault::BadHost => "The request must name exactly one valid host.",
            Fault::BadBody => "The request body is malformed or broke off.",
            Fault::MethodNotAllowed => "This method is not supported here.",
            Fault::ClientStalled => "The request body stopped arriving.",
            Fault::NoSuchPod => "There is no pod with this name on this host. It may have expired.",
            Fault::PodUnreachable => "The pod is not accepting connections.",
            Fault::PodTimedOut => "The pod did not answer in time.",
            Fault::PodBroken => "The pod closed the connection or sent an invalid answer.",
            Fault::ControlUnreachable => "This host is starting or stopping. Try again shortly.",
            Fault::ControlTimedOut => "This host did not answer in time.",
            Fault::ControlBroken => "This host failed to answer.",
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
    pub(crate) fn of(headers: &HeaderMap) -> Reader {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
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

/// The answer to a request that failed with `fault`.
pub(crate) fn answer(fault: Fault, reader: Reader) -> Response<Bytes> {
    let status = fault.status();
    let title = status.canonical_reason().unwrap_or("Error");
    let (kind, text) = match reader {
        Reader::Person => ("text/html; charset=utf-8", page(status.as_u16(), title, fault.message())),
        Reader::Program => (
            "application/json; charset=utf-8",
            serde_json::json!({ "statusCode": status.as_u16(), "error": title, "message": fault.message() }).to_string(),
        ),
    };
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    response
}

fn page(status: u16, title: &str, message: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{status} {title}</title><style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}}\
         </style><h1>{title}</h1><p>{message}</p><p><small>{status}</small></p></html>\n"
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
            assert_eq!(Reader::of(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))])), reader, "{accept}");
        }
        assert_eq!(Reader::of(&HeaderMap::new()), Reader::Program);
    }
}
