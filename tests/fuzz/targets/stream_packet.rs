//! Opened STREAM packets: what decodes encodes to a packet that says the same.
#![no_main]

use codiusd_fuzz as _;
use codiusd_ilp::stream::packet::StreamPacket;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|plaintext: &[u8]| {
    let Ok(packet) = StreamPacket::decode(plaintext) else { return };
    assert_eq!(StreamPacket::decode(&packet.encode()), Ok(packet));
});
