//! What is stripped from a message and what is set on it. Pure.

use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, TE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::policy::Policy;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::wire::field::Class;
use crate::wire::syntax;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TE_TOKEN: HeaderValue = HeaderValue::from_static("te");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const NO_HOST: HeaderValue = HeaderValue::from_static("");

fn class(name: &HeaderName) -> Class {
    Class::of(name.as_str().as_bytes())
}

/// Whether a message's Transfer-Encoding, if it has one, is chunked and nothing else: the next hop is told of no other, and would take
/// what is left for the content.
pub(crate) fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else { return true };
    encodings.next().is_none() && encoding.as_bytes().eq_ignore_ascii_case(b"chunked")
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
    let mut doomed: Vec<HeaderName> = headers.keys().filter(|name| class(name).is_hop_by_hop()).cloned().collect();
    if doomed.is_empty() {
        return;
    }
    if doomed.contains(&CONNECTION) {
        let nominated = tokens(headers, &CONNECTION).filter(|token| !token.eq_ignore_ascii_case("keep-alive"));
        let nominated = nominated.filter_map(|token| token.parse().ok());
        doomed.extend(nominated.filter(|name| *name != HOST && *name != CONTENT_LENGTH));
    }
    if doomed.contains(&TRANSFER_ENCODING) {
        doomed.push(CONTENT_LENGTH);
    }
    for name in &doomed {
        headers.remove(name);
    }
}

/// Fields that no trailer may bring, whether they frame a message, concern one hop, or say who the client is: a server that merges
/// trailers with the fields of the head would believe them (RFC 9110 section 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_all(trailers, Class::is_barred_from_trailers);
}

/// The connection a request came by.
#[derive(Debug, Clone)]
pub(crate) struct Via {
    /// Whoever opened it.
    pub(crate) peer: IpAddr,
    /// `peer`, as X-Forwarded-For wants it.
    pub(crate) text: HeaderValue,
    /// Whether what `peer` says of its own clients is believed.
    pub(crate) trusted: bool,
    /// Whether it is encrypted.
    pub(crate) secure: bool,
}

impl Via {
    pub(crate) fn new(peer: IpAddr, secure: bool, policy: &Policy) -> Via {
        let peer = peer.to_canonical();
        let text = HeaderValue::from_str(&peer.to_string()).unwrap_or(NO_HOST);
        Via { peer, text, trusted: policy.trusts(peer), secure }
    }

    /// Who sent the request: the peer, or whom the nearest proxy that isn't believed was talking to. An entry that is no address ends
    /// the search: what is behind it was said by nobody we know.
    pub(crate) fn client(&self, headers: &HeaderMap, policy: &Policy) -> IpAddr {
        self.client_of(headers.get_all(X_FORWARDED_FOR).iter().rev().map(HeaderValue::as_bytes), policy)
    }

    /// The same by the values of X-Forwarded-For, the last one first.
    pub(crate) fn client_of<'b>(&self, fields: impl Iterator<Item = &'b [u8]>, policy: &Policy) -> IpAddr {
        let mut client = self.peer;
        if !self.trusted {
            return client;
        }
        for field in fields {
            for entry in syntax::text(field).unwrap_or_default().rsplit(',') {
                let Some(address) = address_of(entry.trim()) else { return client };
                client = address;
                if !policy.trusts(client) {
                    return client;
                }
            }
        }
        client
    }

    fn scheme(&self) -> HeaderValue {
        if self.secure { HTTPS } else { HTTP }
    }
}

/// The address in an entry of X-Forwarded-For, which may have a port.
fn address_of(entry: &str) -> Option<IpAddr> {
    let bare = entry.parse().ok().or_else(|| entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok());
    let address: IpAddr = bare.or_else(|| entry.parse::<SocketAddr>().ok().map(|with_port| with_port.ip()))?;
    Some(address.to_canonical())
}

