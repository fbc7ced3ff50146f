//! Recorded packets, `vectors.json`: what the JavaScript packages made of each, and what must be made of it here.
//!
//! A row is `{name, kind, hex, decoded}`; rows that aren't plainly valid have `expect`, what should become of them, and
//! `js_behaviour`, what the JavaScript packages do with them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails where it stands")]

#[path = "vectors/describe.rs"]
mod describe;

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use codiusd_ilp::{
    btp::{
        client::{BtpLink, BtpUrl},
        codec::{BtpBody, BtpPacket, SubProtocol},
    },
    ildcp,
    packet::{Fulfill, Packet},
    service::{Config, Interledger},
    stream::{
        credit_sink::{Credit, CreditError, CreditSink, Lookup, Terms},
        crypto::{NotSealed, SharedSecret, StreamKeys, condition_of},
        packet::StreamPacket,
        receiver::Receiver,
    },
};
use ring::{aead, digest, hmac};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Value, json};

const ROWS: usize = 137;

/// Rows whose `expect` leaves it open, what we do, and why.
const CHOICES: &[(&str, Verdict, &str)] = &[
    ("prepare trailing byte after envelope", Verdict::Refuse, "no client sends any; what isn't read isn't relayed"),
    ("prepare extra byte inside envelope", Verdict::Refuse, "RFC 27 has no extension point"),
    ("prepare non-minimal envelope length (81 xx with xx<128)", Verdict::Refuse, "RFC 30 wants canonical lengths; JavaScript, too"),
    ("reject with invalid triggeredBy", Verdict::Refuse, "as in JavaScript; the packet fails either way"),
    ("btp response with zero-length count", Verdict::Refuse, "as in JavaScript"),
    ("stream: VarUInt with leading zero (02 00 01)", Verdict::Accept, "as in JavaScript; the value is clear"),
    ("stream: sequence VarUInt of 9 bytes", Verdict::Refuse, "as in JavaScript 2.x; nobody counts that far"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Accept,
    Refuse,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    kind: String,
    #[serde(deserialize_with = "read_hex")]
    hex: Vec<u8>,
    decoded: Value,
    expect: Option<String>,
    #[serde(default)]
    js_behaviour: String,
}

impl Row {
    /// A field of `decoded`.
    fn text(&self, field: &str) -> &str {
        self.decoded[field].as_str().unwrap_or_else(|| panic!("no {field}"))
    }

    /// A field of `decoded` in hex.
    fn bytes(&self, field: &str) -> Vec<u8> {
        hex::decode(self.text(field)).unwrap()
    }

    fn bytes32(&self, field: &str) -> [u8; 32] {
        self.bytes(field).try_into().unwrap()
    }

    /// What should become of a row that isn't plainly valid.
    fn verdict(&self) -> Verdict {
        let choice = CHOICES.iter().find(|(name, ..)| *name == self.name).map(|(_, verdict, _)| *verdict);
        let expect = self.expect.as_deref().expect("says what to expect");
        match choice {
            Some(choice) => choice,
            None if expect.starts_with("reject") => Verdict::Refuse,
            None if expect.starts_with("accept") => Verdict::Accept,
            None => panic!("{expect:?} leaves it open, and CHOICES doesn't say more"),
        }
    }

    /// Fails if a decoder's answer isn't the expected one.
    #[track_caller]
    fn check_refused<T, E>(&self, decoded: &Result<T, E>) {
        assert_eq!(self.verdict(), Verdict::Refuse);
        assert!(decoded.is_err(), "accepted");
    }
}

fn read_hex<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    hex::decode(String::deserialize(from)?).map_err(D::Error::custom)
}

fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

#[test]
fn every_row_is_read_as_recorded() {
    let rows = rows();
    assert_eq!(rows.len(), ROWS);
    for (name, ..) in CHOICES {
        assert!(rows.iter().any(|row| row.name == *name), "CHOICES names no row: {name}");
    }
    let mut wrong = Vec::new();
    for row in &rows {
        if std::panic::catch_unwind(|| check(row)).is_err() {
            wrong.push(format!("{}: {}", row.kind, row.name));
        }
    }
    assert!(wrong.is_empty(), "as the panics above say, these rows are wrong:\n  {}", wrong.join("\n  "));
}

