//! Octet Encoding Rules, as far as Interledger uses them (RFC 30): fixed integers, length prefixes, variable octet strings.
//!
//! Lengths must be canonical (minimal), and are checked against the remaining bytes before anything is allocated.

/// The bytes don't follow the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the length announces.
    #[error("{0} is truncated")]
    Truncated(&'static str),
    /// Trailing bytes.
    #[error("bytes follow after {0}")]
    Trailing(&'static str),
    /// A length that isn't minimal, or exceeds that of any packet.
    #[error("the length of {0} isn't canonical")]
    Length(&'static str),
    /// A value outside its range.
    #[error("{0} has an impossible value")]
    Value(&'static str),
}

/// Most bytes of a length in a length prefix: no packet needs more.
const LENGTH_BYTES_MAX: usize = 4;

/// Reads from the front of a byte slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What hasn't been read yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// A length prefix and that many bytes.
    pub fn var_octets(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let first = self.u8(what)?;
        if first < 0x80 {
            return self.take(usize::from(first), what);
        }
        let length_bytes = usize::from(first & 0x7f);
        if length_bytes > LENGTH_BYTES_MAX {
            return Err(DecodeError::Length(what));
        }
        let bytes = self.take(length_bytes, what)?;
        let canonical = match bytes {
            [] | [0, ..] => false,
            [only] => *only >= 0x80,
            _ => true,
        };
        if !canonical {
            return Err(DecodeError::Length(what));
        }
        let length = bytes.iter().fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
        self.take(length, what)
    }

    /// A variable unsigned integer of at most 8 bytes.
    pub fn var_uint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        match self.var_uint_bytes(what)? {
            Some(value) => Ok(value),
            None => Err(DecodeError::Value(what)),
        }
    }

    /// A variable unsigned integer where one of more than 8 bytes stands for "no limit" (RFC 29, 5.1.4).
    pub fn var_uint_saturating(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(self.var_uint_bytes(what)?.unwrap_or(u64::MAX))
    }

    fn var_uint_bytes(&mut self, what: &'static str) -> Result<Option<u64>, DecodeError> {
        let bytes = self.var_octets(what)?;
        match bytes.len() {
            0 => Err(DecodeError::Value(what)),
            1..=8 => Ok(Some(bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))),
            _ => Ok(None),
        }
    }

    /// Fails if any bytes are left.
    pub fn end(self, what: &'static str) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(what)) }
    }
}

/// Appends encoded values.
pub trait Writer {
    /// A length prefix and the bytes.
    fn put_var_octets(&mut self, bytes: &[u8]);
    /// A variable unsigned integer, minimal.
    fn put_var_uint(&mut self, value: u64);
}

impl Writer for Vec<u8> {
    fn put_var_octets(&mut self, bytes: &[u8]) {
        match u8::try_from(bytes.len()) {
            Ok(length) if length < 0x80 => self.push(length),
            _ => {
                let length = minimal(bytes.len() as u64);
                self.push(0x80 | length_of(&length));
                self.extend_from_slice(&length);
            }
        }
        self.extend_from_slice(bytes);
    }

    fn put_var_uint(&mut self, value: u64) {
        let bytes = minimal(value);
        self.push(length_of(&bytes));
        self.extend_from_slice(&bytes);
    }
}

/// Big-endian without leading zeros; zero is one byte.
fn minimal(value: u64) -> Vec<u8> {
    let skipped = (value.leading_zeros() / 8).min(7) as usize;
    value.to_be_bytes().into_iter().skip(skipped).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "at most 8")]
fn length_of(bytes: &[u8]) -> u8 {
    bytes.len() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal_and_bounded() {
        for length in [0_usize, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let mut bytes = Vec::new();
            bytes.put_var_octets(&vec![7; length]);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.var_octets("it").unwrap().len(), length);
            reader.end("it").unwrap();
        }
        let bad: [(&[u8], DecodeError); 6] = [
            (&[], DecodeError::Truncated("it")),
            (&[0x80], DecodeError::Length("it")),
            (&[0x81, 0x7f], DecodeError::Length("it")),
            (&[0x82, 0x00, 0xff], DecodeError::Length("it")),
            (&[0x84, 0xff, 0xff, 0xff, 0xff, 0], DecodeError::Truncated("it")),
            (&[0x85, 1, 0, 0, 0, 0], DecodeError::Length("it")),
        ];
        for (bytes, error) in bad {
            assert_eq!(Reader::new(bytes).var_octets("it"), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn integers_are_minimal_and_saturate_only_where_they_may() {
        for value in [0, 1, 255, 256, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            bytes.put_var_uint(value);
            assert_eq!(Reader::new(&bytes).var_uint("it"), Ok(value));
        }
        let nine = [9, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Reader::new(&nine).var_uint("it"), Err(DecodeError::Value("it")));
        assert_eq!(Reader::new(&nine).var_uint_saturating("it"), Ok(u64::MAX));
        assert_eq!(Reader::new(&[0]).var_uint_saturating("it"), Err(DecodeError::Value("it")));
    }
}
