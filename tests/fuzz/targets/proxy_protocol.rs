//! PROXY protocol headers: a verdict is final, and a header ends where its last byte is.
#![no_main]

use codiusd_fuzz as _;
use libfuzzer_sys::fuzz_target;

// The file alone: it needs nothing of its crate, which would take minutes to build with instrumentation.
#[path = "../../../proxy/src/downstream/proxy_protocol.rs"]
mod proxy_protocol;

use proxy_protocol::{LENGTH_MAX, parse};

fuzz_target!(|bytes: &[u8]| {
    let verdict = parse(bytes);
    let length = match verdict {
        Ok(None) => {
            assert!(bytes.len() < LENGTH_MAX);
            return;
        }
        Ok(Some(header)) => header.length,
        Err(_) => bytes.len(),
    };
    assert!(length <= bytes.len() && length <= LENGTH_MAX.max(bytes.len()));
    for end in 0..length {
        let earlier = parse(&bytes[..end]);
        assert!(earlier == Ok(None) || earlier == verdict && verdict.is_err());
    }
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(parse(&more), verdict);
});
