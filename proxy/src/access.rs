//! The access log: one line per request, written by a thread of its own behind a bounded queue. A request never waits for the log:
//! when the queue is full the line is dropped, and counted.
//!
//! A line has what an operator needs to see what goes on, and no secret: of the request's head only method, path (never the query),
//! and the first characters of the user agent.
//!
//! A file is opened once, to append; rotate it by copying and truncating.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use http::header::USER_AGENT;
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use prometheus::IntCounter;

use crate::route::PodKey;

/// Lines that may wait for the writer.
const QUEUE: usize = 8_192;
/// Characters of a method, a path and a user agent that are kept.
const METHOD_CHARS: usize = 20;
const PATH_CHARS: usize = 2_000;
const AGENT_CHARS: usize = 100;
/// What is logged for a client that left before it was answered.
pub(crate) const LEFT: u16 = 499;

/// Where requests are logged, how, and which.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// A file that is appended to; none: standard output.
    pub file: Option<PathBuf>,
    /// How a line looks.
    pub format: AccessFormat,
    /// One request in so many is logged.
    pub sample: NonZeroU32,
}

/// How a line of the access log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// Fields in a fixed order with spaces between, quoted where they may have some.
    Text,
    /// An object.
    Json,
}

/// What is known of a request when its head is there.
#[derive(Debug)]
pub(crate) struct Line {
    client: IpAddr,
    method: String,
    path: String,
    agent: String,
    /// The pod it is for.
    pub(crate) pod: Option<PodKey>,
}

impl Line {
    pub(crate) fn new(client: IpAddr, method: &Method, uri: &Uri, headers: &HeaderMap) -> Line {
        let agent = headers.get(USER_AGENT).map_or_else(Default::default, |agent| String::from_utf8_lossy(agent.as_bytes()));
        Line {
            client,
            method: first(method.as_str(), METHOD_CHARS),
            path: first(uri.path(), PATH_CHARS),
            agent: first(&agent, AGENT_CHARS),
            pod: None,
        }
    }
}

fn first(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) line: Line,
    pub(crate) is_control: bool,
    pub(crate) status: u16,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) took: Duration,
}

impl Entry {
    fn host(&self) -> String {
        match self.line.pod {
            Some(pod) => pod.to_string(),
            None if self.is_control => "control".to_owned(),
            None => "none".to_owned(),
        }
    }

    fn print(&self, format: AccessFormat, ended: Timestamp, out: &mut impl Write) -> io::Result<()> {
        let Entry { line, status, received, sent, took, .. } = self;
        let Line { client, method, path, agent, .. } = line;
        let (host, seconds) = (self.host(), took.as_secs_f64());
        match format {
            AccessFormat::Text => {
                writeln!(out, "{ended:.3} {client} {method} {host} {path:?} {status} {received} {sent} {seconds:.6} {agent:?}")
            }
            AccessFormat::Json => {
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let line = serde_json::json!({
                    "time": format!("{ended:.3}"), "client": client.to_string(), "method": method, "host": host, "path": path,
                    "status": status, "received": received, "sent": sent, "micros": micros, "agent": agent,
                });
                writeln!(out, "{line}")
            }
        }
    }
}

/// The log, open. Dropping it lets the writer finish on its own; [`close`](Log::close) waits for it.
#[derive(Debug)]
pub(crate) struct Log {
    sender: SyncSender<Option<Entry>>,
    dropped: IntCounter,
    sample: u64,
    seen: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    pub(crate) fn open(config: &AccessLog, dropped: IntCounter) -> io::Result<Log> {
        let out: Box<dyn Write + Send> = match &config.file {
            Some(path) => Box::new(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?),
            None => Box::new(io::stdout()),
        };
        Log::start(out, config.format, config.sample, QUEUE, dropped)
    }

    fn start(out: Box<dyn Write + Send>, format: AccessFormat, sample: NonZeroU32, queue: usize, dropped: IntCounter) -> io::Result<Log> {
        let (sender, lines) = mpsc::sync_channel(queue);
        let lost = dropped.clone();
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(move || write(&lines, out, format, &lost))?;
        Ok(Log { sender, dropped, sample: sample.get().into(), seen: AtomicU64::new(0), writer: Mutex::new(Some(writer)) })
    }

    /// Whether the next request is one that is logged.
    pub(crate) fn takes_next(&self) -> bool {
        self.sample == 1 || self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.sample)
    }

    /// Logs it, unless the writer can't keep up.
    pub(crate) fn add(&self, entry: Entry) {
        if self.sender.try_send(Some(entry)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until all lines are written. Blocks.
    pub(crate) fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // The writer is gone only if it panicked; the join says so.
            let _gone = self.sender.send(None);
            if writer.join().is_err() {
                tracing::error!("the access log's thread panicked");
            }
        }
    }
}

