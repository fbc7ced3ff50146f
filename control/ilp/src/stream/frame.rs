//! STREAM frames (RFC 29, section 5.3).

use crate::{
    address::Address,
    oer::{DecodeError, Reader, Writer},
};

/// Why a stream or connection is closed (RFC 29, section 5.4). Unknown codes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamErrorCode(pub u8);

impl StreamErrorCode {
    /// Nothing is wrong.
    pub const NO_ERROR: Self = Self(1);
    /// More was sent than allowed.
    pub const FLOW_CONTROL: Self = Self(4);
    /// A stream that may not be opened.
    pub const STREAM_ID: Self = Self(5);
    /// The other end broke the protocol.
    pub const PROTOCOL_VIOLATION: Self = Self(8);
}

/// One frame. Amounts are in the receiving end's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// 0x01: the connection is closed.
    ConnectionClose {
        /// Why.
        code: StreamErrorCode,
        /// For people.
        message: String,
    },
    /// 0x02: the address of the sender of this frame.
    ConnectionNewAddress {
        /// Untrusted.
        source_account: Address,
    },
    /// 0x03: total data the connection accepts.
    ConnectionMaxData {
        /// In bytes.
        max_offset: u64,
    },
    /// 0x04: more data is waiting than the connection accepts.
    ConnectionDataBlocked {
        /// In bytes.
        max_offset: u64,
    },
    /// 0x05: the highest stream that may be opened.
    ConnectionMaxStreamId {
        /// Its id.
        max_stream_id: u64,
    },
    /// 0x06: a higher stream is requested.
    ConnectionStreamIdBlocked {
        /// Its id.
        max_stream_id: u64,
    },
    /// 0x07: the asset of the sender of this frame.
    ConnectionAssetDetails {
        /// Currency code.
        asset_code: String,
        /// Decimal places.
        asset_scale: u8,
    },
    /// 0x10: a stream is closed.
    StreamClose {
        /// The stream.
        stream_id: u64,
        /// Why.
        code: StreamErrorCode,
        /// For people.
        message: String,
    },
    /// 0x11: a stream's share of the packet's money.
    StreamMoney {
        /// The stream.
        stream_id: u64,
        /// Its share, of the sum of all shares.
        shares: u64,
    },
    /// 0x12: how much a stream accepts in total, and has received.
    StreamMaxMoney {
        /// The stream.
        stream_id: u64,
        /// In all; `u64::MAX` is no limit.
        receive_max: u64,
        /// So far.
        total_received: u64,
    },
    /// 0x13: the sender would send more if it were accepted.
    StreamMoneyBlocked {
        /// The stream.
        stream_id: u64,
        /// In all; `u64::MAX` is no limit.
        send_max: u64,
        /// So far.
        total_sent: u64,
    },
    /// 0x14: bytes of a stream.
    StreamData {
        /// The stream.
        stream_id: u64,
        /// Of the first byte.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// 0x15: total data a stream accepts.
    StreamMaxData {
        /// The stream.
        stream_id: u64,
        /// In bytes.
        max_offset: u64,
    },
    /// 0x16: more data is waiting than a stream accepts.
    StreamDataBlocked {
        /// The stream.
        stream_id: u64,
        /// In bytes.
        max_offset: u64,
    },
}

