//! ILPv4 packets (RFC 27).

mod code;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

pub use self::code::ErrorCode;
pub use crate::oer::DecodeError;
use crate::{
    address::Address,
    oer::{Reader, Writer},
};

/// Largest data field, in bytes.
pub const DATA_MAX: usize = 32_767;

const PREPARE: u8 = 12;
const FULFILL: u8 = 13;
const REJECT: u8 = 14;

/// A conditional promise of money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// In the smallest unit of the sender's asset.
    pub amount: u64,
    /// Expiry of the promise, with millisecond precision.
    pub expires_at: Timestamp,
    /// SHA-256 of the fulfillment.
    pub condition: [u8; 32],
    /// The receiver's address.
    pub destination: Address,
    /// End-to-end data, at most [`DATA_MAX`] bytes.
    pub data: Vec<u8>,
}

/// Fulfills the promise: the money is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fulfill {
    /// Its SHA-256 is the condition.
    pub fulfillment: [u8; 32],
    /// End-to-end data.
    pub data: Vec<u8>,
}

/// Rejects the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The reason.
    pub code: ErrorCode,
    /// The node that rejected it, if named.
    pub triggered_by: Option<Address>,
    /// A message for people; untrusted.
    pub message: String,
    /// For machines; depends on the code.
    pub data: Vec<u8>,
}

/// The reply to a Prepare.
pub type Reply = Result<Fulfill, Reject>;

/// Any ILPv4 packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Type 12.
    Prepare(Prepare),
    /// Type 13.
    Fulfill(Fulfill),
    /// Type 14.
    Reject(Reject),
}

impl Packet {
    /// Parses one packet; trailing bytes are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut outer = Reader::new(bytes);
        let kind = outer.u8("packet type")?;
        let mut inner = Reader::new(outer.var_octets("packet")?);
        outer.end("packet")?;
        let packet = match kind {
            PREPARE => Self::Prepare(read_prepare(&mut inner)?),
            FULFILL => Self::Fulfill(Fulfill { fulfillment: inner.array("fulfillment")?, data: read_data(&mut inner)? }),
            REJECT => Self::Reject(read_reject(&mut inner)?),
            _ => return Err(DecodeError::Value("packet type")),
        };
        inner.end("packet contents")?;
        Ok(packet)
    }

    /// The packet's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Prepare(prepare) => prepare.encode(),
            Self::Fulfill(fulfill) => fulfill.encode(),
            Self::Reject(reject) => reject.encode(),
        }
    }
}

impl From<Reply> for Packet {
    fn from(reply: Reply) -> Self {
        match reply {
            Ok(fulfill) => Self::Fulfill(fulfill),
            Err(reject) => Self::Reject(reject),
        }
    }
}

impl Prepare {
    /// The packet's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut inner = self.amount.to_be_bytes().to_vec();
        inner.extend_from_slice(format_expiry(self.expires_at).as_bytes());
        inner.extend_from_slice(&self.condition);
        inner.put_var_octets(self.destination.as_str().as_bytes());
        inner.put_var_octets(&self.data);
        envelope(PREPARE, &inner)
    }
}

impl Fulfill {
    /// The packet's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut inner = self.fulfillment.to_vec();
        inner.put_var_octets(&self.data);
        envelope(FULFILL, &inner)
    }
}

impl Reject {
    /// A reject without data.
    pub fn new(code: ErrorCode, triggered_by: &Address, message: &str) -> Self {
        Self { code, triggered_by: Some(triggered_by.clone()), message: message.to_owned(), data: Vec::new() }
    }

    /// The packet's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut inner = self.code.as_str().as_bytes().to_vec();
        inner.put_var_octets(self.triggered_by.as_ref().map_or("", Address::as_str).as_bytes());
        inner.put_var_octets(self.message.as_bytes());
        inner.put_var_octets(&self.data);
        envelope(REJECT, &inner)
    }
}

fn envelope(kind: u8, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.put_var_octets(inner);
    bytes
}

fn read_prepare(inner: &mut Reader<'_>) -> Result<Prepare, DecodeError> {
    Ok(Prepare {
        amount: inner.u64("amount")?,
        expires_at: parse_expiry(inner.array("expiry")?).ok_or(DecodeError::Value("expiry"))?,
        condition: inner.array("condition")?,
        destination: read_address(inner.var_octets("destination")?, "destination")?,
        data: read_data(inner)?,
    })
}

fn read_reject(inner: &mut Reader<'_>) -> Result<Reject, DecodeError> {
    let code = ErrorCode::parse(inner.array("error code")?).ok_or(DecodeError::Value("error code"))?;
    let triggered_by = match inner.var_octets("triggeredBy")? {
        [] => None,
        bytes => Some(read_address(bytes, "triggeredBy")?),
    };
    let message = String::from_utf8_lossy(inner.var_octets("message")?).into_owned();
    Ok(Reject { code, triggered_by, message, data: read_data(inner)? })
}

fn read_data(inner: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let data = inner.var_octets("data")?;
    if data.len() > DATA_MAX { Err(DecodeError::Value("data")) } else { Ok(data.to_vec()) }
}

fn read_address(bytes: &[u8], what: &'static str) -> Result<Address, DecodeError> {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(DecodeError::Value(what))
}

/// `YYYYMMDDHHMMSSfff`, UTC.
fn parse_expiry(digits: [u8; 17]) -> Option<Timestamp> {
    let number = |from: usize, to: usize| {
        let part = digits.get(from..to)?;
        part.iter().try_fold(0_i16, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i16::from(digit - b'0')))
    };
    let small = |from, to| number(from, to).and_then(|value| i8::try_from(value).ok());
    let date = DateTime::new(
        number(0, 4)?,
        small(4, 6)?,
        small(6, 8)?,
        small(8, 10)?,
        small(10, 12)?,
        small(12, 14)?,
        i32::from(number(14, 17)?) * 1_000_000,
    );
    TimeZone::UTC.to_timestamp(date.ok()?).ok()
}

fn format_expiry(at: Timestamp) -> String {
    at.strftime("%Y%m%d%H%M%S%3f").to_string()
}
