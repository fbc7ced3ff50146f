//! What containers write, on the output port: pieces of `container u16, stream u8, length u16` (little endian) and the bytes.

/// Bytes before a piece's content.
pub const HEADER_BYTES: usize = 5;
/// Longest piece, in bytes of content.
pub const PIECE_BYTES_MAX: usize = 16 << 10;

/// An output of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// The header of a piece; content beyond [`PIECE_BYTES_MAX`] bytes belongs into the next one.
pub fn header(container: u16, stream: Stream, length: u16) -> [u8; HEADER_BYTES] {
    let ([c0, c1], [l0, l1]) = (container.to_le_bytes(), length.to_le_bytes());
    [c0, c1, stream as u8, l0, l1]
}

/// What is wrong with received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an output piece for container {container}, stream {stream}, of {length} bytes")]
pub struct BadPiece {
    container: u16,
    stream: u8,
    length: u16,
}

/// The content that follows a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    container: u16,
    stream: Stream,
    left: usize,
}

/// Splits received bytes by container and stream; keeps only an unfinished header, never content.
#[derive(Debug)]
pub struct Decoder {
    containers: u16,
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` received so far.
    received: usize,
    content: Option<Expected>,
}

impl Decoder {
    /// For a pod of this many containers.
    pub fn new(containers: u16) -> Self {
        Self { containers, header: [0; HEADER_BYTES], received: 0, content: None }
    }

    /// Passes the content of `bytes` to `each`, in order.
    ///
    /// # Errors
    ///
    /// The guest named a container or stream that doesn't exist, or a longer piece than allowed; the stream is unusable then.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(u16, Stream, &[u8])) -> Result<(), BadPiece> {
        while !bytes.is_empty() {
            if let Some(expected) = &mut self.content {
                let (content, rest) = bytes.split_at(expected.left.min(bytes.len()));
                each(expected.container, expected.stream, content);
                expected.left -= content.len();
                if expected.left == 0 {
                    self.content = None;
                }
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((HEADER_BYTES - self.received).min(bytes.len()));
            self.header[self.received..self.received + part.len()].copy_from_slice(part);
            self.received += part.len();
            bytes = rest;
            if self.received == HEADER_BYTES {
                self.received = 0;
                self.content = self.expected()?;
            }
        }
        Ok(())
    }

    fn expected(&self) -> Result<Option<Expected>, BadPiece> {
        let [c0, c1, stream, l0, l1] = self.header;
        let (container, length) = (u16::from_le_bytes([c0, c1]), u16::from_le_bytes([l0, l1]));
        let known = match stream {
            0 => Some(Stream::Stdout),
            1 => Some(Stream::Stderr),
            _ => None,
        };
        match known {
            Some(stream) if container < self.containers && usize::from(length) <= PIECE_BYTES_MAX => {
                Ok((length > 0).then(|| Expected { container, stream, left: length.into() }))
            }
            _ => Err(BadPiece { container, stream, length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(container: u16, stream: Stream, content: &[u8]) -> Vec<u8> {
        [&header(container, stream, u16::try_from(content.len()).unwrap())[..], content].concat()
    }

    #[test]
    fn content_arrives_at_its_container_however_it_is_split() {
        let bytes = [piece(0, Stream::Stdout, b"one"), piece(1, Stream::Stderr, b""), piece(1, Stream::Stderr, b"two")].concat();
        for size in [1, 3, 4, bytes.len()] {
            let (mut decoder, mut read) = (Decoder::new(2), [Vec::new(), Vec::new()]);
            for part in bytes.chunks(size) {
                decoder
                    .feed(part, |container, stream, content| {
                        assert_eq!(stream, [Stream::Stdout, Stream::Stderr][usize::from(container)]);
                        read[usize::from(container)].extend_from_slice(content);
                    })
                    .unwrap();
            }
            assert_eq!(read, [b"one", b"two"], "in pieces of {size}");
        }
    }

    #[test]
    fn unknown_containers_and_streams_and_long_pieces_are_refused() {
        let mut stream = header(0, Stream::Stdout, 1);
        stream[2] = 2;
        let length = u16::try_from(PIECE_BYTES_MAX + 1).unwrap();
        for wrong in [header(2, Stream::Stdout, 1), stream, header(0, Stream::Stdout, length)] {
            assert!(Decoder::new(2).feed(&wrong, |_, _, _| panic!("no content")).is_err(), "{wrong:?}");
        }
    }
}
