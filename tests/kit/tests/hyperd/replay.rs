//! Calls that were recorded, made again.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use codiusd_kit::{Hyperd, hyperd, in_time, until};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    compare::Names,
    recording::{self, Expected, Frame, Got, Recording, frames},
};

/// How long a state may take to be as recorded.
const WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A double, and the calls that have been made to it.
pub(crate) struct Replay {
    pub(crate) hyperd: Hyperd,
    recordings: Vec<Recording>,
    pub(crate) names: Names,
    pub(crate) played: BTreeSet<u16>,
}

/// An answer that is waited for, and to which call.
pub(crate) type Pending = (u16, JoinHandle<Result<Got, String>>);

impl Replay {
    pub(crate) async fn start() -> Self {
        let hyperd = Hyperd::builder(env!("CARGO_BIN_EXE_hyperd")).start().await;
        let [a, b, c, _] = hyperd.network().octets();
        let names = Names::in_network(format!("{a}.{b}.{c}."));
        Self { hyperd, recordings: recording::all(), names, played: BTreeSet::new() }
    }

    pub(crate) fn recording(&self, n: u16) -> Recording {
        let recording = self.recordings[usize::from(n) - 1].clone();
        assert_eq!(recording.n, n, "recordings are numbered");
        recording
    }

    fn expected(&self, n: u16) -> Expected {
        self.recording(n).answer.unwrap_or_else(|| panic!("{n} has no answer"))
    }

    /// Makes calls one after the other. What is only asked is asked again for a while until the answer is the recorded one.
    pub(crate) async fn play(&mut self, numbers: impl IntoIterator<Item = u16>) {
        for n in numbers {
            let deadline = Instant::now() + WITHIN;
            loop {
                let (_, call) = self.begin(n);
                let got = call.await.unwrap_or_else(|error| panic!("{n}: {error}")).unwrap_or_else(|error| panic!("{n}: {error}"));
                match self.names.same(&self.expected(n), &got) {
                    Ok(()) => break,
                    Err(_) if self.recording(n).method == "GET" && Instant::now() < deadline => sleep(LOOK_EVERY).await,
                    Err(error) => self.differs(n, &error),
                }
            }
            self.played.insert(n);
        }
    }

    pub(crate) fn differs(&self, n: u16, error: &str) -> ! {
        panic!("{n} {} isn't as recorded: {error}", self.recording(n).name)
    }

    /// Makes a call without waiting for its answer.
    pub(crate) fn begin(&self, n: u16) -> Pending {
        let recording = self.recording(n);
        let (target, body) = (self.names.translate(&recording.target), self.names.translate(&recording.body));
        let mut request = Request::builder().method(recording.method.as_str()).uri(target).header(header::HOST, "localhost");
        if let Some(kind) = &recording.content_type {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Full::from(body)).unwrap_or_else(|error| panic!("{n}: {error}"));
        let what = format!("the answer to {n} {}", recording.name);
        (n, tokio::spawn(in_time_owned(what, call(self.hyperd.socket(), request))))
    }

    /// Makes a call for a log, and waits only until the first of it is there.
    pub(crate) async fn begin_to_follow(&self, n: u16) -> Pending {
        let target = self.names.translate(&self.recording(n).target);
        let request = Request::get(target).header(header::HOST, "localhost").body(Full::default());
        let request = request.unwrap_or_else(|error| panic!("{n}: {error}"));
        let response = hyperd::send(&self.hyperd.socket(), request).await.unwrap_or_else(|error| panic!("{n}: {error}"));
        let (head, mut body) = response.into_parts();
        let first = in_time(&format!("the first line of {n}"), WITHIN, body.frame()).await;
        let first = first.and_then(|frame| frame.ok()?.into_data().ok()).unwrap_or_default();
        let rest = async move {
            let rest = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let body = [first, rest].concat();
            Ok(Got { status: head.status.as_u16(), reason: String::new(), headers: headers(&head.headers), body })
        };
        (n, tokio::spawn(in_time_owned(format!("the end of {n}"), rest)))
    }

    /// Waits for an answer and compares it.
    pub(crate) async fn finish(&mut self, (n, call): Pending) {
        let got = call.await.unwrap_or_else(|error| panic!("{n}: {error}")).unwrap_or_else(|error| panic!("{n}: {error}"));
        self.check(n, &got);
    }

    pub(crate) fn check(&mut self, n: u16, got: &Got) {
        if let Err(error) = self.names.same(&self.expected(n), got) {
            self.differs(n, &error);
        }
        self.played.insert(n);
    }

    /// Waits until the call has failed without an answer.
    pub(crate) async fn no_answer(&mut self, (n, call): Pending) {
        let got = call.await.unwrap_or_else(|error| panic!("{n}: {error}"));
        assert!(self.recording(n).answer.is_none(), "{n} has an answer");
        assert!(got.is_err(), "{n} isn't to be answered: {got:?}");
        self.played.insert(n);
    }

    /// A call whose body is something else than was recorded.
    pub(crate) async fn play_with(&mut self, n: u16, body: Vec<u8>) {
        let recording = self.recording(n);
        let request = Request::builder().method(recording.method.as_str()).uri(&recording.target).header(header::HOST, "localhost");
        let request = request.body(Full::from(body)).unwrap_or_else(|error| panic!("{n}: {error}"));
        let got = call(self.hyperd.socket(), request).await.unwrap_or_else(|error| panic!("{n}: {error}"));
        self.check(n, &got);
    }

