//! A whole edge per test, the pods behind it, and a client that sends exactly the bytes it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use codiusd_proxy::{Edge, EdgeConfig, Limits, PodKey, Policy, RouteTable, TlsConfig, Upstream};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// No step of any test takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits `future`, or fails saying what did not come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// An edge, its routes, and a control plane that answers "control".
pub(crate) struct EdgeFixture {
    pub(crate) edge: Edge,
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) registry: prometheus::Registry,
    dir: TempDir,
}

impl EdgeFixture {
    pub(crate) async fn new() -> EdgeFixture {
        EdgeFixture::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> EdgeFixture {
        let fixture = EdgeFixture::without_control(limits);
        fixture.control(|stream| mirror(stream, "control"));
        fixture
    }

    /// Starts a control plane that hands every accepted connection to `serve`.
    pub(crate) fn control<F>(&self, serve: impl Fn(UnixStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = UnixListener::bind(self.dir.path().join("control.sock")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
    }

    pub(crate) fn without_control(limits: Limits) -> EdgeFixture {
        EdgeFixture::under(limits, Policy::default())
    }

    /// As `without_control`.
    pub(crate) fn under(limits: Limits, policy: Policy) -> EdgeFixture {
        EdgeFixture::start(limits, policy, Arc::new(RouteTable::new()), None)
    }

    /// A second edge, without a control plane, that serves the routes of `fixture`.
    pub(crate) fn beside(fixture: &EdgeFixture) -> EdgeFixture {
        EdgeFixture::start(Limits::default(), Policy::default(), Arc::clone(&fixture.routes), None)
    }

    pub(crate) fn start(limits: Limits, policy: Policy, routes: Arc<RouteTable>, tls: Option<TlsConfig>) -> EdgeFixture {
        EdgeFixture::shaped(routes, |config| EdgeConfig { tls, limits, policy, ..config })
    }

    /// An edge with the defaults as `shape` changes them, without a control plane.
    pub(crate) fn shaped(routes: Arc<RouteTable>, shape: impl FnOnce(EdgeConfig) -> EdgeConfig) -> EdgeFixture {
        let dir = tempfile::tempdir().unwrap();
        let registry = prometheus::Registry::new();
        let config = EdgeConfig { threads: 2, ..EdgeConfig::new("127.0.0.1:0".parse().unwrap(), dir.path().join("control.sock")) };
        let edge = Edge::start(shape(config), Arc::clone(&routes), &registry).unwrap();
        EdgeFixture { edge, routes, registry, dir }
    }

    /// Routes pod number `number` to `address` as a new incarnation, and names its host.
    pub(crate) fn publish(&self, number: u8, address: SocketAddr) -> String {
        static INCARNATIONS: AtomicU64 = AtomicU64::new(1);
        let key = PodKey::from_digest([number; 32]);
        self.routes.publish(key, Upstream { address, incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed) });
        format!("{key}.localhost")
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.edge.address()).await.unwrap(), buffer: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: &str) -> Answer {
        self.connect().await.ask(request).await
    }

    /// The value of the counter with these labels (among others), or how often the histogram was told something.
    pub(crate) fn counted(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no metric {name}"));
        let has = |metric: &&prometheus::proto::Metric| {
            labels.iter().all(|(label, value)| metric.get_label().iter().any(|pair| (pair.name(), pair.value()) == (*label, *value)))
        };
        let values = family.get_metric().iter().filter(has).map(|metric| {
            let observed = u32::try_from(metric.get_histogram().get_sample_count()).unwrap();
            metric.get_counter().get_value() + f64::from(observed)
        });
        values.sum()
    }

    /// The value of a counter or gauge, summed over its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no metric {name}"));
        family.get_metric().iter().map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum()
    }
}

/// A raw HTTP/1.1 client.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) buffer: Vec<u8>,
}

