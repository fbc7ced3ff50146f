//! Large bodies both ways in a process of their own, whose memory must not follow their size.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, helpers outside #[test] functions too")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codiusd_proxy::{Edge, EdgeConfig, PodKey, RouteTable, Upstream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

const BLOCK: usize = 64 * 1024;
const BLOCKS: usize = 200 * 16;
const ALLOWED_GROWTH: u64 = 32 * 1024 * 1024;

/// Gives `BLOCKS` blocks to a GET, and the number of bytes it was sent to anything else.
async fn pod(request: Request<Incoming>) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    if request.method() == hyper::Method::GET {
        let block = Bytes::from(vec![1; BLOCK]);
        let blocks = futures::stream::iter((0..BLOCKS).map(move |_| Ok(Frame::data(block.clone()))));
        return Ok(Response::new(StreamBody::new(blocks).boxed()));
    }
    let mut body = request.into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    Ok(Response::new(http_body_util::Full::new(Bytes::from(received.to_string())).boxed()))
}

/// The highest resident size so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_follow_body_size() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream { address: listener.local_addr().unwrap(), incarnation: 1 };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(pod);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let key = PodKey::from_digest([1; 32]);
    let routes = Arc::new(RouteTable::new());
    routes.publish(key, upstream);
    let config = EdgeConfig::new("127.0.0.1:0".parse().unwrap(), "/nonexistent".into());
    let edge = Edge::start(config, routes, &prometheus::Registry::new()).unwrap();
    let host = format!("{key}.localhost");

    let stream = TcpStream::connect(edge.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let before = peak();
    let empty = || StreamBody::new(futures::stream::iter((0..0).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::new()))))).boxed();
    let download = Request::get("/").header("host", &host).body(empty()).unwrap();
    let mut body = sender.send_request(download).await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        received += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(received, BLOCK * BLOCKS);

    sender.ready().await.unwrap();
    let block = Bytes::from(vec![1; BLOCK]);
    let blocks = futures::stream::iter((0..BLOCKS).map(move |_| Ok::<_, Infallible>(Frame::data(block.clone()))));
    let upload = Request::post("/").header("host", &host).body(StreamBody::new(blocks).boxed()).unwrap();
    let answer = sender.send_request(upload).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(answer, (BLOCK * BLOCKS).to_string());

    let growth = peak().saturating_sub(before);
    assert!(growth < ALLOWED_GROWTH, "the peak grew by {growth} bytes");
    drop(sender);
    edge.drain(Duration::from_secs(5)).await;
}
