//! The chunked coding (RFC 9112 section 7.1), read strictly: what one reader takes for the end of a line, a chunk or a body, so does every
//! other. Extensions are skipped; chunks are written anew, as large as they come.

use bytes::{BufMut, BytesMut};

use super::field::{self, Class};
use super::syntax;

/// Hexadecimal digits of a size, at most.
const DIGITS_MAX: u8 = 16;
/// The largest chunk.
const SIZE_MAX: u64 = i64::MAX as u64;
/// Bytes of extensions in one body, at most.
const EXTENSIONS_MAX: u32 = 16 * 1024;
/// Bytes of trailers, at most.
const TRAILERS_MAX: usize = 16 * 1024;
/// Trailers, at most.
const TRAILER_FIELDS_MAX: usize = 100;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The size of a chunk; so many digits are known.
    Size(u8),
    /// Blanks behind a size.
    Blank,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// The start of a trailer, or the last line.
    Trailer,
    InTrailer,
    TrailerLf,
    EndLf,
    End,
}

/// The body is no chunked one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed")]
pub(crate) struct BadChunk;

/// Reads a chunked body piece by piece.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    /// Of the current chunk.
    left: u64,
    extensions: u32,
    /// Trailers, as they came.
    trailers: Vec<u8>,
}

/// What a piece of the body is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'b> {
    /// Content.
    Data(&'b [u8]),
    /// There is nothing left of the input.
    More,
    /// The body has ended.
    End,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size(0), left: 0, extensions: 0, trailers: Vec::new() }
    }
}

impl Decoder {
    /// Takes from the front of `input`.
    pub(crate) fn next<'b>(&mut self, input: &mut &'b [u8]) -> Result<Piece<'b>, BadChunk> {
        loop {
            if self.state == State::End {
                return Ok(Piece::End);
            }
            if self.state == State::Data {
                let take = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
                let (data, rest) = input.split_at(take);
                if data.is_empty() {
                    return Ok(Piece::More);
                }
                *input = rest;
                self.left -= u64::try_from(take).unwrap_or_default();
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Piece::Data(data));
            }
            let Some((byte, rest)) = input.split_first() else { return Ok(Piece::More) };
            *input = rest;
            self.state = self.after(*byte)?;
        }
    }

    fn after(&mut self, byte: u8) -> Result<State, BadChunk> {
        Ok(match (self.state, byte) {
            (State::Size(digits), _) if syntax::hexadecimal(byte).is_some() => {
                let digit = syntax::hexadecimal(byte).unwrap_or_default();
                if digits == DIGITS_MAX {
                    return Err(BadChunk);
                }
                self.left =
                    self.left.checked_mul(16).and_then(|left| left.checked_add(digit)).filter(|left| *left <= SIZE_MAX).ok_or(BadChunk)?;
                State::Size(digits + 1)
            }
            (State::Size(1..) | State::Blank, b' ' | b'\t') => self.extension(State::Blank)?,
            (State::Size(1..) | State::Blank, b';') => self.extension(State::Extension)?,
            (State::Size(1..) | State::Blank | State::Extension, b'\r') => State::SizeEnd,
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.extension(State::Extension)?,
            (State::SizeEnd, b'\n') if self.left == 0 => State::Trailer,
            (State::SizeEnd, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0),
            (State::Trailer, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => {
                Trailers::read(&self.trailers)?;
                State::End
            }
            (State::Trailer, _) if is_in_line(byte) => self.trailer(byte)?,
            (State::InTrailer, b'\r') => State::TrailerLf,
            (State::InTrailer, _) if is_in_line(byte) => self.trailer(byte)?,
            (State::TrailerLf, b'\n') => {
                self.trailers.extend_from_slice(b"\r\n");
                State::Trailer
            }
            _ => return Err(BadChunk),
        })
    }

    fn extension(&mut self, state: State) -> Result<State, BadChunk> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS_MAX { Err(BadChunk) } else { Ok(state) }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, BadChunk> {
        if self.trailers.len() >= TRAILERS_MAX {
            return Err(BadChunk);
        }
        self.trailers.push(byte);
        Ok(State::InTrailer)
    }

    /// The trailers of a body that has ended, those that may be passed on.
    pub(crate) fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        Trailers::passed(&self.trailers)
    }
}