fn check(row: &Row) {
    match row.kind.as_str() {
        "ilp-prepare" | "ilp-fulfill" | "ilp-reject" => {
            let packet = Packet::decode(&row.hex).unwrap();
            assert_eq!(describe::ilp(&packet), row.decoded);
            assert_eq!(packet.encode(), row.hex);
        }
        "ilp-prepare-digest" => check_largest_prepare(row),
        "ilp-invalid" => row.check_refused(&Packet::decode(&row.hex)),
        "ildcp-response" => {
            let account = ildcp::parse_response(&fulfill(row)).unwrap();
            let ildcp::Account { address, asset_code, asset_scale } = &account;
            assert_eq!(json!({ "clientAddress": address, "assetScale": asset_scale, "assetCode": asset_code }), row.decoded);
            assert_eq!(ildcp::respond(&account).encode(), row.hex);
        }
        "ildcp-invalid" => row.check_refused(&ildcp::parse_response(&fulfill(row))),
        "btp" => {
            let frame = BtpPacket::decode(&row.hex).unwrap();
            assert_eq!(describe::btp(&frame), row.decoded);
            assert_eq!(frame.encode(), row.hex);
        }
        "btp-digest" => check_many_sub_protocols(row),
        "btp-invalid" => row.check_refused(&BtpPacket::decode(&row.hex)),
        "stream-packet" => {
            let packet = StreamPacket::decode(&row.hex).unwrap();
            let (expected, foreign) = describe::without_foreign_frames(&row.decoded);
            assert_eq!(describe::stream(&packet), expected);
            if !foreign {
                assert_eq!(packet.encode(), row.hex);
            }
        }
        "stream-invalid" => row.check_refused(&StreamPacket::decode(&row.hex)),
        "stream-valid-odd" => check_odd_stream_packet(row),
        "stream-encrypted" => check_sealed(row),
        "stream-encrypted-invalid" => row.check_refused(&recorded_keys().open(&row.hex)),
        "stream-keys" => check_keys(row),
        "stream-shared-secret" => {
            let segment = row.decoded.get("token_ascii").map_or_else(|| row.bytes("token_hex"), |text| text.as_str().unwrap().into());
            let secret = SharedSecret::derive(&row.bytes32("serverSecret"), str::from_utf8(&segment).unwrap());
            assert!(secret == SharedSecret::from(row.bytes32("sharedSecret")));
        }
        // Made and read by the paid API, whose tests have it.
        "pay-token" => {}
        // Needs a connector: `accounts_are_named_after_their_tokens`.
        "btp-account" => {}
        unknown => panic!("a kind nobody checks: {unknown}"),
    }
}

fn fulfill(row: &Row) -> Fulfill {
    let Packet::Fulfill(fulfill) = Packet::decode(&row.hex).unwrap() else { panic!("no Fulfill") };
    fulfill
}

/// The row has the packet's first bytes only, and a digest of them all.
fn check_digest(row: &Row, encoded: &[u8]) {
    assert_eq!(json!(encoded.len()), row.decoded["totalLength"]);
    assert!(encoded.starts_with(&row.hex));
    assert_eq!(digest::digest(&digest::SHA256, encoded).as_ref(), row.bytes("sha256"));
}

fn check_largest_prepare(row: &Row) {
    // Without the data: another length of the whole, and an empty field at the end.
    let mut small = vec![0x0c, 62];
    small.extend_from_slice(row.hex.get(4..4 + 61).unwrap());
    small.push(0);
    let Packet::Prepare(mut prepare) = Packet::decode(&small).unwrap() else { panic!("no Prepare") };
    let (byte, length) = (row.bytes("dataByte")[0], row.decoded["dataLength"].as_u64().unwrap());
    prepare.data = vec![byte; length.try_into().unwrap()];
    let packet = Packet::Prepare(prepare.clone());
    for field in ["amount", "destination", "expiresAt"] {
        assert_eq!(describe::ilp(&packet)[field], row.decoded[field]);
    }
    check_digest(row, &packet.encode());
    assert_eq!(Packet::decode(&packet.encode()), Ok(packet));

    prepare.data.push(byte);
    assert!(Packet::decode(&prepare.encode()).is_err(), "one byte more was accepted");
}

