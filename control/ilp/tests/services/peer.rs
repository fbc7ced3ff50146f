//! The other end of a STREAM connection, packet by packet.

use codiusd_ilp::{
    packet::{ErrorCode, Prepare, Reply},
    stream::{
        crypto::{SharedSecret, StreamKeys, condition_of},
        frame::Frame,
        packet::{IlpType, StreamPacket},
    },
};
use jiff::{SignedDuration, Timestamp};

use super::credit_sink::SERVER_SECRET;

/// A client that pays at one address segment of `private.host`.
#[derive(Debug)]
pub(crate) struct Peer {
    keys: StreamKeys,
    destination: String,
    sequence: u64,
}

/// A packet, described.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) amount: u64,
    pub(crate) least: u64,
    pub(crate) frames: Vec<Frame>,
    pub(crate) fulfillable: bool,
    pub(crate) ilp_type: IlpType,
    pub(crate) lasts: SignedDuration,
}

/// An answer, read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heard {
    /// None: fulfilled.
    pub(crate) code: Option<ErrorCode>,
    /// None: nothing encrypted came with it.
    pub(crate) stream: Option<StreamPacket>,
}

impl Sent {
    pub(crate) fn money(amount: u64) -> Self {
        Self { frames: vec![Frame::StreamMoney { stream_id: 1, shares: amount.max(1) }], ..Self::empty(amount) }
    }

    pub(crate) fn test(amount: u64) -> Self {
        Self { fulfillable: false, ..Self::empty(amount) }
    }

    pub(crate) fn empty(amount: u64) -> Self {
        let lasts = SignedDuration::from_secs(30);
        Self { amount, least: 0, frames: Vec::new(), fulfillable: true, ilp_type: IlpType::Prepare, lasts }
    }

    pub(crate) fn with(mut self, frame: Frame) -> Self {
        self.frames.push(frame);
        self
    }
}

impl Peer {
    pub(crate) fn new(segment: &str) -> Self {
        let keys = SharedSecret::derive(&SERVER_SECRET, segment).keys();
        Self { keys, destination: format!("private.host.{segment}"), sequence: 0 }
    }

    pub(crate) fn prepare(&mut self, sent: &Sent, now: Timestamp) -> Prepare {
        self.sequence += 1;
        let (ilp_type, frames) = (sent.ilp_type, sent.frames.clone());
        let packet = StreamPacket { ilp_type, sequence: self.sequence, prepare_amount: sent.least, frames };
        let data = self.keys.seal(packet.encode());
        let condition = if sent.fulfillable { condition_of(&self.keys.fulfillment(&data)) } else { [9; 32] };
        let destination = self.destination.parse().unwrap();
        Prepare { amount: sent.amount, expires_at: now + sent.lasts, condition, destination, data }
    }

    /// Reads an answer; a fulfillment must be the right one.
    pub(crate) fn read(&self, prepare: &Prepare, reply: Reply) -> Heard {
        let (code, data, ilp_type) = match reply {
            Ok(fulfill) => {
                assert_eq!(condition_of(&fulfill.fulfillment), prepare.condition, "the fulfillment fits");
                (None, fulfill.data, IlpType::Fulfill)
            }
            Err(reject) => (Some(reject.code), reject.data, IlpType::Reject),
        };
        let stream = self.keys.open(&data).ok().map(|plaintext| StreamPacket::decode(&plaintext).unwrap());
        if let Some(packet) = &stream {
            let expected = (ilp_type, self.sequence, prepare.amount);
            assert_eq!((packet.ilp_type, packet.sequence, packet.prepare_amount), expected, "type, sequence, what arrived");
        }
        Heard { code, stream }
    }
}

impl Heard {
    /// Fulfilled.
    pub(crate) fn is_paid(&self) -> bool {
        self.code.is_none()
    }

    fn frames(&self) -> &[Frame] {
        self.stream.as_ref().map_or(&[], |packet| &packet.frames)
    }

    /// The byte that says "repeat the request".
    pub(crate) fn says_ready(&self) -> bool {
        self.frames().contains(&Frame::StreamData { stream_id: 1, offset: 0, data: vec![0xff] })
    }

    /// What the server takes and has.
    pub(crate) fn max_money(&self) -> Option<(u64, u64)> {
        self.frames().iter().find_map(|frame| match frame {
            Frame::StreamMaxMoney { stream_id: 1, receive_max, total_received } => Some((*receive_max, *total_received)),
            _ => None,
        })
    }

    /// Limits and asset.
    pub(crate) fn introduces(&self) -> bool {
        let asset = Frame::ConnectionAssetDetails { asset_code: "XRP".to_owned(), asset_scale: 9 };
        self.frames().contains(&Frame::ConnectionMaxStreamId { max_stream_id: 2 }) && self.frames().contains(&asset)
    }

    /// Why the connection was closed.
    pub(crate) fn closed(&self) -> Option<u8> {
        self.frames().iter().find_map(|frame| match frame {
            Frame::ConnectionClose { code, .. } => Some(code.0),
            _ => None,
        })
    }

    /// Why a stream was closed.
    pub(crate) fn stream_closed(&self) -> Option<(u64, u8)> {
        self.frames().iter().find_map(|frame| match frame {
            Frame::StreamClose { stream_id, code, message } => {
                assert_eq!(message, "", "a StreamClose with a message kills a JS client");
                Some((*stream_id, code.0))
            }
            _ => None,
        })
    }
}
