//! The number a request is known by on its way: in the fields its upstream gets, in what the edge answers itself, and in the access log.
//!
//! Half of it is this process's, random; the other half is a count, mixed, so that neither how many requests there were nor which one
//! came next can be read off at a glance. Nobody else's number is taken over: whoever sends one could make two requests look like one.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Characters of its text.
const LENGTH: usize = 32;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// One request's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId(u128);

impl RequestId {
    /// One that no request has had.
    pub(crate) fn next() -> RequestId {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let [process, start] = *halves();
        let count = start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        RequestId(u128::from(process) << 64 | u128::from(mixed(count)))
    }

    pub(crate) fn text(self) -> [u8; LENGTH] {
        let mut text = [0; LENGTH];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            if let [high, low] = pair {
                *high = digit(byte >> 4);
                *low = digit(byte & 15);
            }
        }
        text
    }

    pub(crate) fn value(self) -> HeaderValue {
        // Hexadecimal digits are always a value.
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&self.text())).unwrap_or(HeaderValue::from_static(""))
    }
}

fn digit(nibble: u8) -> u8 {
    DIGITS.get(usize::from(nibble)).copied().unwrap_or_default()
}

/// What is the same for all of this process.
fn halves() -> &'static [u64; 2] {
    static HALVES: OnceLock<[u64; 2]> = OnceLock::new();
    // The standard library's hasher has keys from the system's randomness.
    HALVES.get_or_init(|| [RandomState::new().hash_one(0u8), RandomState::new().hash_one(1u8)])
}

/// Different for different numbers (the finish of splitmix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_requests_have_one_number() {
        let ids: HashSet<String> = (0..10_000).map(|_| RequestId::next().to_string()).collect();
        assert_eq!(ids.len(), 10_000);
        let is_hex = |id: &String| id.len() == LENGTH && id.bytes().all(|byte| DIGITS.contains(&byte));
        assert!(ids.iter().all(is_hex));
        let id = RequestId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string(), "0123456789abcdef0011223344556677");
        assert_eq!(id.value(), "0123456789abcdef0011223344556677");
    }
}
