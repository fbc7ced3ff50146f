//! Manifests, indexes and configs of images.
#![no_main]

use codiusd_fuzz as _;
use codiusd_runtime::image::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    decode::manifest(bytes);
    decode::config(bytes);
});
