//! The embedded connector over real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use codiusd_ilp::{
    btp::{
        client::{BtpLink, BtpUrl},
        codec::{BtpBody, BtpPacket, ContentType, SubProtocol},
        session::{Ended, Handler, Session, drive, socket_config},
    },
    ildcp,
    link::Link,
    packet::{ErrorCode, Fulfill, Prepare, Reply},
    service::{Config, Interledger, StartError},
    stream::{crypto::condition_of, receiver::Receiver, sender::send},
};
use futures::{SinkExt, StreamExt, future::join_all};
use jiff::{SignedDuration, Timestamp};
use tokio::{net::TcpStream, sync::Notify, time};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest, protocol::Role},
};
use tokio_util::sync::CancellationToken;

use crate::credit_sink::{MemoryLedger, receiver};

const FULFILLMENT: [u8; 32] = [3; 32];
const PATIENCE: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connector `private.dev` on a free port.
pub(crate) async fn start(receiver: Arc<Receiver>, listen: SocketAddr, name: &str) -> Interledger {
    let config = Config::Embedded { listen: vec![listen], name: name.to_owned() };
    Interledger::start(config, receiver).await.unwrap()
}

pub(crate) fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) async fn link(address: SocketAddr, token: &str) -> BtpLink {
    let url: BtpUrl = format!("btp+ws://:{token}@{address}").parse().unwrap();
    BtpLink::connect(&url).await.unwrap()
}

async fn connector() -> (Interledger, SocketAddr, Arc<MemoryLedger>) {
    let ledger = MemoryLedger::with(&["order"], 1000);
    let connector = start(receiver(&ledger), anywhere(), "dev").await;
    let address = connector.listening()[0];
    (connector, address, ledger)
}

async fn socket(address: SocketAddr) -> Socket {
    connect_async(format!("ws://{address}/")).await.unwrap().0
}

fn message(parts: Vec<SubProtocol>) -> Message {
    Message::Binary(BtpPacket { request_id: 5, body: BtpBody::Message(parts) }.encode().into())
}

fn auth(username: &str, token: &str) -> Vec<SubProtocol> {
    let auth = SubProtocol { name: "auth".to_owned(), content_type: ContentType::Octets, data: Vec::new() };
    vec![auth, SubProtocol::text("auth_username", username), SubProtocol::text("auth_token", token)]
}

