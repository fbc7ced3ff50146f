//! Decides what to do with a decrypted packet. Pure: packet, connection and terms -> verdict.

use jiff::Timestamp;

use crate::stream::{
    credit_sink::{Slack, Terms},
    frame::{Frame, StreamErrorCode},
    packet::StreamPacket,
};

/// The only stream of a payment.
pub(super) const STREAM: u64 = 1;
/// The byte clients wait for before they repeat their HTTP request.
pub(super) const PAID: &[u8] = &[0xff];
/// Most data the client may send in total, in bytes; real clients send none.
pub(super) const DATA_MAX: u64 = 16_384;
/// Decrypted packets of one connection.
const PACKETS_MAX: u32 = 10_000;
/// Packets whose money didn't fit, at most: some senders repeat theirs forever.
const REFUSALS_MAX: u32 = 50;

/// State of a connection between its packets; it may be lost at any time.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) last_packet: Timestamp,
    packets: u32,
    data_bytes: u64,
    stream_open: bool,
    closed: bool,
    /// Arriving amount of one of the sender's units, estimated from its smallest test packet.
    granularity: Option<u64>,
    refusals: u32,
}

impl Conn {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { last_packet: now, packets: 0, data_bytes: 0, stream_open: false, closed: false, granularity: None, refusals: 0 }
    }

    /// Whether no packet has been judged yet.
    pub(super) fn is_new(&self) -> bool {
        self.packets == 0
    }
}

/// Facts about a packet besides its frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) arrived: u64,
    pub(super) fulfillable: bool,
    pub(super) in_time: bool,
    pub(super) terms: Terms,
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Credit its money, if the ledger agrees.
    Credit { slack: Slack },
    /// Reject with F99 and these frames.
    Decline(Vec<Frame>),
    /// Fulfill a packet without money; with the "ask again" byte if the client has nothing to wait for.
    Fulfill { ask_again: bool },
    /// Reject: it expires too soon.
    Late,
}

/// Judges one packet; the order of the checks is part of the protocol.
pub(super) fn judge(conn: &mut Conn, packet: &StreamPacket, facts: Facts) -> Verdict {
    conn.packets = conn.packets.saturating_add(1);
    if conn.packets > PACKETS_MAX {
        return Verdict::Decline(give_up(&facts.terms));
    }
    if conn.closed && introduces(packet, facts.fulfillable) {
        // Another client with the same Pay-Token continues the payment.
        (conn.closed, conn.refusals) = (false, 0);
    }
    if let Some(verdict) = read_control(conn, packet) {
        return verdict;
    }
    if facts.arrived < packet.prepare_amount {
        return Verdict::Decline(Vec::new());
    }
    if !facts.fulfillable {
        if !has_close(packet) {
            let unit = facts.arrived.max(1);
            conn.granularity = Some(conn.granularity.map_or(unit, |smallest| smallest.min(unit)));
        }
        return Verdict::Decline(Vec::new());
    }
    if !facts.in_time {
        return Verdict::Late;
    }
    if facts.arrived == 0 {
        return Verdict::Fulfill { ask_again: conn.stream_open || facts.terms.room() == 0 };
    }
    judge_money(conn, packet, facts)
}

fn judge_money(conn: &mut Conn, packet: &StreamPacket, facts: Facts) -> Verdict {
    let mut shares = packet.frames.iter().filter_map(|frame| match frame {
        Frame::StreamMoney { stream_id, shares } => Some((*stream_id, *shares)),
        _ => None,
    });
    // The stream gets all of the money, whatever its number of shares; money of no stream is rejected.
    let attributed = matches!((shares.next(), shares.next()), (Some((STREAM, 1..)), None));
    if !attributed {
        return Verdict::Decline(Vec::new());
    }
    if conn.closed || facts.terms.is_over() {
        return Verdict::Decline(give_up(&facts.terms));
    }
    let unit = conn.granularity.unwrap_or(0);
    let slack = match conn.refusals {
        0 => Slack::None,
        1 => Slack::Unit(unit),
        _ => Slack::Percent(unit),
    };
    if facts.terms.open && facts.terms.accepts(facts.arrived, slack) {
        return Verdict::Credit { slack };
    }
    conn.refusals += 1;
    if conn.refusals >= REFUSALS_MAX {
        conn.closed = true;
        return Verdict::Decline(give_up(&facts.terms));
    }
    Verdict::Decline(vec![max_money(&facts.terms)])
}

