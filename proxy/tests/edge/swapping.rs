//! An address changes hands under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use codiusd_proxy::{Limits, PodKey, Policy, RouteTable, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::kit::{EdgeFixture, PATIENCE, read_head, within};
use crate::waits::until;

const TENANTS: u8 = 2;
const SWAPS: u64 = 200;

/// A tenant that takes connections until it is aborted. Those it has taken go on, also when it is long gone: nothing but the edge
/// keeps its clients from the next tenant's.
fn tenant(number: u8, listener: TcpListener) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(number, stream));
        }
    })
}

async fn answer(number: u8, mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream).await {
        let mut body = vec![0; usize::from(head.starts_with("POST")) * 2];
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
        if stream.read_exact(&mut body).await.is_err() || stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_for_one_tenant_is_answered_by_another() {
    let routes = Arc::new(RouteTable::new());
    let fixture = Arc::new(EdgeFixture::start(Limits::default(), Policy::default(), Arc::clone(&routes), None));
    // An address of its own, so that nobody else takes the port while it has no owner.
    let mut listener = TcpListener::bind("127.0.77.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let key = |tenant: u8| PodKey::from_digest([tenant; 32]);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU64::new(0) }; 2]));
    let load: Vec<_> = (0..8)
        .map(|worker: u8| {
            let (fixture, stop, answered) = (Arc::clone(&fixture), Arc::clone(&stop), Arc::clone(&answered));
            let wanted = worker % TENANTS;
            let name = format!("{}.localhost", key(wanted));
            let request = match worker / 4 {
                0 => format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"),
                _ => format!("POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 2\r\n\r\nhi"),
            };
            tokio::spawn(async move {
                let mut client = fixture.connect().await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.ask(&request).await;
                    match answer.status {
                        200 => assert_eq!(answer.body, wanted.to_string(), "an answer of another tenant"),
                        404 | 502 | 503 | 504 => tokio::task::yield_now().await,
                        _ => panic!("{answer:?}"),
                    }
                    answered[usize::from(wanted)].fetch_add(u64::from(answer.status == 200), Ordering::Relaxed);
                    if answer.header("connection") == Some("close") {
                        client = fixture.connect().await;
                    }
                }
            })
        })
        .collect();
    for swap in 0..SWAPS {
        let new = u8::from(swap % 2 == 0);
        let before = answered[usize::from(new)].load(Ordering::Relaxed);
        let taking = tenant(new, listener);
        routes.publish(key(new), Upstream { address, incarnation: swap + 1 });
        within("answers of the new tenant", async {
            while answered[usize::from(new)].load(Ordering::Relaxed) < before + 10 {
                tokio::task::yield_now().await;
                assert!(!load.iter().any(JoinHandle::is_finished), "a client has failed");
            }
        })
        .await;
        // As the control plane does: the route goes before the pod does, and the next pod comes after that.
        routes.withdraw(&key(new));
        taking.abort();
        within("the tenant to go", taking).await.unwrap_err();
        listener = TcpListener::bind(address).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        within("the load to end", worker).await.unwrap();
    }
}

/// Whether a connection to `address` is being opened, and nobody has answered.
fn is_dialled(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    let remote = format!(" {:08X}:{:04X} 02 ", u32::from_le_bytes(address.ip().octets()), address.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&remote)
}

#[tokio::test]
async fn a_connection_that_the_next_tenant_took_is_not_used() {
    let fixture = EdgeFixture::with(Limits { connect: PATIENCE, ..Limits::default() }).await;
    // A tenant whose queue is full takes no more connections, so that the edge's attempts are repeated for a while.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.77.2:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    loop {
        tokio::select! {
            biased;
            connected = TcpStream::connect(address) => queue.push(connected.unwrap()),
            () = until("an attempt that isn't taken", async || is_dialled(address)) => break,
        }
    }
    let name = fixture.publish(1, address);
    let mut client = fixture.connect().await;
    client.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    until("the edge to dial", async || is_dialled(address)).await;
    assert!(fixture.routes.withdraw(&PodKey::from_digest([1; 32])));
    drop(listener);
    let next = tenant(2, TcpListener::bind(address).await.unwrap());
    let other = fixture.publish(2, address);
    let answer = client.answer(false).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {other}\r\n\r\n")).await.body, "2");
    next.abort();
}