impl Frame {
    /// Parses one frame; `None` for an unknown type, which is skipped. Trailing bytes in a known frame are ignored.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let kind = reader.u8("frame type")?;
        let mut contents = Reader::new(reader.var_octets("frame")?);
        let inner = &mut contents;
        Ok(Some(match kind {
            0x01 => Self::ConnectionClose { code: StreamErrorCode(inner.u8("error code")?), message: read_text(inner)? },
            0x02 => match read_address(inner)? {
                Some(source_account) => Self::ConnectionNewAddress { source_account },
                None => return Ok(None),
            },
            0x03 => Self::ConnectionMaxData { max_offset: inner.var_uint("offset")? },
            0x04 => Self::ConnectionDataBlocked { max_offset: inner.var_uint("offset")? },
            0x05 => Self::ConnectionMaxStreamId { max_stream_id: inner.var_uint("stream id")? },
            0x06 => Self::ConnectionStreamIdBlocked { max_stream_id: inner.var_uint("stream id")? },
            0x07 => Self::ConnectionAssetDetails { asset_code: read_text(inner)?, asset_scale: inner.u8("asset scale")? },
            0x10 => Self::StreamClose {
                stream_id: inner.var_uint("stream id")?,
                code: StreamErrorCode(inner.u8("error code")?),
                message: read_text(inner)?,
            },
            0x11 => Self::StreamMoney { stream_id: inner.var_uint("stream id")?, shares: inner.var_uint("shares")? },
            0x12 => Self::StreamMaxMoney {
                stream_id: inner.var_uint("stream id")?,
                receive_max: inner.var_uint_saturating("receive max")?,
                total_received: inner.var_uint("total received")?,
            },
            0x13 => Self::StreamMoneyBlocked {
                stream_id: inner.var_uint("stream id")?,
                send_max: inner.var_uint_saturating("send max")?,
                total_sent: inner.var_uint("total sent")?,
            },
            0x14 => Self::StreamData {
                stream_id: inner.var_uint("stream id")?,
                offset: inner.var_uint("offset")?,
                data: inner.var_octets("stream data")?.to_vec(),
            },
            0x15 => Self::StreamMaxData { stream_id: inner.var_uint("stream id")?, max_offset: inner.var_uint("offset")? },
            0x16 => Self::StreamDataBlocked { stream_id: inner.var_uint("stream id")?, max_offset: inner.var_uint("offset")? },
            _ => return Ok(None),
        }))
    }

    /// Appends the frame.
    pub(super) fn put(&self, bytes: &mut Vec<u8>) {
        let mut inner = Vec::new();
        let kind = self.put_contents(&mut inner);
        bytes.push(kind);
        bytes.put_var_octets(&inner);
    }

    fn put_contents(&self, inner: &mut Vec<u8>) -> u8 {
        match self {
            Self::ConnectionMaxData { max_offset } => put_numbers(inner, 0x03, &[*max_offset]),
            Self::ConnectionDataBlocked { max_offset } => put_numbers(inner, 0x04, &[*max_offset]),
            Self::ConnectionMaxStreamId { max_stream_id } => put_numbers(inner, 0x05, &[*max_stream_id]),
            Self::ConnectionStreamIdBlocked { max_stream_id } => put_numbers(inner, 0x06, &[*max_stream_id]),
            Self::StreamMoney { stream_id, shares } => put_numbers(inner, 0x11, &[*stream_id, *shares]),
            Self::StreamMaxMoney { stream_id, receive_max, total_received } => {
                put_numbers(inner, 0x12, &[*stream_id, *receive_max, *total_received])
            }
            Self::StreamMoneyBlocked { stream_id, send_max, total_sent } => put_numbers(inner, 0x13, &[*stream_id, *send_max, *total_sent]),
            Self::StreamMaxData { stream_id, max_offset } => put_numbers(inner, 0x15, &[*stream_id, *max_offset]),
            Self::StreamDataBlocked { stream_id, max_offset } => put_numbers(inner, 0x16, &[*stream_id, *max_offset]),
            Self::ConnectionClose { code, message } => {
                inner.push(code.0);
                inner.put_var_octets(message.as_bytes());
                0x01
            }
            Self::ConnectionNewAddress { source_account } => {
                inner.put_var_octets(source_account.as_str().as_bytes());
                0x02
            }
            Self::ConnectionAssetDetails { asset_code, asset_scale } => {
                inner.put_var_octets(asset_code.as_bytes());
                inner.push(*asset_scale);
                0x07
            }
            Self::StreamClose { stream_id, code, message } => {
                inner.put_var_uint(*stream_id);
                inner.push(code.0);
                inner.put_var_octets(message.as_bytes());
                0x10
            }
            Self::StreamData { stream_id, offset, data } => {
                inner.put_var_uint(*stream_id);
                inner.put_var_uint(*offset);
                inner.put_var_octets(data);
                0x14
            }
        }
    }
}

fn put_numbers(inner: &mut Vec<u8>, kind: u8, numbers: &[u64]) -> u8 {
    numbers.iter().for_each(|number| inner.put_var_uint(*number));
    kind
}

fn read_text(inner: &mut Reader<'_>) -> Result<String, DecodeError> {
    Ok(String::from_utf8_lossy(inner.var_octets("text")?).into_owned())
}

/// An invalid address counts as empty: we never send to it anyway.
fn read_address(inner: &mut Reader<'_>) -> Result<Option<Address>, DecodeError> {
    let bytes = inner.var_octets("source account")?;
    Ok(std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()))
}
