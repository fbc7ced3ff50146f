//! BTP frames: what decodes encodes to a frame that says the same.
#![no_main]

use codiusd_fuzz as _;
use codiusd_ilp::btp::codec::BtpPacket;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(frame) = BtpPacket::decode(bytes) else { return };
    assert_eq!(BtpPacket::decode(&frame.encode()), Ok(frame));
});
