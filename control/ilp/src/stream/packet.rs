//! STREAM packets (RFC 29, section 5.2).

use super::frame::Frame;
use crate::oer::{DecodeError, Reader, Writer};

const VERSION: u8 = 1;

/// The ILP packet type that carries a STREAM packet; it is sealed, so an attacker can't turn one type into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IlpType {
    /// 12.
    Prepare,
    /// 13.
    Fulfill,
    /// 14.
    Reject,
}

impl IlpType {
    fn byte(self) -> u8 {
        match self {
            Self::Prepare => 12,
            Self::Fulfill => 13,
            Self::Reject => 14,
        }
    }
}

/// The plaintext of a packet's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPacket {
    /// The ILP packet that carries it.
    pub ilp_type: IlpType,
    /// Chosen by the sender of the Prepare; the reply repeats it.
    pub sequence: u64,
    /// In a Prepare: the minimum that must arrive. In a reply: what arrived.
    pub prepare_amount: u64,
    /// Frames of the types we know, in order.
    pub frames: Vec<Frame>,
}

impl StreamPacket {
    /// Parses a packet. Bytes after the last frame are padding.
    pub fn decode(plaintext: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(plaintext);
        if reader.u8("STREAM version")? != VERSION {
            return Err(DecodeError::Value("STREAM version"));
        }
        let ilp_type = match reader.u8("ILP packet type")? {
            12 => IlpType::Prepare,
            13 => IlpType::Fulfill,
            14 => IlpType::Reject,
            _ => return Err(DecodeError::Value("ILP packet type")),
        };
        let sequence = reader.var_uint("sequence")?;
        let prepare_amount = reader.var_uint("prepare amount")?;
        let count = reader.var_uint("frame count")?;
        let mut frames = Vec::new();
        for _ in 0..count {
            frames.extend(Frame::read(&mut reader)?);
        }
        Ok(Self { ilp_type, sequence, prepare_amount, frames })
    }

    /// The plaintext.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.ilp_type.byte()];
        bytes.put_var_uint(self.sequence);
        bytes.put_var_uint(self.prepare_amount);
        bytes.put_var_uint(self.frames.len() as u64);
        self.frames.iter().for_each(|frame| frame.put(&mut bytes));
        bytes
    }
}