/// What came back: head and body as text.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await;
        self.answer(request.starts_with("HEAD ")).await
    }

    /// The status of the answer to a request without a body, or why there is none.
    pub(crate) async fn try_ask(&mut self, request: &str) -> Result<u16, String> {
        self.stream.write_all(request.as_bytes()).await.map_err(|error| format!("send: {error}"))?;
        while !self.buffer.windows(4).any(|end| end == b"\r\n\r\n") {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(format!("closed after {} bytes", self.buffer.len())),
                Ok(_) => {}
                Err(error) => return Err(format!("receive: {error}")),
            }
        }
        Ok(self.answer(false).await.status)
    }

    /// Reads one answer, by Content-Length, chunks (decoded, trailers kept) or to the end.
    pub(crate) async fn answer(&mut self, to_head: bool) -> Answer {
        let head = self.final_head().await;
        let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {head:?}"));
        let mut answer = Answer { status, head, body: String::new() };
        let body = if to_head || status == 304 || status == 204 || status == 101 {
            Vec::new()
        } else if let Some(length) = answer.header("content-length").map(|length| length.parse().unwrap()) {
            self.fill(length).await;
            self.buffer.drain(..length).collect()
        } else if answer.header("transfer-encoding").is_some() {
            self.chunks().await
        } else {
            within("the end of the answer", self.stream.read_to_end(&mut self.buffer)).await.unwrap();
            std::mem::take(&mut self.buffer)
        };
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// The head of an answer, behind the hints that came before it.
    async fn final_head(&mut self) -> String {
        loop {
            let head = self.head().await;
            if !head.starts_with("HTTP/1.1 102 ") && !head.starts_with("HTTP/1.1 103 ") {
                return head;
            }
        }
    }

    pub(crate) async fn head(&mut self) -> String {
        String::from_utf8(self.until(b"\r\n\r\n").await).unwrap()
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.until(b"\r\n").await).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("bad chunk line {line:?}"));
            if size == 0 {
                loop {
                    let trailer = self.until(b"\r\n").await;
                    if trailer == b"\r\n" {
                        return body;
                    }
                    body.extend_from_slice(&trailer);
                }
            }
            self.fill(size + 2).await;
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    pub(crate) async fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return self.buffer.drain(..at + mark.len()).collect();
            }
            self.more(&format!("{:?}", String::from_utf8_lossy(mark))).await;
        }
    }

    pub(crate) async fn fill(&mut self, length: usize) {
        while self.buffer.len() < length {
            self.more(&format!("{length} bytes")).await;
        }
    }

    async fn more(&mut self, what: &str) {
        let read = within(what, self.stream.read_buf(&mut self.buffer)).await.unwrap();
        assert!(read > 0, "closed before {what}; had {:?}", String::from_utf8_lossy(&self.buffer));
    }

    /// Waits for the end of the connection; how much the edge still sent.
    pub(crate) async fn ended(&mut self) -> std::io::Result<usize> {
        within("the end of the connection", self.stream.read_to_end(&mut self.buffer)).await
    }

    /// Waits for the edge to close the connection; what it still sent.
    pub(crate) async fn closed(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.buffer);
        let _reset_counts_too = within("the connection to be closed", self.stream.read_to_end(&mut rest)).await;
        String::from_utf8(rest).unwrap()
    }
}

/// A pod: hands every accepted connection, with its number from 0, to `serve`. Counts them.
pub(crate) struct Pod {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Pod {
    pub(crate) async fn raw<F, S>(serve: S) -> Pod
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(usize, TcpStream) -> F + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Pod::on(listener, serve)
    }

    pub(crate) fn on<F, S>(listener: TcpListener, serve: S) -> Pod
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(usize, TcpStream) -> F + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Pod { address, accepted }
    }

    /// Answers every request with its own head as received.
    pub(crate) async fn mirror() -> Pod {
        Pod::raw(|_, stream| mirror(stream, "pod")).await
    }

    /// Answers every first request of a connection with `answer`, then closes.
    pub(crate) async fn answering(answer: &'static str) -> Pod {
        Pod::raw(move |_, mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Answers each request of a connection with its own head, body bytes included when they came with it.
pub(crate) async fn mirror(mut stream: impl AsyncRead + AsyncWrite + Unpin, who: &str) {
    while let Some(head) = read_head(&mut stream).await {
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.trim().parse().unwrap());
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let text = format!("{head}{}", String::from_utf8_lossy(&body));
        let answer = format!("HTTP/1.1 200 OK\r\nx-who: {who}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// One request head, byte by byte so that nothing after it is taken; `None` at the end of the stream.
pub(crate) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_err() {
            return None;
        }
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// An address nothing listens on.
pub(crate) fn dead_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