/// The writer: flushes whenever nothing waits. Says once that it fails, until it works again.
fn write(lines: &Receiver<Option<Entry>>, out: Box<dyn Write + Send>, format: AccessFormat, lost: &IntCounter) {
    let mut out = BufWriter::new(out);
    let mut failing = false;
    while let Ok(Some(entry)) = lines.recv() {
        let mut next = Some(entry);
        let mut ending = false;
        let mut batch = 0;
        let mut written = Ok(());
        while let Some(entry) = next.take() {
            batch += 1;
            let ended = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
            written = written.and_then(|()| entry.print(format, ended, &mut out));
            match lines.try_recv() {
                Ok(Some(entry)) => next = Some(entry),
                Ok(None) => ending = true,
                Err(_) => {}
            }
        }
        if let Err(error) = written.and_then(|()| out.flush()) {
            lost.inc_by(batch);
            // What could not be written would be tried again with the next lines, and in half of a line.
            let (failed, _) = out.into_parts();
            out = BufWriter::new(failed);
            if !std::mem::replace(&mut failing, true) {
                tracing::error!(%error, "the access log can't be written");
            }
        } else {
            failing = false;
        }
        if ending {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc::channel};

    use http::HeaderValue;

    use super::*;

    fn entry(agent: &[u8]) -> Entry {
        let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_bytes(agent).unwrap())]);
        let uri = "/a\"b?Pay-Token=secret".parse().unwrap();
        let mut line = Line::new("192.0.2.1".parse().unwrap(), &Method::GET, &uri, &headers);
        line.pod = Some(PodKey::from_digest([0; 32]));
        Entry { line, is_control: false, status: 200, received: 3, sent: 4, took: Duration::from_micros(1_500) }
    }

    fn printed(entry: &Entry, format: AccessFormat) -> String {
        let mut out = Vec::new();
        entry.print(format, Timestamp::from_millisecond(1_700_000_000_123).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_line_and_tells_no_query() {
        let pod = "a".repeat(52);
        let nasty = [b"x\"\xff\t".as_slice(), &[b'y'; 200]].concat();
        let entry = entry(&nasty);
        assert_eq!(
            printed(&entry, AccessFormat::Text),
            format!("2023-11-14T22:13:20.123Z 192.0.2.1 GET {pod} \"/a\\\"b\" 200 3 4 0.001500 \"x\\\"\u{fffd}\\t{}\"\n", "y".repeat(96))
        );
        let json = printed(&entry, AccessFormat::Json);
        assert_eq!(json.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["path"], &json["micros"], &json["host"]), (&"/a\"b".into(), &1500.into(), &pod.into()));
        assert_eq!(json["agent"].as_str().unwrap().chars().count(), AGENT_CHARS);
    }

    /// Says when it is written to, takes it when it is told to, and fails when it is told so.
    struct Gated {
        here: mpsc::Sender<()>,
        go: mpsc::Receiver<bool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let _nobody_asks_any_more = self.here.send(());
            if !self.go.recv().unwrap_or(true) {
                return Err(io::Error::other("full"));
            }
            self.written.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_writer_is_stuck_or_fails() {
        let ((go, gate), (here, stuck)) = (channel(), channel());
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let out = Box::new(Gated { here, go: gate, written: Arc::clone(&written) });
        let log = Log::start(out, AccessFormat::Text, NonZeroU32::MIN, 2, dropped.clone()).unwrap();
        log.add(entry(b"lost"));
        stuck.recv().unwrap();
        for _ in 1..100 {
            log.add(entry(b"waits or is dropped"));
        }
        assert_eq!(dropped.get(), 97, "two wait");
        go.send(false).unwrap();
        drop(go);
        log.close();
        assert_eq!(written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 2);
        assert_eq!(dropped.get(), 98, "and one was lost");
        log.add(entry(b"late"));
        assert_eq!(dropped.get(), 99);
    }

    #[test]
    fn one_in_so_many_is_taken() {
        let log = Log::start(Box::new(io::sink()), AccessFormat::Text, NonZeroU32::new(3).unwrap(), 1, IntCounter::new("x", "x").unwrap());
        let log = log.unwrap();
        assert_eq!([(); 7].map(|()| log.takes_next()), [true, false, false, true, false, false, true]);
    }
}
