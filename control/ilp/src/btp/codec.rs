//! BTP frames as bytes (RFC 23).

use crate::oer::{DecodeError, Reader, Writer};

const RESPONSE: u8 = 1;
const ERROR: u8 = 2;
const MESSAGE: u8 = 6;
const TRANSFER: u8 = 7;

/// The type of a sub-protocol's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// 0: bytes.
    Octets,
    /// 1: UTF-8 text.
    Text,
    /// 2: JSON.
    Json,
}

/// One named part of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubProtocol {
    /// Such as `ilp` or `auth`.
    pub name: String,
    /// What `data` is.
    pub content_type: ContentType,
    /// The content.
    pub data: Vec<u8>,
}

impl SubProtocol {
    /// The sub-protocol that carries an ILP packet.
    pub fn ilp(packet: Vec<u8>) -> Self {
        Self { name: "ilp".to_owned(), content_type: ContentType::Octets, data: packet }
    }

    /// A text sub-protocol.
    pub fn text(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), content_type: ContentType::Text, data: text.as_bytes().to_vec() }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtpPacket {
    /// Chosen by the requester; the response repeats it.
    pub request_id: u32,
    /// The content.
    pub body: BtpBody,
}

/// A frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BtpBody {
    /// Type 1: the response to a Message or Transfer.
    Response(Vec<SubProtocol>),
    /// Type 2: the request couldn't be handled.
    Error(BtpError),
    /// Type 6: a request.
    Message(Vec<SubProtocol>),
    /// Type 7: a settlement.
    Transfer {
        /// In the smallest unit of the two neighbours' asset.
        amount: u64,
        /// More about it.
        protocol_data: Vec<SubProtocol>,
    },
}

/// A BTP error; not an ILP reject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtpError {
    /// Three characters such as `F00`.
    pub code: [u8; 3],
    /// Its name, such as `NotAcceptedError`.
    pub name: String,
    /// Time of the error, as written by the peer.
    pub triggered_at: String,
    /// A message for people.
    pub data: Vec<u8>,
    /// More about it.
    pub protocol_data: Vec<SubProtocol>,
}

impl BtpPacket {
    /// Reads one frame; nothing may follow it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut outer = Reader::new(bytes);
        let kind = outer.u8("btp type")?;
        let request_id = outer.u32("btp request id")?;
        let mut inner = Reader::new(outer.var_octets("btp contents")?);
        outer.end("btp frame")?;
        let body = match kind {
            RESPONSE => BtpBody::Response(read_sub_protocols(&mut inner)?),
            ERROR => BtpBody::Error(BtpError {
                code: inner.array("btp error code")?,
                name: read_text(&mut inner, "btp error name")?,
                triggered_at: read_text(&mut inner, "btp error time")?,
                data: inner.var_octets("btp error data")?.to_vec(),
                protocol_data: read_sub_protocols(&mut inner)?,
            }),
            MESSAGE => BtpBody::Message(read_sub_protocols(&mut inner)?),
            TRANSFER => BtpBody::Transfer { amount: inner.u64("btp transfer amount")?, protocol_data: read_sub_protocols(&mut inner)? },
            _ => return Err(DecodeError::Value("btp type")),
        };
        inner.end("btp contents")?;
        Ok(Self { request_id, body })
    }

    /// The frame's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut inner = Vec::new();
        let kind = match &self.body {
            BtpBody::Response(protocol_data) => {
                put_sub_protocols(&mut inner, protocol_data);
                RESPONSE
            }
            BtpBody::Error(error) => {
                inner.extend_from_slice(&error.code);
                inner.put_var_octets(error.name.as_bytes());
                inner.put_var_octets(error.triggered_at.as_bytes());
                inner.put_var_octets(&error.data);
                put_sub_protocols(&mut inner, &error.protocol_data);
                ERROR
            }
            BtpBody::Message(protocol_data) => {
                put_sub_protocols(&mut inner, protocol_data);
                MESSAGE
            }
            BtpBody::Transfer { amount, protocol_data } => {
                inner.extend_from_slice(&amount.to_be_bytes());
                put_sub_protocols(&mut inner, protocol_data);
                TRANSFER
            }
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&self.request_id.to_be_bytes());
        bytes.put_var_octets(&inner);
        bytes
    }
}

/// The list grows as its parts are parsed: the declared count is never trusted for an allocation.
fn read_sub_protocols(inner: &mut Reader<'_>) -> Result<Vec<SubProtocol>, DecodeError> {
    let count = inner.var_uint("sub-protocol count")?;
    let mut list = Vec::new();
    for _ in 0..count {
        let name = read_text(inner, "sub-protocol name")?;
        let content_type = match inner.u8("sub-protocol content type")? {
            0 => ContentType::Octets,
            1 => ContentType::Text,
            2 => ContentType::Json,
            _ => return Err(DecodeError::Value("sub-protocol content type")),
        };
        list.push(SubProtocol { name, content_type, data: inner.var_octets("sub-protocol data")?.to_vec() });
    }
    Ok(list)
}

fn put_sub_protocols(bytes: &mut Vec<u8>, list: &[SubProtocol]) {
    bytes.put_var_uint(list.len() as u64);
    for part in list {
        bytes.put_var_octets(part.name.as_bytes());
        bytes.push(match part.content_type {
            ContentType::Octets => 0,
            ContentType::Text => 1,
            ContentType::Json => 2,
        });
        bytes.put_var_octets(&part.data);
    }
}

fn read_text(inner: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    String::from_utf8(inner.var_octets(what)?.to_vec()).map_err(|_| DecodeError::Value(what))
}
