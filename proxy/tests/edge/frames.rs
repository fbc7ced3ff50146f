//! A client that sends exactly the HTTP/2 frames it is told to.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::kit::within;
use crate::secure::TlsFixture;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// What became of a request.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Outcome {
    /// Answered with 200.
    Ok,
    /// Answered with 400.
    Bad,
    /// Answered with something else.
    Other,
    Reset,
    /// The connection was closed.
    Closed,
}

pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
    next: u32,
}

/// A field as a literal that no table keeps (RFC 7541 section 6.2.2).
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        match text.len() {
            length @ 0..127 => block.push(u8::try_from(length).unwrap()),
            mut length => {
                block.push(127);
                length -= 127;
                while length >= 128 {
                    block.push(u8::try_from(length % 128).unwrap() | 128);
                    length /= 128;
                }
                block.push(u8::try_from(length).unwrap());
            }
        }
        block.extend_from_slice(text);
    }
    block
}

/// `GET /` at `name`, with these fields in place of its own, or behind them.
pub(crate) fn request(name: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![(":method", "GET"), (":scheme", "https"), (":authority", name), (":path", "/")];
    for (own, value) in fields {
        match all.iter_mut().find(|(name, _)| name == own) {
            Some(field) => field.1 = value,
            None => all.push((own, value)),
        }
    }
    all.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

impl Frames {
    pub(crate) async fn open(fixture: &TlsFixture, name: &str) -> Frames {
        let mut stream = fixture.handshake(&fixture.authority.client(&["h2"]), name).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        Frames { stream, next: 1 }
    }

    /// The number of a new stream.
    pub(crate) fn number(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Whether the connection took it.
    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        let frame = frame(kind, flags, stream, payload);
        self.stream.write_all(&frame).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Kind, flags, stream and payload of the next frame.
    pub(crate) async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        within("a frame", self.stream.read_exact(&mut head)).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        within("a frame's payload", self.stream.read_exact(&mut payload)).await.ok()?;
        Some((kind, flags, u32::from_be_bytes(stream), payload))
    }

    /// Sends a request without a body and waits for what becomes of it.
    pub(crate) async fn ask(&mut self, block: &[u8]) -> Outcome {
        let number = self.number();
        self.send(HEADERS, END_STREAM | END_HEADERS, number, block).await;
        self.outcome(number).await
    }

    pub(crate) async fn outcome(&mut self, number: u32) -> Outcome {
        loop {
            match self.next().await {
                Some((HEADERS, _, stream, block)) if stream == number => {
                    // Two of the statuses that the static table has.
                    return match first_field(&block) {
                        Some(0x88) => Outcome::Ok,
                        Some(0x8c) => Outcome::Bad,
                        _ => Outcome::Other,
                    };
                }
                Some((RST_STREAM, _, stream, _)) if stream == number => return Outcome::Reset,
                Some((GOAWAY, ..)) | None => return Outcome::Closed,
                Some(_) => {}
            }
        }
    }

    /// Sends what `frame` makes of each number, reading all that comes, until the connection is closed or `count` have gone out or
    /// nothing moves any more. Whether it was closed.
    pub(crate) async fn flood(self, count: u32, frame: impl Fn(u32) -> Vec<u8>) -> bool {
        let (mut reading, mut writing) = tokio::io::split(self.stream);
        let flooding = async {
            for number in 0..count {
                let sent = async { writing.write_all(&frame(number)).await.is_ok() && writing.flush().await.is_ok() };
                match tokio::time::timeout(Duration::from_secs(2), sent).await {
                    Ok(true) => {}
                    Ok(false) => return true,
                    Err(_still) => return false,
                }
            }
            false
        };
        let draining = async { while matches!(reading.read(&mut [0; 4096]).await, Ok(1..)) {} };
        tokio::pin!(draining);
        tokio::select! {
            closed = flooding => closed || tokio::time::timeout(Duration::from_secs(1), draining).await.is_ok(),
            () = &mut draining => true,
        }
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The first byte of the first field of a block, which is its status: behind changes of the table's size (RFC 7541 section 6.3).
pub(crate) fn first_field(block: &[u8]) -> Option<u8> {
    let mut bytes = block.iter().copied();
    loop {
        let first = bytes.next()?;
        if first & 0xe0 != 0x20 {
            return Some(first);
        }
        if first & 0x1f == 0x1f {
            bytes.find(|byte| byte & 0x80 == 0)?;
        }
    }
}