/// Makes a client's headers fit for an upstream.
pub(crate) fn to_upstream(headers: &mut HeaderMap, host: Option<HeaderValue>, via: &Via, id: RequestId) {
    let takes_trailers = takes_trailers(headers);
    strip_hop_by_hop(headers);
    strip_guarded(headers, via.trusted);
    if via.trusted {
        append_forwarded(headers, via, host.as_ref());
    } else {
        headers.insert(X_FORWARDED_FOR, via.text.clone());
        headers.insert(X_FORWARDED_PROTO, via.scheme());
        if let Some(host) = &host {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    }
    headers.insert(X_REQUEST_ID, id.value());
    headers.insert(HOST, host.unwrap_or(NO_HOST)); // HTTP/1.1 upstream demands the field (RFC 9112 section 3.2)
    if takes_trailers {
        headers.insert(TE, TRAILERS);
        headers.insert(CONNECTION, TE_TOKEN);
    }
}

/// Removes what only a proxy may say, unless a believed one has said it, and what nobody may.
fn strip_guarded(headers: &mut HeaderMap, trusted: bool) {
    remove_all(headers, |class| class == Class::Nobodys || !trusted && class.is_a_proxys());
    if trusted {
        // Of what is said twice nobody knows which is meant; the two that are lists are added to.
        let repeated = |name: &HeaderName| {
            class(name).is_a_proxys() && ![FORWARDED, X_FORWARDED_FOR].contains(name) && headers.get_all(name).iter().nth(1).is_some()
        };
        let repeated: Vec<HeaderName> = headers.keys().filter(|name| repeated(name)).cloned().collect();
        for name in repeated {
            headers.remove(name);
        }
    }
}

fn remove_all(headers: &mut HeaderMap, is_unwanted: impl Fn(Class) -> bool) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(class(name))).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Adds this hop to what a believed proxy says of those before it; what it doesn't say, or says twice, is said of this hop.
fn append_forwarded(headers: &mut HeaderMap, via: &Via, host: Option<&HeaderValue>) {
    let peer = via.text.to_str().unwrap_or_default();
    let chain = joined(headers, &X_FORWARDED_FOR, peer).unwrap_or_else(|| via.text.clone());
    headers.insert(X_FORWARDED_FOR, chain);
    if headers.contains_key(FORWARDED) {
        let node = if via.peer.is_ipv6() { format!("for=\"[{peer}]\"") } else { format!("for={peer}") };
        match joined(headers, &FORWARDED, &node) {
            Some(chain) => headers.insert(FORWARDED, chain),
            None => headers.remove(FORWARDED),
        };
    }
    let schemes = [HTTP, HTTPS];
    if only(headers, &X_FORWARDED_PROTO).is_none_or(|scheme| !schemes.contains(scheme)) {
        headers.insert(X_FORWARDED_PROTO, via.scheme());
    }
    if only(headers, &X_FORWARDED_HOST).is_none() {
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
}

/// The field's one value.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The field's values with one more behind them, in one; `None` when one of them isn't text.
fn joined(headers: &HeaderMap, name: &HeaderName, more: &str) -> Option<HeaderValue> {
    let mut list = String::new();
    for value in headers.get_all(name) {
        list.push_str(value.to_str().ok()?);
        list.push_str(", ");
    }
    list.push_str(more);
    HeaderValue::from_str(&list).ok()
}

/// An answer names several lengths, one that is no number, or an encoding that the client would not be told of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AmbiguousLength;

/// What may follow the head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// What its fields say.
    Framed,
    /// Nothing, whatever they say (RFC 9110 sections 8.6, 15.3.5 and 15.3.6). What its pod has announced may still come, so its
    /// connection is not used again.
    None { announced: bool },
}

impl Content {
    fn of(status: StatusCode, headers: &HeaderMap) -> Content {
        if !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
            return Content::Framed;
        }
        let announced = headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0");
        Content::None { announced }
    }
}

