//! Sealed STREAM packets: opening, and that nothing changed on the way opens.
#![no_main]

use std::sync::LazyLock;

use codiusd_fuzz as _;
use codiusd_ilp::stream::{
    crypto::{NotSealed, SharedSecret, StreamKeys},
    packet::StreamPacket,
};
use libfuzzer_sys::fuzz_target;

/// Of the secret the recorded packets were sealed with.
static KEYS: LazyLock<StreamKeys> = LazyLock::new(|| SharedSecret::from(std::array::from_fn(|at| at as u8)).keys());

fuzz_target!(|bytes: &[u8]| {
    // Almost no mutation opens, so whatever doesn't is sealed first.
    let (mut sealed, plaintext) = match KEYS.open(bytes) {
        Ok(plaintext) => (bytes.to_vec(), plaintext),
        Err(NotSealed) => (KEYS.seal(bytes.to_vec()), bytes.to_vec()),
    };
    assert_eq!(KEYS.open(&sealed).as_ref(), Ok(&plaintext));
    let _ = StreamPacket::decode(&plaintext);

    let at = bytes.iter().map(|byte| usize::from(*byte)).sum::<usize>() % sealed.len();
    sealed[at] ^= 1;
    assert_eq!(KEYS.open(&sealed), Err(NotSealed));
});