fn is_in_line(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Lines as they came, each with its end.
struct Trailers;

impl Trailers {
    fn read(lines: &[u8]) -> Result<(), BadChunk> {
        let mut count = 0;
        for line in Self::lines(lines) {
            count += 1;
            let colon = line.iter().position(|byte| *byte == b':').ok_or(BadChunk)?;
            let name = line.get(..colon).unwrap_or_default();
            if !syntax::is_token(name) || count > TRAILER_FIELDS_MAX {
                return Err(BadChunk);
            }
        }
        Ok(())
    }

    fn passed(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let fields = Self::lines(lines).map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let (name, value) = line.split_at(colon);
            (name, syntax::trimmed(value.get(1..).unwrap_or_default()))
        });
        fields.filter(|(name, _)| !Class::of(name).is_barred_from_trailers())
    }

    fn lines(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
        // There is no other carriage return in them.
        lines.split(|byte| *byte == b'\r').map(|line| line.strip_prefix(b"\n").unwrap_or(line)).filter(|line| !line.is_empty())
    }
}

/// Appends a chunk.
pub(crate) fn put(out: &mut BytesMut, data: &[u8]) {
    syntax::put_hexadecimal(out, u64::try_from(data.len()).unwrap_or(u64::MAX));
    out.put_slice(b"\r\n");
    out.put_slice(data);
    out.put_slice(b"\r\n");
}

/// Appends the last chunk, with these trailers.
pub(crate) fn put_end<'t>(out: &mut BytesMut, trailers: impl Iterator<Item = (&'t [u8], &'t [u8])>) {
    out.put_slice(b"0\r\n");
    trailers.for_each(|(name, value)| field::put(out, name, value));
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Content and trailers of a body that comes in these pieces, and what is left behind it; none if it has no end.
    fn decoded(pieces: &[&[u8]]) -> Result<Option<(Vec<u8>, String)>, BadChunk> {
        let (mut decoder, mut content) = (Decoder::default(), Vec::new());
        for piece in pieces {
            let mut input = *piece;
            loop {
                match decoder.next(&mut input)? {
                    Piece::Data(data) => content.extend_from_slice(data),
                    Piece::More => break,
                    Piece::End => {
                        let mut trailers = BytesMut::new();
                        decoder.trailers().for_each(|(name, value)| field::put(&mut trailers, name, value));
                        return Ok(Some((content, String::from_utf8(trailers.into()).unwrap())));
                    }
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn whole_bodies_are_read_wherever_they_are_cut() {
        let table = [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", ""),
            ("00000005\r\nhello\r\n0\r\n\r\n", "hello", ""),
            ("5 \t\r\nhello\r\n0;x\r\n\r\n", "hello", ""),
            ("5;a=\"b\" ;c\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n", "hello0123456789", ""),
            ("1\r\na\r\n0\r\nX-Sum: 1\r\nHost: b\r\nX-Real_IP: c\r\nY:\t2 \r\n\r\n", "a", "x-sum: 1\r\ny: 2\r\n"),
        ];
        for (text, content, trailers) in table {
            let expected = Ok(Some((content.as_bytes().to_vec(), trailers.to_owned())));
            for cut in 0..=text.len() {
                let (front, back) = text.as_bytes().split_at(cut);
                assert_eq!(decoded(&[front, back]), expected, "{text:?} cut at {cut}");
                assert_eq!(decoded(&[front]).map(|body| body.is_some()), Ok(cut == text.len()), "{text:?} to {cut}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(17 * 1024));
        let long_trailer = format!("0\r\nX: {}\r\n\r\n", "x".repeat(17 * 1024));
        let many_trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(101));
        for text in [
            "zz\r\n",
            "\r\n5\r\nhello\r\n0\r\n\r\n",
            "5;\r\nhello6\r\n",
            "-1\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5_0\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            ";a\r\n",
            "ffffffffffffffffff\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffb\r\nhello\r\n0\r\n\r\n",
            "8000000000000000\r\n",
            "5\nhello\n0\n\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "5;a\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "5;a\0\r\nhello\r\n0\r\n\r\n",
            "5\r\nhelloX0\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX Y: z\r\n\r\n",
            "0\r\n: z\r\n\r\n",
            "0\r\n X: z\r\n\r\n",
            "0\r\nX: a\nY: b\r\n\r\n",
            "0\r\nX: a\rb\r\n\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            &long_extension,
            &long_trailer,
            &many_trailers,
        ] {
            assert_eq!(decoded(&[text.as_bytes()]), Err(BadChunk), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), cut in any::<prop::sample::Index>()) {
            let mut text = BytesMut::new();
            for chunk in &chunks {
                put(&mut text, chunk);
            }
            put_end(&mut text, std::iter::empty());
            let (front, back) = text.split_at(cut.index(text.len()));
            prop_assert_eq!(decoded(&[front, back]), Ok(Some((chunks.concat(), String::new()))));
        }

        #[test]
        fn nothing_makes_it_panic_or_depends_on_the_cut(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in any::<prop::sample::Index>()) {
            let (front, back) = bytes.split_at(if bytes.is_empty() { 0 } else { cut.index(bytes.len()) });
            prop_assert_eq!(decoded(&[front, back]), decoded(&[&bytes]));
        }
    }
}