/// Makes an upstream's headers fit for the client.
///
/// hyper checks the length of a body that follows; this also covers answers without one (to HEAD, 304), whose length a cache believes.
pub(crate) fn to_client(status: StatusCode, headers: &mut HeaderMap) -> Result<Content, AmbiguousLength> {
    if !is_framed_once(headers) {
        return Err(AmbiguousLength);
    }
    let content = Content::of(status, headers);
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
    if content != Content::Framed {
        headers.remove(CONTENT_LENGTH);
    }
    Ok(content)
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
        to_upstream(&mut headers, host, &via("1.2.3.4", false), RequestId::next());
        assert_eq!(headers.remove(X_REQUEST_ID).unwrap().len(), 32);
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

    fn policy() -> Policy {
        Policy { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], ..Policy::default() }
    }

    fn via(peer: &str, secure: bool) -> Via {
        Via::new(peer.parse().unwrap(), secure, &policy())
    }

    #[test]
    fn a_client_is_the_nearest_address_that_is_no_proxy_of_ours() {
        let table: &[(&str, &[&str], &str)] = &[
            ("1.2.3.4", &["6.6.6.6"], "1.2.3.4"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("::ffff:10.0.0.1", &["6.6.6.6", "1.2.3.4,10.0.0.2 , 10.0.0.3"], "1.2.3.4"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["6.6.6.6, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, unknown, 10.0.0.7"], "10.0.0.7"),
            ("10.0.0.1", &["6.6.6.6, "], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("fd00::1", &["[2001:db8::1]:5678"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["::ffff:1.2.3.4"], "1.2.3.4"),
        ];
        for (peer, chain, client) in table {
            let fields: Vec<_> = chain.iter().map(|field| ("x-forwarded-for", *field)).collect();
            assert_eq!(via(peer, false).client(&map(&fields), &policy()), client.parse::<IpAddr>().unwrap(), "{peer} {chain:?}");
        }
    }

    #[test]
    fn a_believed_proxy_is_added_to_and_another_one_overwritten() {
        let said = [
            ("host", "h"),
            ("forwarded", "for=1.2.3.4;proto=https"),
            ("x-real-ip", "1.2.3.4"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public"),
        ];
        let forwarded = |via: &Via, said: &[(&str, &str)]| {
            let mut headers = map(said);
            let host = headers.get(HOST).cloned();
            to_upstream(&mut headers, host, via, RequestId::next());
            headers.remove(X_REQUEST_ID);
            headers
        };
        let kept = [
            ("host", "h"),
            ("forwarded", "for=1.2.3.4;proto=https, for=10.0.0.1"),
            ("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public"),
        ];
        assert_eq!(forwarded(&via("10.0.0.1", false), &said), map(&kept));
        let own = |peer, scheme| map(&[("host", "h"), ("x-forwarded-for", peer), ("x-forwarded-proto", scheme), ("x-forwarded-host", "h")]);
        assert_eq!(forwarded(&via("1.1.1.1", true), &said), own("1.1.1.1", "https"));
        assert_eq!(forwarded(&via("10.0.0.1", true), &said[..1]), own("10.0.0.1", "https"));
        let odd = [("host", "h"), ("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a"), ("x-forwarded-host", "b")];
        assert_eq!(forwarded(&via("10.0.0.1", false), &odd), own("10.0.0.1", "http"));
        let six = forwarded(&via("fd00::1", false), &[("forwarded", "for=_hidden")]);
        assert_eq!(six.get("forwarded").unwrap(), "for=_hidden, for=\"[fd00::1]\"");
    }

    #[test]
    fn an_answer_never_tells_two_lengths() {
        let mut headers = map(&[("transfer-encoding", "chunked"), ("content-length", "3"), ("connection", "close, x-a"), ("x-a", "1")]);
        assert_eq!(to_client(StatusCode::OK, &mut headers), Ok(Content::Framed));
        assert_eq!(headers, HeaderMap::new());
        for bad in [&["5", "6"][..], &["5, 5"], &["+5"], &[""]] {
            let fields: Vec<_> = bad.iter().map(|length| ("content-length", *length)).collect();
            let mut headers = map(&fields);
            assert_eq!(to_client(StatusCode::OK, &mut headers), Err(AmbiguousLength), "{bad:?}");
        }
        let mut headers = map(&[("content-length", "5"), ("content-length", "5")]);
        assert_eq!(to_client(StatusCode::OK, &mut headers), Ok(Content::Framed));
        assert_eq!(headers, map(&[("content-length", "5")]));
    }
}
