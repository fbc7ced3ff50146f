//! A WebSocket that echoes (RFC 6455): handshake, messages in any number of fragments, pings, the closing handshake.

use std::io::{self, Read, Write};

use crate::http::Connection;

/// Longest message, in bytes.
const MESSAGE_MAX: u64 = 64 * 1024 * 1024;
/// Longest control frame (RFC 6455, section 5.5).
const CONTROL_MAX: u64 = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// `Sec-WebSocket-Accept` for a client's key (section 4.2.2).
pub fn accept_of(key: &str) -> String {
    base64(&sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()))
}

/// Echoes every message until the client closes.
pub fn echo(connection: &mut Connection) -> io::Result<()> {
    let (mut kind, mut message) = (None, Vec::new());
    loop {
        let (last, code, payload) = read_frame(connection, MESSAGE_MAX - message.len() as u64)?;
        match (code, kind) {
            (PING, _) => write_frame(connection, PONG, &payload)?,
            (PONG, _) => {}
            (CLOSE, _) => return write_frame(connection, CLOSE, payload.get(..2).unwrap_or_default()),
            (TEXT | BINARY, None) => (kind, message) = (Some(code), payload),
            (CONTINUATION, Some(_)) => message.extend(payload),
            _ => return Err(io::Error::other("unexpected frame")),
        }
        if let Some(code) = kind.filter(|_| last && code < CLOSE) {
            if code == TEXT && std::str::from_utf8(&message).is_err() {
                return write_frame(connection, CLOSE, &1007_u16.to_be_bytes());
            }
            write_frame(connection, code, &message)?;
            (kind, message) = (None, Vec::new());
        }
    }
}

/// Whether it is its message's last, its opcode, and its unmasked payload.
fn read_frame(connection: &mut Connection, max: u64) -> io::Result<(bool, u8, Vec<u8>)> {
    let mut head = [0; 2];
    let reader = connection.reader();
    reader.read_exact(&mut head)?;
    let (last, code, masked) = (head[0] & 0x80 != 0, head[0] & 0x0f, head[1] & 0x80 != 0);
    let length = match head[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length)?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            reader.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        length => u64::from(length),
    };
    let is_control = code >= CLOSE;
    if !masked || head[0] & 0x70 != 0 || length > if is_control { CONTROL_MAX } else { max } || is_control && !last {
        return Err(io::Error::other("a frame that is not allowed"));
    }
    let mut mask = [0; 4];
    reader.read_exact(&mut mask)?;
    let mut payload = Vec::new();
    if reader.take(length).read_to_end(&mut payload)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((last, code, payload))
}

fn write_frame(connection: &mut Connection, code: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![0x80 | code];
    match payload.len() {
        length @ 0..=125 => frame.push(length as u8),
        length @ 126..=0xffff => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    connection.stream().write_all(&frame)
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or_default()));
        for at in 0..4 {
            text.push(if at <= group.len() { LETTERS[(bits >> (18 - 6 * at)) as usize & 63] as char } else { '=' });
        }
    }
    text
}

/// FIPS 180-4. For the handshake alone, where it protects nothing.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words: Vec<u32> = block.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]])).collect();
        for at in 16..80 {
            words.push((words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.iter().enumerate() {
            let (mixed, constant) = match at {
                0..=19 => (b & c | !b & d, 0x5a82_7999),
                20..=39 => (b ^ c ^ d, 0x6ed9_eba1),
                40..=59 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let next = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(constant).wrapping_add(*word);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (sum, value) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}
