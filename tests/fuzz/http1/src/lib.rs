//! HTTP/1 of codiusd's edge, held against hyper: each function panics when the two disagree.

#![expect(dead_code, reason = "the edge needs more of it")]

mod differential;
mod wire;

/// The requests of one connection.
pub fn requests(bytes: &[u8]) {
    differential::requests(bytes);
}

/// The answer to one request.
pub fn answers(bytes: &[u8], is_head: bool) {
    differential::answers(bytes, is_head);
}

/// A chunked body, wherever it is cut.
pub fn chunks(bytes: &[u8]) {
    differential::chunks(bytes);
}