/// Whether a packet comes from a client that is connecting: it announces its address, or tests the rate.
pub(super) fn introduces(packet: &StreamPacket, fulfillable: bool) -> bool {
    let tells_address = packet.frames.iter().any(|frame| matches!(frame, Frame::ConnectionNewAddress { .. }));
    (tells_address || !fulfillable) && !has_close(packet)
}

/// Handles frames that aren't about money; returns a verdict if one violates the protocol.
fn read_control(conn: &mut Conn, packet: &StreamPacket) -> Option<Verdict> {
    for frame in &packet.frames {
        let stream_id = match frame {
            Frame::ConnectionClose { .. } => {
                conn.closed = true;
                continue;
            }
            Frame::StreamData { stream_id, data, .. } => {
                conn.data_bytes = conn.data_bytes.saturating_add(data.len() as u64);
                *stream_id
            }
            Frame::StreamMoney { stream_id, .. }
            | Frame::StreamMaxMoney { stream_id, .. }
            | Frame::StreamMaxData { stream_id, .. }
            | Frame::StreamMoneyBlocked { stream_id, .. }
            | Frame::StreamDataBlocked { stream_id, .. }
            | Frame::StreamClose { stream_id, .. } => *stream_id,
            Frame::ConnectionNewAddress { .. }
            | Frame::ConnectionMaxData { .. }
            | Frame::ConnectionDataBlocked { .. }
            | Frame::ConnectionMaxStreamId { .. }
            | Frame::ConnectionStreamIdBlocked { .. }
            | Frame::ConnectionAssetDetails { .. } => continue,
        };
        if stream_id % 2 == 0 {
            return Some(close(StreamErrorCode::PROTOCOL_VIOLATION));
        }
        if stream_id != STREAM {
            let refuse = Frame::StreamClose { stream_id, code: StreamErrorCode::STREAM_ID, message: String::new() };
            return Some(Verdict::Decline(vec![refuse]));
        }
        match frame {
            Frame::StreamClose { .. } => conn.closed = true,
            Frame::StreamMoneyBlocked { .. } | Frame::StreamDataBlocked { .. } => {}
            _ => conn.stream_open = true,
        }
    }
    (conn.data_bytes > DATA_MAX).then(|| close(StreamErrorCode::FLOW_CONTROL))
}

fn has_close(packet: &StreamPacket) -> bool {
    packet.frames.iter().any(|frame| matches!(frame, Frame::ConnectionClose { .. }))
}

fn close(code: StreamErrorCode) -> Verdict {
    Verdict::Decline(vec![Frame::ConnectionClose { code, message: String::new() }])
}

/// No more money is accepted. JS clients would wait forever if the connection were only closed: the
/// byte makes them repeat their HTTP request, whose response explains the reason.
pub(super) fn give_up(terms: &Terms) -> Vec<Frame> {
    let ask_again = Frame::StreamData { stream_id: STREAM, offset: 0, data: PAID.to_vec() };
    vec![max_money(terms), ask_again, Frame::ConnectionClose { code: StreamErrorCode::NO_ERROR, message: String::new() }]
}

/// How much the stream accepts in total, and has received.
pub(super) fn max_money(terms: &Terms) -> Frame {
    Frame::StreamMaxMoney { stream_id: STREAM, receive_max: terms.receive_max, total_received: terms.received }
}