fn check_many_sub_protocols(row: &Row) {
    let count = row.decoded["count"].as_u64().unwrap();
    let part = |number| SubProtocol { name: format!("p{}", number % 200), ..SubProtocol::ilp(Vec::new()) };
    let frame = BtpPacket { request_id: 3, body: BtpBody::Message((0..count).map(part).collect()) };
    check_digest(row, &frame.encode());
    assert_eq!(BtpPacket::decode(&frame.encode()), Ok(frame));
}

fn check_odd_stream_packet(row: &Row) {
    let decoded = StreamPacket::decode(&row.hex);
    if row.verdict() == Verdict::Refuse {
        return row.check_refused(&decoded);
    }
    let seen = row.js_behaviour.strip_prefix("accepts ").expect("JavaScript accepts it");
    let seen: Value = serde_json::from_str(seen).unwrap();
    assert_eq!(describe::summary(&decoded.unwrap()), seen);
}

/// Keys of the secret the sealed packets were recorded with.
fn recorded_keys() -> StreamKeys {
    let keys = rows().into_iter().find(|row| row.kind == "stream-keys").unwrap();
    SharedSecret::from(<[u8; 32]>::try_from(keys.hex).unwrap()).keys()
}

fn check_sealed(row: &Row) {
    let keys = SharedSecret::from(row.bytes32("sharedSecret")).keys();
    let plaintext = row.bytes("plaintext");
    assert_eq!(row.hex.get(..12).unwrap(), row.bytes("iv"));
    assert_eq!(keys.open(&row.hex).as_ref(), Ok(&plaintext));
    assert_eq!(keys.fulfillment(&row.hex), row.bytes32("fulfillment"));
    assert_eq!(condition_of(&row.bytes32("fulfillment")), row.bytes32("condition"));

    let sealed = keys.seal(plaintext.clone());
    assert_eq!(open_by_hand(&row.bytes("encryptionKey"), &sealed), Ok(plaintext));
    assert_ne!(sealed, keys.seal(row.bytes("plaintext")), "an IV was used twice");
}

/// Opens `iv | tag | ciphertext` without our code.
fn open_by_hand(key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NotSealed> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, key).unwrap());
    let (iv, rest) = sealed.split_at(12);
    let (tag, ciphertext) = rest.split_at(16);
    let mut buffer = [ciphertext, tag].concat();
    let nonce = aead::Nonce::try_assume_unique_for_key(iv).unwrap();
    key.open_in_place(nonce, aead::Aad::empty(), &mut buffer).map(|plaintext| plaintext.to_vec()).map_err(|_| NotSealed)
}

fn check_keys(row: &Row) {
    let secret = SharedSecret::from(<[u8; 32]>::try_from(row.hex.as_slice()).unwrap());
    let keys = secret.keys();
    let by_hand = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &row.bytes("fulfillmentKey")), b"data");
    assert_eq!(keys.fulfillment(b"data").as_slice(), by_hand.as_ref());
    assert_eq!(open_by_hand(&row.bytes("encryptionKey"), &keys.seal(b"data".to_vec())), Ok(b"data".to_vec()));
}

#[tokio::test]
async fn accounts_are_named_after_their_tokens() {
    let receiver = Arc::new(Receiver::new([0; 32], Arc::new(NoPayments)));
    let config = Config::Embedded { listen: vec!["127.0.0.1:0".parse().unwrap()], name: "dev".to_owned() };
    let connector = Interledger::start(config, receiver).await.unwrap();
    let address = connector.listening()[0];
    for row in rows().iter().filter(|row| row.kind == "btp-account") {
        let token = str::from_utf8(&row.hex).unwrap();
        let url = format!("btp+ws://:{token}@{address}").parse::<BtpUrl>();
        if token.is_empty() {
            assert!(url.is_err(), "an empty token must be refused");
            continue;
        }
        let link = BtpLink::connect(&url.unwrap()).await.unwrap();
        let account = link.account().await.unwrap();
        assert_eq!(account.address.as_str(), format!("private.dev.{}", row.text("account")));
        assert_eq!(URL_SAFE_NO_PAD.decode(row.text("account")).unwrap().len(), 32);
    }
    connector.stop().await;
}

#[derive(Debug)]
struct NoPayments;

#[async_trait]
impl CreditSink for NoPayments {
    async fn lookup(&self, _: &str, _: &[u8; 32]) -> Option<Lookup> {
        None
    }

    async fn credit(&self, _: Credit) -> Result<Terms, CreditError> {
        panic!("nothing is paid here")
    }
}
