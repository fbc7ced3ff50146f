//! ILPv4 packets: what decodes encodes again, to the same bytes unless a message wasn't UTF-8.
#![no_main]

use codiusd_fuzz as _;
use codiusd_ilp::packet::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = Packet::decode(bytes) else { return };
    let encoded = packet.encode();
    assert_eq!(Packet::decode(&encoded).as_ref(), Ok(&packet));
    if !matches!(&packet, Packet::Reject(reject) if reject.message.contains(char::REPLACEMENT_CHARACTER)) {
        assert_eq!(encoded, bytes);
    }
});
