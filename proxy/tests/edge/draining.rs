//! Start, capacity and stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use codiusd_proxy::{Edge, EdgeConfig, Limits, ListenError, Policy, RouteTable, StartError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::kit::{House, Pod, read_head, within};

#[tokio::test]
async fn drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    let house = House::new().await;
    let (arrived, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (here, go) = (Arc::clone(&arrived), Arc::clone(&release));
    let pod = Pod::raw(move |_, mut stream| {
        let (here, go) = (Arc::clone(&here), Arc::clone(&go));
        async move {
            read_head(&mut stream).await;
            here.notify_one();
            go.notified().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
        }
    })
    .await;
    let name = house.publish(1, pod.address);
    let mut idle = house.connect().await;
    assert_eq!(idle.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
    let mut busy = house.connect().await;
    busy.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    within("the request to reach the pod", arrived.notified()).await;

    let address = house.edge.address();
    let drained = tokio::spawn(house.edge.drain(Duration::from_secs(30)));
    assert_eq!(idle.closed().await, "");
    within("the listener to be closed", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    release.notify_one();
    let answer = busy.answer(false).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    assert_eq!(busy.closed().await, "");
    within("the drain to end", drained).await.unwrap();
}

#[tokio::test]
async fn the_deadline_cuts_tunnels_and_hanging_requests() {
    let house = House::new().await;
    let pod = Pod::raw(|number, mut stream| async move {
        read_head(&mut stream).await;
        if number == 0 {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await.unwrap();
        }
        std::future::pending::<()>().await;
    })
    .await;
    let name = house.publish(1, pod.address);
    let mut tunnel = house.connect().await;
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(tunnel.ask(&upgrade).await.status, 101);
    let mut hanging = house.connect().await;
    hanging.send(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
    within("the second connection to reach the pod", async {
        while pod.accepted() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let begun = Instant::now();
    within("the drain to end", house.edge.drain(Duration::from_millis(300))).await;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(tunnel.closed().await, "");
    assert_eq!(hanging.closed().await, "");
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_counted() {
    let house = House::with(Limits { connections: 2, ..Limits::default() }).await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut first = house.connect().await;
    let mut second = house.connect().await;
    assert_eq!((first.ask(request).await.status, second.ask(request).await.status), (200, 200));
    assert_eq!(house.connect().await.closed().await, "");
    assert_eq!(house.metric("codius_edge_connections_refused_total"), 1.0);
    drop(first);
    within("the slot to be free", async {
        while house.metric("codius_edge_connections") > 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(house.ask(request).await.status, 200);
}

#[tokio::test]
async fn what_prevents_a_start_is_said() {
    let house = House::new().await;
    let config = |listen| EdgeConfig {
        listen,
        inherited: Vec::new(),
        proxy_protocol: Vec::new(),
        control_socket: "/nonexistent".into(),
        threads: 1,
        tls: None,
        limits: Limits::default(),
        policy: Policy::default(),
        access_log: None,
    };
    let start = |listen, registry: &prometheus::Registry| Edge::start(config(listen), Arc::new(RouteTable::new()), registry);
    let taken = start(house.edge.address(), &prometheus::Registry::new());
    assert!(matches!(taken, Err(StartError::Listen(ListenError::Bind { address, .. })) if address == house.edge.address()), "{taken:?}");
    let twice = start("127.0.0.1:0".parse().unwrap(), &house.registry);
    assert!(matches!(twice, Err(StartError::Metrics(_))), "{twice:?}");
}
