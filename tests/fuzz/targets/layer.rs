//! Archives of layers: no more content comes out of one than it has, whatever its maps say.
#![no_main]

use codiusd_fuzz as _;
use codiusd_runtime::image::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(content) = decode::archive(bytes) {
        assert!(content <= bytes.len() as u64, "{content} bytes of {}", bytes.len());
    }
});