/// The next frame; none if the socket is closed.
async fn next(socket: &mut Socket) -> Option<BtpBody> {
    loop {
        let message = time::timeout(PATIENCE, socket.next()).await.expect("a frame, or the end");
        match message {
            Some(Ok(Message::Binary(bytes))) => return Some(BtpPacket::decode(&bytes).unwrap().body),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

fn prepare(destination: &str, lasts: SignedDuration) -> Prepare {
    let (expires_at, condition) = (Timestamp::now() + lasts, condition_of(&FULFILLMENT));
    Prepare { amount: 10, expires_at, condition, destination: destination.parse().unwrap(), data: b"hello".to_vec() }
}

async fn code(link: &BtpLink, destination: &str, lasts: SignedDuration) -> Option<ErrorCode> {
    link.send(prepare(destination, lasts)).await.err().map(|reject| reject.code)
}

const LONG: SignedDuration = SignedDuration::from_secs(20);

/// A child that takes payments.
#[derive(Debug, Default)]
struct Payee {
    fulfillment: [u8; 32],
    /// If there is one: tells that a packet has come, and answers when told to.
    when: Option<Arc<When>>,
}

#[derive(Debug, Default)]
struct When {
    come: Notify,
    answer: Notify,
}

#[async_trait]
impl Handler for Payee {
    async fn answer(&self, _: Prepare) -> Reply {
        if let Some(when) = &self.when {
            when.come.notify_one();
            when.answer.notified().await;
        }
        Ok(Fulfill { fulfillment: self.fulfillment, data: Vec::new() })
    }
}

/// Connects a payee as account `name`; it is there when this returns.
async fn payee(address: SocketAddr, name: &str, payee: Payee) -> tokio::task::JoinHandle<Ended> {
    let mut socket = socket(address).await;
    socket.send(message(auth(name, "secret"))).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(BtpBody::Response(Vec::new())));
    let (session, outbox) = Session::new(&CancellationToken::new());
    tokio::spawn(drive(socket, session, outbox, Arc::new(payee)))
}

#[tokio::test]
async fn any_token_is_an_account_that_can_pay_the_host() {
    let (connector, address, ledger) = connector().await;
    let host = connector.account().borrow().clone().unwrap();
    assert_eq!(host.address.as_str(), "private.dev.host");
    let link = link(address, "token").await;
    let account = link.account().await.unwrap();
    // base64url(sha256("token"))
    assert_eq!(account.address.as_str(), "private.dev.PEaenWxYddN6Q_NT1PiOYfz4EsZu7jRXRlpAsNpBU-A");
    assert_eq!((account.asset_code.as_str(), account.asset_scale), ("XRP", 9));
    let (to, secret) = receiver(&ledger).pay_to(&host, "order").unwrap();
    let delivery = send(&link, &account, &to, &secret, 5000, &mut |_| {}).await.unwrap();
    assert_eq!((delivery.sent, delivery.delivered, ledger.terms("order").received), (1000, 1000, 1000));
}

#[tokio::test]
async fn routes_by_the_second_segment_or_says_why_not() {
    let (_connector, address, _ledger) = connector().await;
    let link = link(address, "token").await;
    let own = link.account().await.unwrap().address;
    let honest = payee(address, "honest", Payee { fulfillment: FULFILLMENT, when: None }).await;
    let _thief = payee(address, "thief", Payee::default()).await;
    let table = [
        ("private.dev.honest", None),
        ("private.dev.honest.and.more", None),
        ("private.dev.thief", Some(ErrorCode::F05_WRONG_CONDITION)),
        ("private.dev.nobody", Some(ErrorCode::T01_PEER_UNREACHABLE)),
        ("private.dev", Some(ErrorCode::F02_UNREACHABLE)),
        ("g.elsewhere", Some(ErrorCode::F02_UNREACHABLE)),
        ("private.dev.host", Some(ErrorCode::F02_UNREACHABLE)),
        ("private.dev.host.nobody", Some(ErrorCode::F02_UNREACHABLE)),
        ("peer.settle", Some(ErrorCode::F01_INVALID_PACKET)),
        (own.as_str(), Some(ErrorCode::F02_UNREACHABLE)),
    ];
    for (destination, expected) in table {
        assert_eq!(code(&link, destination, LONG).await, expected, "{destination}");
    }
    let short = SignedDuration::from_millis(1900);
    assert_eq!(code(&link, "private.dev.honest", short).await, Some(ErrorCode::R02_INSUFFICIENT_TIMEOUT));
    honest.abort();
    let _ = honest.await;
    let gone = async { while code(&link, "private.dev.honest", LONG).await != Some(ErrorCode::T01_PEER_UNREACHABLE) {} };
    time::timeout(PATIENCE, gone).await.expect("the connector notices that a child has gone");
}

#[tokio::test]
async fn a_child_that_does_not_answer_is_waited_for_until_the_packet_expires() {
    let (_connector, address, _ledger) = connector().await;
    let link = link(address, "token").await;
    let _silent = payee(address, "silent", Payee { fulfillment: FULFILLMENT, when: Some(Arc::default()) }).await;
    let expired = code(&link, "private.dev.silent", SignedDuration::from_millis(2100)).await;
    assert_eq!(expired, Some(ErrorCode::R00_TRANSFER_TIMED_OUT));
}

#[tokio::test]
async fn web_pages_may_not_connect() {
    let (_connector, address, _ledger) = connector().await;
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    request.headers_mut().insert("origin", "http://localhost".parse().unwrap());
    match connect_async(request).await {
        Err(WsError::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_frame_must_say_who_it_is() {
    let (_connector, address, _ledger) = connector().await;
    let ilp = vec![SubProtocol::ilp(ildcp::request(Timestamp::now()).encode())];
    let refused = [
        auth("", ""),
        auth("host", "secret"),
        auth("a.b", "secret"),
        auth(&"a".repeat(65), "secret"),
        auth("", "secret").split_off(1),
        ilp,
        Vec::new(),
    ];
    for parts in refused {
        let mut socket = socket(address).await;
        socket.send(message(parts.clone())).await.unwrap();
        assert!(matches!(next(&mut socket).await, Some(BtpBody::Error(_))), "{parts:?}");
        assert_eq!(next(&mut socket).await, None, "closed");
    }
    let url: BtpUrl = format!("btp+ws://a.b:secret@{address}").parse().unwrap();
    assert!(BtpLink::connect(&url).await.unwrap_err().to_string().contains("refuses the credentials"));
}

#[tokio::test]
async fn who_does_not_say_who_it_is_is_hung_up_on() {
    let (_connector, address, _ledger) = connector().await;
    let mut socket = socket(address).await;
    time::pause();
    let since = time::Instant::now();
    assert_eq!(next(&mut socket).await, None);
    assert!(since.elapsed() >= Duration::from_secs(4) && since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

#[tokio::test]
async fn the_newest_of_eight_sessions_of_an_account_is_paid() {
    let (_connector, address, _ledger) = connector().await;
    let oldest = payee(address, "shop", Payee::default()).await;
    let older = link(address, "token").await;
    let mut newer = Vec::new();
    for _ in 0..7 {
        newer.push(payee(address, "shop", Payee { fulfillment: FULFILLMENT, when: None }).await);
        assert_eq!(code(&older, "private.dev.shop", LONG).await, None);
    }
    assert!(!oldest.is_finished(), "earlier sessions may go on");
    newer.push(payee(address, "shop", Payee::default()).await);
    let ended = time::timeout(PATIENCE, oldest).await.expect("the ninth closes the oldest").unwrap();
    assert!(matches!(ended, Ended::Closed), "{ended}");
    assert_eq!(code(&older, "private.dev.shop", LONG).await, Some(ErrorCode::F05_WRONG_CONDITION), "the newest is asked");
}

#[tokio::test]
async fn a_frame_too_long_ends_the_connection() {
    let (_connector, address, _ledger) = connector().await;
    let mut socket = socket(address).await;
    socket.send(message(auth("", "secret"))).await.unwrap();
    assert!(next(&mut socket).await.is_some());
    socket.send(Message::Binary(vec![0; 40_001].into())).await.unwrap();
    assert_eq!(next(&mut socket).await, None);
}

#[tokio::test]
async fn too_many_packets_are_put_off() {
    let (_connector, address, _ledger) = connector().await;
    let busy = link(address, "busy").await;
    let _silent = payee(address, "silent", Payee { fulfillment: FULFILLMENT, when: Some(Arc::default()) }).await;
    let many = join_all((0..101).map(|_| code(&busy, "private.dev.silent", SignedDuration::from_millis(2500)))).await;
    let put_off = many.iter().filter(|code| **code == Some(ErrorCode::T05_RATE_LIMITED)).count();
    assert_eq!(put_off, 1, "a hundred may wait for an answer at once");
    let fast = link(address, "fast").await;
    let mut limited = 0;
    for _ in 0..101 {
        let codes = join_all((0..100).map(|_| code(&fast, "private.dev", LONG))).await;
        limited += codes.iter().filter(|code| **code == Some(ErrorCode::T05_RATE_LIMITED)).count();
    }
    assert_eq!(limited, 100, "ten thousand in a minute");
}

#[tokio::test]
async fn stopping_answers_what_has_begun() {
    let (connector, address, _ledger) = connector().await;
    let (link, when) = (link(address, "token").await, Arc::new(When::default()));
    let payee = payee(address, "slow", Payee { fulfillment: FULFILLMENT, when: Some(when.clone()) }).await;
    let paying = code(&link, "private.dev.slow", LONG);
    let stopping = async {
        time::timeout(PATIENCE, when.come.notified()).await.expect("the packet comes");
        let stopped = tokio::spawn(connector.stop());
        let refused = async {
            let mut taken = 0;
            while code(&link, "private.dev", LONG).await == Some(ErrorCode::F02_UNREACHABLE) {
                taken += 1;
                assert!(taken < 1_000, "new packets are still taken");
            }
        };
        time::timeout(PATIENCE, refused).await.expect("new packets are put off");
        when.answer.notify_one();
        time::timeout(PATIENCE, stopped).await.expect("stops").unwrap();
    };
    let (paid, ()) = tokio::join!(paying, stopping);
    assert_eq!(paid, None, "fulfilled");
    assert!(matches!(payee.await.unwrap(), Ended::Closed));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    assert_eq!(code(&link, "private.dev", LONG).await, Some(ErrorCode::T01_PEER_UNREACHABLE));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let (_connector, address, ledger) = connector().await;
    let config = Config::Embedded { listen: vec![address], name: "dev".to_owned() };
    let error = Interledger::start(config, receiver(&ledger)).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }) && error.to_string().contains(&address.to_string()), "{error}");
    let config = Config::Embedded { listen: vec![anywhere()], name: "a b".to_owned() };
    assert!(matches!(Interledger::start(config, receiver(&ledger)).await, Err(StartError::Name { .. })));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session() {
    let (near, mut far) = tokio::io::duplex(1_000_000);
    let socket = WebSocketStream::from_raw_socket(near, Role::Server, Some(socket_config())).await;
    let (session, outbox) = Session::new(&CancellationToken::new());
    let driving = tokio::spawn(drive(socket, session.clone(), outbox, Arc::new(Payee::default())));
    // A request that waits when the session ends has its answer then.
    let asking = tokio::spawn(async move { session.send(prepare("private.far", SignedDuration::from_hours(1))).await });
    let since = time::Instant::now();
    let ended = time::timeout(Duration::from_secs(600), driving).await.expect("it is noticed").unwrap();
    assert!(matches!(ended, Ended::Silent), "{ended}");
    assert!(since.elapsed() <= Duration::from_secs(91), "{:?}", since.elapsed());
    assert_eq!(asking.await.unwrap().unwrap_err().code, ErrorCode::T01_PEER_UNREACHABLE);
    let _ = tokio::io::AsyncReadExt::read_u8(&mut far).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_reads_nothing_is_not_waited_for() {
    let (near, _far) = tokio::io::duplex(64);
    let socket = WebSocketStream::from_raw_socket(near, Role::Server, Some(socket_config())).await;
    let (session, outbox) = Session::new(&CancellationToken::new());
    let asking = tokio::spawn(async move { session.send(prepare("private.far", SignedDuration::from_hours(1))).await });
    let driving = drive(socket, Session::new(&CancellationToken::new()).0, outbox, Arc::new(Payee::default()));
    let ended = time::timeout(Duration::from_secs(600), driving).await.expect("it is noticed");
    assert!(matches!(ended, Ended::Silent), "{ended}");
    asking.abort();
}
