//! Requests of HTTP/1: what we read, and what is written of it, is the same to hyper, or none.
#![no_main]

use codiusd_fuzz as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| codius_http1::requests(bytes));
