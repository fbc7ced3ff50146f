//! Long-lived connections, for measuring an edge beside other proxies: a pod that has them, and the load on it.
//!
//! ```text
//! streams pod LISTEN EVENT_MS             WebSocket echo at /socket, an event each EVENT_MS at /events
//! streams socket PROXY HOSTS SECONDS N    N WebSockets send a message, await its echo, send the next; prints "M messages"
//! streams events PROXY HOSTS SECONDS N    N listeners; prints "listening" when each has its head, at the end "M events"
//! ```
//!
//! HOSTS is a file with a host name on each line, used in turn. All of it is one thread, so that one core is enough for it.

#![expect(clippy::expect_used, reason = "a tool for developers: what is wrong with its arguments may be said by a panic")]

use std::cell::Cell;
use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{interval, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// What is sent and echoed.
const MESSAGE: &str = "a message of thirty-two letters!";
/// One event, as a chunk.
const EVENT: &str = "10\r\ndata: an event\n\n\r\n";
/// What the body of that chunk ends with, once per event.
const EVENT_END: u8 = b'v';
/// Events a slow listener may be behind before it is dropped.
const EVENTS_QUEUED: usize = 1024;
/// Connections that are being opened at once.
const OPENED_AT_ONCE: usize = 64;
/// How long all connections together may take to be open.
const OPEN_WITHIN: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let local = LocalSet::new();
    let done = match arguments.as_slice() {
        ["pod", listen, every] => local.block_on(&runtime, pod(listen, every)),
        [kind @ ("socket" | "events"), proxy, hosts, seconds, count] => {
            let load = Load::new(proxy, hosts, seconds, count).expect("PROXY is an address, HOSTS a file, SECONDS and N are numbers");
            if *kind == "socket" { local.block_on(&runtime, load.sockets()) } else { local.block_on(&runtime, load.events()) }
        }
        _ => panic!("pod LISTEN EVENT_MS | socket|events PROXY HOSTS SECONDS N"),
    };
    done.expect("it runs to its end");
}

async fn pod(listen: &str, every: &str) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let (events, _) = broadcast::channel(EVENTS_QUEUED);
    let mut ticks = interval(Duration::from_millis(every.parse()?));
    loop {
        tokio::select! {
            _ = ticks.tick() => drop(events.send(())),
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let events = events.clone();
                tokio::task::spawn_local(async move {
                    // A connection that ends isn't the pod's concern.
                    drop(serve(stream, events).await);
                });
            }
        }
    }
}

async fn serve(mut stream: TcpStream, events: broadcast::Sender<()>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut begin = [0; 16];
    while stream.peek(&mut begin).await? < begin.len() {
        tokio::task::yield_now().await;
    }
    if begin.starts_with(b"GET /socket") {
        let mut socket = tokio_tungstenite::accept_async(stream).await?;
        while let Some(message) = socket.next().await {
            let message = message?;
            if message.is_text() {
                socket.send(message).await?;
            }
        }
        return Ok(());
    }
    read_head(&mut stream).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    let mut events = events.subscribe();
    loop {
        events.recv().await?;
        stream.write_all(EVENT.as_bytes()).await?;
    }
}

/// Reads to the end of a head; what came behind it.
async fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err("closed within a head".into());
        }
        if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
            return Ok(head.split_off(end + 4));
        }
    }
}

/// A load on a proxy.
struct Load {
    proxy: SocketAddr,
    hosts: Vec<String>,
    lasts: Duration,
    count: usize,
}

impl Load {
    fn new(proxy: &str, hosts: &str, seconds: &str, count: &str) -> Result<Self> {
        let hosts: Vec<String> = std::fs::read_to_string(hosts)?.lines().map(str::to_owned).collect();
        Ok(Self { proxy: proxy.parse()?, hosts, lasts: Duration::from_secs(seconds.parse()?), count: count.parse()? })
    }

    async fn connect(&self, number: usize) -> Result<(TcpStream, String)> {
        let stream = TcpStream::connect(self.proxy).await?;
        stream.set_nodelay(true)?;
        Ok((stream, self.hosts[number % self.hosts.len()].clone()))
    }

    async fn socket(&self, number: usize) -> Result<WebSocketStream<TcpStream>> {
        let (stream, host) = self.connect(number).await?;
        let request = format!("ws://{host}/socket").into_client_request()?;
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(socket)
    }

    async fn listener(&self, number: usize) -> Result<TcpStream> {
        let (mut stream, host) = self.connect(number).await?;
        stream.write_all(format!("GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        read_head(&mut stream).await?;
        Ok(stream)
    }

    /// All connections, some of them at a time.
    async fn all<T, F: Future<Output = Result<T>>>(&self, open: impl Fn(usize) -> F) -> Result<Vec<T>> {
        let opened = stream::iter(0..self.count).map(open).buffer_unordered(OPENED_AT_ONCE).try_collect();
        timeout(OPEN_WITHIN, opened).await?
    }

    async fn sockets(self) -> Result<()> {
        let messages = Rc::new(Cell::new(0_u64));
        let mut open = JoinSet::new();
        for mut socket in self.all(|number| self.socket(number)).await? {
            let messages = Rc::clone(&messages);
            open.spawn_local(async move {
                while socket.send(Message::text(MESSAGE)).await.is_ok() && matches!(socket.next().await, Some(Ok(_))) {
                    messages.set(messages.get() + 1);
                }
            });
        }
        self.count_while("messages", &messages, &mut open).await
    }

    async fn events(self) -> Result<()> {
        let events = Rc::new(Cell::new(0_u64));
        let mut open = JoinSet::new();
        for mut stream in self.all(|number| self.listener(number)).await? {
            let events = Rc::clone(&events);
            open.spawn_local(async move {
                let mut chunk = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                    let came = chunk[..read].iter().filter(|byte| **byte == EVENT_END).count();
                    events.set(events.get() + u64::try_from(came).unwrap_or_default());
                }
            });
        }
        self.count_while("events", &events, &mut open).await
    }

    /// Counts for as long as the load lasts; each connection must live that long.
    async fn count_while(&self, what: &str, counter: &Cell<u64>, open: &mut JoinSet<()>) -> Result<()> {
        writeln!(std::io::stdout(), "listening")?;
        std::io::stdout().flush()?;
        counter.set(0);
        tokio::select! {
            () = sleep(self.lasts) => {}
            _ = open.join_next() => return Err("a connection ended".into()),
        }
        writeln!(std::io::stdout(), "{} {what}", counter.get())?;
        Ok(())
    }
}
