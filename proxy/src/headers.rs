//! What is stripped from a message and what is set on it. Pure.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const UPGRADE_TOKEN: HeaderValue = HeaderValue::from_static("upgrade");
const TE_TOKEN: HeaderValue = HeaderValue::from_static("te");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const NO_HOST: HeaderValue = HeaderValue::from_static("");

/// The fields that concern one connection only (RFC 9110 section 7.6.1), besides those Connection names.
const HOP_BY_HOP: [HeaderName; 8] =
    [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, HTTP2_SETTINGS];

/// The protocol a request (or a 101 answer) upgrades to: Connection must ask for it, and it may not be HTTP/2 in clear, which would
/// let a client speak past the edge's rules.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut offers = headers.get_all(UPGRADE).iter();
    let offer = offers.next()?;
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let plain_h2 = offer.to_str().map_or(true, |text| text.split(',').any(|name| name.trim().to_ascii_lowercase().starts_with("h2")));
    (asked && !plain_h2 && offers.next().is_none()).then(|| offer.clone())
}

/// Whether the client waits for 100 Continue before it sends its body; there is no other expectation (RFC 9110 section 10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether the client will take trailers (RFC 9110 section 10.1.4).
fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.contains_key(TE) && tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// Removes what concerns one hop. A message framed by Transfer-Encoding loses a Content-Length that came along: the next hop is
/// framed by us, and may not be told two lengths.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
        for name in nominated {
            if name != HOST && name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes a client's headers fit for an upstream. `upgrade` is what [`upgrade_of`] found, when it is to be passed on.
pub(crate) fn to_upstream(headers: &mut HeaderMap, host: Option<HeaderValue>, client: HeaderValue, upgrade: Option<HeaderValue>) {
    let takes_trailers = takes_trailers(headers);
    strip_hop_by_hop(headers);
    headers.remove(FORWARDED);
    headers.remove(X_REAL_IP);
    headers.insert(X_FORWARDED_FOR, client);
    headers.insert(X_FORWARDED_PROTO, HTTP);
    match host {
        Some(host) => {
            headers.insert(X_FORWARDED_HOST, host.clone());
            headers.insert(HOST, host);
        }
        None => {
            headers.remove(X_FORWARDED_HOST);
            headers.insert(HOST, NO_HOST); // HTTP/1.1 upstream demands the field (RFC 9112 section 3.2)
        }
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, UPGRADE_TOKEN);
    } else if takes_trailers {
        headers.insert(TE, TRAILERS);
        headers.insert(CONNECTION, TE_TOKEN);
    }
}

/// An answer names several lengths, or one that is no number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AmbiguousLength;

/// Makes an upstream's headers fit for the client. `upgrade` is the protocol of a 101.
///
/// hyper checks the length of a body that follows; this also covers answers without one (to HEAD, 304), whose length a cache believes.
pub(crate) fn to_client(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) -> Result<(), AmbiguousLength> {
    strip_hop_by_hop(headers);
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let Some(first) = lengths.next() {
        if first.is_empty() || !first.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err(AmbiguousLength);
        }
        let mut repeated = false;
        for other in lengths {
            if other != first {
                return Err(AmbiguousLength);
            }
            repeated = true;
        }
        if repeated {
            let length = first.clone();
            headers.insert(CONTENT_LENGTH, length);
        }
    }
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, UPGRADE_TOKEN);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_request_is_cleaned_and_marked() {
        let mut headers = map(&[
            ("host", "h"),
            ("connection", "keep-alive, x-mine, host, x-forwarded-for"),
            ("x-mine", "1"),
            ("x-yours", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "secret"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("forwarded", "for=evil"),
            ("x-real-ip", "6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
        ]);
        let host = headers.get(HOST).cloned();
        to_upstream(&mut headers, host, HeaderValue::from_static("1.2.3.4"), None);
        let expected = map(&[
            ("host", "h"),
            ("x-yours", "2"),
            ("te", "trailers"),
            ("connection", "te"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "h"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn only_an_asked_for_single_non_h2_upgrade_passes() {
        let ask = |fields: &[(&str, &str)]| upgrade_of(&map(fields)).is_some();
        assert!(ask(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]));
        assert!(!ask(&[("upgrade", "websocket")]));
        assert!(!ask(&[("upgrade", "h2c"), ("connection", "upgrade")]));
        assert!(!ask(&[("upgrade", "websocket, H2C"), ("connection", "upgrade")]));
        assert!(!ask(&[("upgrade", "websocket"), ("upgrade", "h2c"), ("connection", "upgrade")]));
    }

    #[test]
    fn an_answer_never_tells_two_lengths() {
        let mut headers = map(&[("transfer-encoding", "chunked"), ("content-length", "3"), ("connection", "close, x-a"), ("x-a", "1")]);
        assert_eq!(to_client(&mut headers, None), Ok(()));
        assert_eq!(headers, HeaderMap::new());
        for bad in [&["5", "6"][..], &["5, 5"], &["+5"], &[""]] {
            let fields: Vec<_> = bad.iter().map(|length| ("content-length", *length)).collect();
            let mut headers = map(&fields);
            assert_eq!(to_client(&mut headers, None), Err(AmbiguousLength), "{bad:?}");
        }
        let mut headers = map(&[("content-length", "5"), ("content-length", "5")]);
        assert_eq!(to_client(&mut headers, None), Ok(()));
        assert_eq!(headers, map(&[("content-length", "5")]));
    }
}
