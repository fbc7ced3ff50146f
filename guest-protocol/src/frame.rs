//! Messages on the control port: a little-endian `u32` length, and that many bytes of JSON.

use std::io;

use serde::{Serialize, de::DeserializeOwned};

/// Size of the length before a message, in bytes.
const HEADER_BYTES: usize = 4;

/// What is wrong with received bytes.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The announced length exceeds the limit.
    #[error("a message of {length} bytes, more than {max}")]
    TooLong {
        /// As announced.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// The content is no message of the protocol.
    #[error("not a message of the protocol: {0}")]
    Content(#[from] serde_json::Error),
}

/// A message with its length.
///
/// # Errors
///
/// The message is longer than `max`, the receiver's limit.
pub fn encode(message: &impl Serialize, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEADER_BYTES;
    match u32::try_from(length) {
        Ok(short) if length <= max => bytes[..HEADER_BYTES].copy_from_slice(&short.to_le_bytes()),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {length} bytes, more than {max}"))),
    }
    Ok(bytes)
}

/// Splits received bytes into messages. Holds at most one unfinished message of the limit's length and the bytes fed last.
#[derive(Debug)]
pub struct Decoder {
    max: usize,
    received: Vec<u8>,
    /// Bytes of `received` that were already returned.
    used: usize,
}

impl Decoder {
    /// For messages of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, received: Vec::new(), used: 0 }
    }

    /// Adds received bytes. Call [`Decoder::message`] until it returns none before more are added.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.received.drain(..self.used);
        self.used = 0;
        self.received.extend_from_slice(bytes);
    }

    /// The next complete message.
    ///
    /// # Errors
    ///
    /// See [`FrameError`]; the stream is unusable then.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = self.received.get(self.used..).unwrap_or_default();
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length > self.max {
            return Err(FrameError::TooLong { length, max: self.max });
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(message)?;
        self.used += HEADER_BYTES + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Exit, FROM_GUEST_BYTES_MAX, FromGuest};

    #[test]
    fn messages_are_read_as_they_were_written_however_they_are_split() {
        let exited = FromGuest::Exited { container: 3, exit: Exit::Signal(9), out_of_memory: true };
        let messages = [FromGuest::Hello { version: 1 }, exited, FromGuest::Done];
        let bytes: Vec<u8> = messages.iter().flat_map(|message| encode(message, FROM_GUEST_BYTES_MAX).unwrap()).collect();
        for size in [1, 2, 7, bytes.len()] {
            let (mut decoder, mut read) = (Decoder::new(FROM_GUEST_BYTES_MAX), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.feed(piece);
                while let Some(message) = decoder.message::<FromGuest>().unwrap() {
                    read.push(message);
                }
            }
            assert_eq!(read, messages, "in pieces of {size}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_and_other_content_are_refused() {
        let mut decoder = Decoder::new(16);
        decoder.feed(&17_u32.to_le_bytes());
        assert!(matches!(decoder.message::<FromGuest>(), Err(FrameError::TooLong { length: 17, max: 16 })));
        for wrong in [&b"{}"[..], b"null", b"\"ready\"", b"{\"pong\":1,\"done\":2}", b"\xff"] {
            let mut decoder = Decoder::new(64);
            decoder.feed(&u32::try_from(wrong.len()).unwrap().to_le_bytes());
            decoder.feed(wrong);
            assert!(matches!(decoder.message::<FromGuest>(), Err(FrameError::Content(_))), "{wrong:?}");
        }
        assert!(encode(&FromGuest::Done, 3).is_err());
    }
}
