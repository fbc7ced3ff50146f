//! ILP error codes (RFC 27, "Error Codes").

use std::fmt;

/// Three characters: a class (`F`inal, `T`emporary, `R`elative) and two digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode([u8; 3]);

macro_rules! codes {
    ($($name:ident = $code:literal, $doc:literal;)*) => {
        impl ErrorCode {
            $(#[doc = $doc] pub const $name: Self = Self(*$code);)*
        }
    };
}

codes! {
    F00_BAD_REQUEST = b"F00", "The request makes no sense.";
    F01_INVALID_PACKET = b"F01", "The packet can't be read.";
    F02_UNREACHABLE = b"F02", "No way leads to the destination.";
    F05_WRONG_CONDITION = b"F05", "The fulfillment doesn't fit the condition.";
    F06_UNEXPECTED_PAYMENT = b"F06", "The receiver doesn't know what this is for.";
    F08_AMOUNT_TOO_LARGE = b"F08", "More than one packet may carry; the data says how much may.";
    F99_APPLICATION_ERROR = b"F99", "The receiver's own reason, in the data.";
    R00_TRANSFER_TIMED_OUT = b"R00", "It took too long.";
    R02_INSUFFICIENT_TIMEOUT = b"R02", "Too little time is left to forward it.";
    T00_INTERNAL_ERROR = b"T00", "Something broke; try again.";
    T01_PEER_UNREACHABLE = b"T01", "The next hop isn't connected; try again.";
    T04_INSUFFICIENT_LIQUIDITY = b"T04", "Not enough balance on the way; try again.";
    T05_RATE_LIMITED = b"T05", "Too many packets; slow down.";
}

impl ErrorCode {
    /// Parses a code: upper-case class, two digits.
    pub fn parse(code: [u8; 3]) -> Option<Self> {
        let valid = matches!(code[0], b'F' | b'T' | b'R') && code[1].is_ascii_digit() && code[2].is_ascii_digit();
        valid.then_some(Self(code))
    }

    /// The three characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("F00")
    }

    /// Whether the same packet may succeed later.
    pub fn is_temporary(self) -> bool {
        self.0[0] == b'T'
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
