//! IL-DCP answers, as a whole Fulfill or only its data: what is read is answered with the same bytes.
#![no_main]

use codiusd_fuzz as _;
use codiusd_ilp::{
    ildcp,
    packet::{Fulfill, Packet},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let fulfill = match Packet::decode(bytes) {
        Ok(Packet::Fulfill(fulfill)) => fulfill,
        _ => Fulfill { fulfillment: [0; 32], data: bytes.to_vec() },
    };
    let Ok(account) = ildcp::parse_response(&fulfill) else { return };
    assert_eq!(ildcp::respond(&account), fulfill);
});