    /// Calls in their very bytes, one after the other on one connection.
    pub(crate) async fn play_bytes(&mut self, calls: &[(u16, String)]) {
        let socket = self.hyperd.socket();
        let mut stream = UnixStream::connect(&socket).await.unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
        for (n, bytes) in calls {
            stream.write_all(bytes.as_bytes()).await.unwrap_or_else(|error| panic!("{n}: {error}"));
            let got = in_time(&format!("the answer to {n}"), WITHIN, read_answer(&mut stream)).await;
            self.check(*n, &got);
        }
    }

    /// Makes a call for a log that isn't the same each time: as many lines as wished, which stand one behind the other in the
    /// `script` of their stream. Returns them, and whether the answer ended by itself within `within` after the last of them.
    pub(crate) async fn log(&mut self, n: u16, script: &[Frame], lines: usize, within: Duration) -> (Vec<Frame>, bool) {
        let recording = self.recording(n);
        let target = self.names.translate(&recording.target);
        let request = Request::builder().uri(&target).header(header::HOST, "localhost").body(Full::default());
        let request = request.unwrap_or_else(|error| panic!("{n}: {error}"));
        let response = hyperd::send(&self.hyperd.socket(), request).await.unwrap_or_else(|error| panic!("{n}: {error}"));
        let mut got = Got { status: response.status().as_u16(), headers: headers(response.headers()), ..Got::default() };
        let mut body = response.into_body();
        let mut ended = false;
        let deadline = Instant::now() + WITHIN;
        while !ended {
            let enough = frames(&got.body).0.len() >= lines;
            let left = if enough { within } else { deadline.saturating_duration_since(Instant::now()) };
            match tokio::time::timeout(left, body.frame()).await {
                Ok(Some(Ok(frame))) => got.body.extend(frame.into_data().unwrap_or_default()),
                Ok(Some(Err(error))) => panic!("{n}: {error}"),
                Ok(None) => ended = true,
                Err(_) => break,
            }
            if enough && within.is_zero() {
                break;
            }
        }
        (self.check_log(n, script, &got), ended)
    }

    /// Compares a log that isn't the same each time with its `script`.
    pub(crate) fn check_log(&mut self, n: u16, script: &[Frame], got: &Got) -> Vec<Frame> {
        let all = got.frames().unwrap_or_else(|error| self.differs(n, &error));
        for stream in [1, 2] {
            let texts = |frames: &[Frame]| frames.iter().filter(|frame| frame.stream == stream).cloned().collect::<Vec<_>>();
            let (found, script) = (texts(&all), texts(script));
            let here = |window: &[Frame]| self.names.clone().same_frames(window, &found).is_ok();
            let known = found.is_empty() || script.windows(found.len()).any(here);
            assert!(known, "{n}: lines aren't as recorded\n  {found:?}\n  {script:?}");
        }
        let mut head = self.expected(n);
        (head.frames, head.text) = (None, None);
        if let Err(error) = self.names.same(&head, got) {
            self.differs(n, &error);
        }
        self.played.insert(n);
        all
    }

    /// Waits until a recorded log, asked for again, has this text.
    pub(crate) async fn until_log(&self, n: u16, text: &str) {
        let target = self.names.translate(&self.recording(n).target);
        until(&format!("{text:?} in the log of {n}"), WITHIN, async || {
            let (_, log) = self.hyperd.call(Method::GET, &target, None).await;
            log.contains(text).then_some(())
        })
        .await;
    }

    /// The lines of a recorded log.
    pub(crate) fn lines(&self, n: u16) -> Vec<Frame> {
        self.expected(n).frames.unwrap_or_default()
    }

    /// Learns the id of the only container from a recorded list of containers, before that is played.
    pub(crate) async fn learn_container(&mut self, n: u16) {
        let id = |list: &Value| list["cData"][0].as_str().and_then(|line| line.split(':').next()).unwrap_or_default().to_owned();
        let recorded: Value = serde_json::from_str(&self.expected(n).text.unwrap_or_default()).unwrap_or_default();
        let actual = self.get("/list?item=container").await;
        assert!(self.names.same_name(&id(&recorded), &id(&actual)), "{n}: {actual}");
    }

    /// How long machines take to boot from now on.
    pub(crate) async fn boot_ms(&self, ms: u64) {
        self.hyperd.fault(json!({ "boot-ms": ms })).await;
    }

    /// What was answered to a call of our own.
    pub(crate) async fn get(&self, target: &str) -> Value {
        let (_, text) = self.hyperd.call(Method::GET, target, None).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{target}: {error}: {text}"))
    }
}

async fn in_time_owned(what: String, call: impl Future<Output = Result<Got, String>>) -> Result<Got, String> {
    in_time(&what, WITHIN, call).await
}

async fn call(socket: PathBuf, request: Request<Full<bytes::Bytes>>) -> Result<Got, String> {
    let response = hyperd::send(&socket, request).await?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes().to_vec();
    Ok(Got { status: head.status.as_u16(), reason: String::new(), headers: headers(&head.headers), body })
}

fn headers(map: &http::HeaderMap) -> std::collections::BTreeMap<String, String> {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// An answer with `Content-Length`.
async fn read_answer(stream: &mut UnixStream) -> Got {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or_else(|error| panic!("read an answer: {error}"));
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert_ne!(read, 0, "no answer: {text}");
            continue;
        };
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().splitn(3, ' ').skip(1);
        let status = first.next().and_then(|status| status.parse().ok()).unwrap_or_default();
        let reason = first.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        let got = Got { status, reason, headers: headers.collect(), body: body.as_bytes().to_vec() };
        if got.headers.get("content-length").is_some_and(|length| length.parse() == Ok(body.len())) {
            return got;
        }
        assert_ne!(read, 0, "half an answer: {text}");
    }
}
