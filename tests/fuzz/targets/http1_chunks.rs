//! Chunked bodies: read alike wherever they are cut, and as they are written.
#![no_main]

use codiusd_fuzz as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| codius_http1::chunks(bytes));
