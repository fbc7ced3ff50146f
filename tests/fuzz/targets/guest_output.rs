//! Output pieces of a hostile guest: however the bytes are split, each container's content is the same, and none is anybody else's.
#![no_main]

use codiusd_fuzz as _;
use codiusd_guest_protocol::output::{Decoder, HEADER_BYTES, PIECE_BYTES_MAX, Stream};
use libfuzzer_sys::fuzz_target;

const CONTAINERS: u16 = 3;

/// The content by container and stream, and whether the stream is still usable behind it.
fn read(bytes: &[u8], piece: usize) -> ([[Vec<u8>; 2]; CONTAINERS as usize], bool) {
    let (mut decoder, mut content) = (Decoder::new(CONTAINERS), <[[Vec<u8>; 2]; CONTAINERS as usize]>::default());
    for part in bytes.chunks(piece) {
        let keep = |container: u16, stream: Stream, bytes: &[u8]| {
            assert!(!bytes.is_empty() && bytes.len() <= PIECE_BYTES_MAX);
            content[usize::from(container)][stream as usize].extend_from_slice(bytes);
        };
        if decoder.feed(part, keep).is_err() {
            return (content, false);
        }
    }
    (content, true)
}

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    let total: usize = whole.0.iter().flatten().map(Vec::len).sum();
    assert!(total == 0 || total + HEADER_BYTES <= bytes.len());
    for piece in [1, 4, 7] {
        assert_eq!(read(bytes, piece), whole);
    }
});
