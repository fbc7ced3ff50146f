//! Our packets in the words of `vectors.json`.

use codiusd_ilp::{
    btp::codec::{BtpBody, BtpPacket, ContentType, SubProtocol},
    packet::Packet,
    stream::{
        frame::Frame,
        packet::{IlpType, StreamPacket},
    },
};
use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use serde_json::{Value, json};

/// Types of frames that we skip, as any we don't know: StreamReceipt, of the deprecated RFC 39.
const FOREIGN: &[u64] = &[0x17];

pub(crate) fn ilp(packet: &Packet) -> Value {
    match packet {
        Packet::Prepare(prepare) => json!({
            "amount": prepare.amount.to_string(),
            "expiresAt": iso(prepare.expires_at),
            "executionCondition": hex::encode(prepare.condition),
            "destination": prepare.destination,
            "data": hex::encode(&prepare.data),
        }),
        Packet::Fulfill(fulfill) => json!({ "fulfillment": hex::encode(fulfill.fulfillment), "data": hex::encode(&fulfill.data) }),
        Packet::Reject(reject) => json!({
            "code": reject.code.as_str(),
            "triggeredBy": reject.triggered_by.as_ref().map_or("", |address| address.as_str()),
            "message": reject.message,
            "data": hex::encode(&reject.data),
        }),
    }
}

pub(crate) fn btp(frame: &BtpPacket) -> Value {
    let (kind, data) = match &frame.body {
        BtpBody::Response(parts) => (1, json!({ "protocolData": sub_protocols(parts) })),
        BtpBody::Error(error) => {
            let at = strtime::parse("%Y%m%d%H%M%S%.fZ", &error.triggered_at).and_then(|time| time.to_datetime());
            let data = json!({
                "code": str::from_utf8(&error.code).unwrap(),
                "name": error.name,
                "triggeredAt": iso(TimeZone::UTC.to_timestamp(at.unwrap()).unwrap()),
                "data": str::from_utf8(&error.data).unwrap(),
                "protocolData": sub_protocols(&error.protocol_data),
            });
            (2, data)
        }
        BtpBody::Message(parts) => (6, json!({ "protocolData": sub_protocols(parts) })),
        BtpBody::Transfer { amount, protocol_data } => {
            (7, json!({ "amount": amount.to_string(), "protocolData": sub_protocols(protocol_data) }))
        }
    };
    json!({ "type": kind, "requestId": frame.request_id, "data": data })
}

fn sub_protocols(parts: &[SubProtocol]) -> Value {
    let describe = |part: &SubProtocol| {
        let content_type = match part.content_type {
            ContentType::Octets => 0,
            ContentType::Text => 1,
            ContentType::Json => 2,
        };
        json!({ "protocolName": part.name, "contentType": content_type, "data": format!("hex:{}", hex::encode(&part.data)) })
    };
    parts.iter().map(describe).collect()
}

pub(crate) fn stream(packet: &StreamPacket) -> Value {
    let ilp_type = match packet.ilp_type {
        IlpType::Prepare => 12,
        IlpType::Fulfill => 13,
        IlpType::Reject => 14,
    };
    json!({
        "sequence": packet.sequence.to_string(),
        "ilpPacketType": ilp_type,
        "prepareAmount": packet.prepare_amount.to_string(),
        "frames": packet.frames.iter().map(frame).collect::<Value>(),
    })
}

/// A recorded packet without the frames we skip, and whether there were any.
pub(crate) fn without_foreign_frames(recorded: &Value) -> (Value, bool) {
    let mut expected = recorded.clone();
    let frames = expected["frames"].as_array_mut().unwrap();
    let all = frames.len();
    frames.retain(|frame| !FOREIGN.contains(&frame["type"].as_u64().unwrap()));
    let foreign = frames.len() < all;
    (expected, foreign)
}

/// A packet in few words: numbers, and names of frames.
pub(crate) fn summary(packet: &StreamPacket) -> Value {
    let name = |described: &Frame| match described {
        Frame::StreamMaxMoney { receive_max, .. } => json!(format!("StreamMaxMoney:{receive_max}")),
        other => frame(other)["name"].clone(),
    };
    let frames: Value = packet.frames.iter().map(name).collect();
    json!({ "seq": packet.sequence.to_string(), "amt": packet.prepare_amount.to_string(), "frames": frames })
}

fn frame(frame: &Frame) -> Value {
    let text = u64::to_string;
    match frame {
        Frame::ConnectionClose { code, message } => {
            json!({ "type": 0x01, "name": "ConnectionClose", "errorCode": code.0.to_string(), "errorMessage": message })
        }
        Frame::ConnectionNewAddress { source_account } => {
            json!({ "type": 0x02, "name": "ConnectionNewAddress", "sourceAccount": source_account })
        }
        Frame::ConnectionMaxData { max_offset } => json!({ "type": 0x03, "name": "ConnectionMaxData", "maxOffset": text(max_offset) }),
        Frame::ConnectionDataBlocked { max_offset } => {
            json!({ "type": 0x04, "name": "ConnectionDataBlocked", "maxOffset": text(max_offset) })
        }
        Frame::ConnectionMaxStreamId { max_stream_id } => {
            json!({ "type": 0x05, "name": "ConnectionMaxStreamId", "maxStreamId": text(max_stream_id) })
        }
        Frame::ConnectionStreamIdBlocked { max_stream_id } => {
            json!({ "type": 0x06, "name": "ConnectionStreamIdBlocked", "maxStreamId": text(max_stream_id) })
        }
        Frame::ConnectionAssetDetails { asset_code, asset_scale } => json!({
            "type": 0x07, "name": "ConnectionAssetDetails", "sourceAssetCode": asset_code, "sourceAssetScale": asset_scale.to_string(),
        }),
        Frame::StreamClose { stream_id, code, message } => json!({
            "type": 0x10, "name": "StreamClose", "streamId": text(stream_id), "errorCode": code.0.to_string(), "errorMessage": message,
        }),
        Frame::StreamMoney { stream_id, shares } => {
            json!({ "type": 0x11, "name": "StreamMoney", "streamId": text(stream_id), "shares": text(shares) })
        }
        Frame::StreamMaxMoney { stream_id, receive_max, total_received } => json!({
            "type": 0x12, "name": "StreamMaxMoney", "streamId": text(stream_id), "receiveMax": text(receive_max),
            "totalReceived": text(total_received),
        }),
        Frame::StreamMoneyBlocked { stream_id, send_max, total_sent } => json!({
            "type": 0x13, "name": "StreamMoneyBlocked", "streamId": text(stream_id), "sendMax": text(send_max), "totalSent": text(total_sent),
        }),
        Frame::StreamData { stream_id, offset, data } => json!({
            "type": 0x14, "name": "StreamData", "streamId": text(stream_id), "offset": text(offset), "data": hex::encode(data),
        }),
        Frame::StreamMaxData { stream_id, max_offset } => {
            json!({ "type": 0x15, "name": "StreamMaxData", "streamId": text(stream_id), "maxOffset": text(max_offset) })
        }
        Frame::StreamDataBlocked { stream_id, max_offset } => {
            json!({ "type": 0x16, "name": "StreamDataBlocked", "streamId": text(stream_id), "maxOffset": text(max_offset) })
        }
    }
}

fn iso(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
