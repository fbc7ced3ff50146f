//! Messages of a hostile guest: however the bytes are split, the same messages come out, and each is written as it could be read again.
#![no_main]

use codiusd_fuzz as _;
use codiusd_guest_protocol::{FROM_GUEST_BYTES_MAX, FromGuest, frame};
use libfuzzer_sys::fuzz_target;

/// The messages in these bytes, and whether the stream is still usable behind them.
fn read(bytes: &[u8], piece: usize) -> (Vec<FromGuest>, bool) {
    let (mut decoder, mut messages) = (frame::Decoder::new(FROM_GUEST_BYTES_MAX), Vec::new());
    for part in bytes.chunks(piece) {
        decoder.feed(part);
        loop {
            match decoder.message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, false),
            }
        }
    }
    (messages, true)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    for piece in [1, 3] {
        assert_eq!(read(bytes, piece), whole);
    }
    for message in &whole.0 {
        let written = frame::encode(message, usize::MAX).expect("a message");
        let (again, usable) = read(&written, written.len());
        // Escapes may make it longer than the limit.
        assert!(again == [message.clone()] || written.len() > FROM_GUEST_BYTES_MAX && !usable);
    }
});
