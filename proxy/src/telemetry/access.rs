//! The access log: one line per request, written by a thread of its own behind a bounded queue. A request never waits for the log:
//! when the queue is full the line is dropped, and counted.
//!
//! A line has what an operator needs to see what goes on, and no secret: of the request's head only method, path (never the query),
//! and the first characters of the user agent.
//!
//! Its last word is the request's id, which its upstream was told, and its client if the edge or the control plane answered.
//!
//! What is refused because it is no HTTP, or its head is too large, is a line without method, path and id.
//!
//! A file is opened to append, and again when that is asked for: so it can be moved away, and what was queued before is in the old one.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use codiusd_supervisor::{Running, Supervisor};
use http::StatusCode;
use jiff::Timestamp;
use prometheus::IntCounter;

use crate::pod_key::PodKey;
use crate::telemetry::request_id::RequestId;

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
    id: Option<RequestId>,
    method: String,
    path: String,
    agent: String,
    /// The pod it is for.
    pub(crate) pod: Option<PodKey>,
}

impl Line {
    pub(crate) fn new(client: IpAddr, id: RequestId, method: &[u8], target: &[u8], agent: &[u8]) -> Line {
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        Line {
            client,
            id: Some(id),
            method: first(&String::from_utf8_lossy(method), METHOD_CHARS),
            path: first(&String::from_utf8_lossy(path), PATH_CHARS),
            agent: first(&String::from_utf8_lossy(agent), AGENT_CHARS),
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
    pub(crate) line: Box<Line>,
    pub(crate) is_control: bool,
    pub(crate) status: u16,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) took: Duration,
}

impl Entry {
    /// What was answered to what is no request, or ended its connection.
    pub(crate) fn refused(client: IpAddr, status: StatusCode, took: Duration) -> Entry {
        let line = Line { client, id: None, method: "-".to_owned(), path: String::new(), agent: String::new(), pod: None };
        Entry { line: Box::new(line), is_control: false, status: status.as_u16(), received: 0, sent: 0, took }
    }

    fn host(&self) -> String {
        match self.line.pod {
            Some(pod) => pod.to_string(),
            None if self.is_control => "control".to_owned(),
            None => "none".to_owned(),
        }
    }

    fn print(&self, format: AccessFormat, ended: Timestamp, out: &mut impl Write) -> io::Result<()> {
        let Entry { line, status, received, sent, took, .. } = self;
        let Line { client, id, method, path, agent, .. } = &**line;
        let id = id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let (host, seconds) = (self.host(), took.as_secs_f64());
        match format {
            AccessFormat::Text => {
                writeln!(out, "{ended:.3} {client} {method} {host} {path:?} {status} {received} {sent} {seconds:.6} {agent:?} {id}")
            }
            AccessFormat::Json => {
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                let line = serde_json::json!({
                    "time": format!("{ended:.3}"), "client": client.to_string(), "method": method, "host": host, "path": path,
                    "status": status, "received": received, "sent": sent, "micros": micros, "agent": agent, "id": id,
                });
                writeln!(out, "{line}")
            }
        }
    }
}

/// What the writer is told.
#[derive(Debug)]
enum Order {
    Write(Entry),
    /// Look whether the file is to be opened again.
    Look,
    End,
}

/// The log, open. Dropping it lets the writer finish on its own; [`close`](Log::close) waits for it.
#[derive(Debug)]
pub(crate) struct Log {
    sender: SyncSender<Order>,
    /// The file is to be opened again; not in the queue, which may be full.
    reopen: Arc<AtomicBool>,
    dropped: IntCounter,
    sample: u64,
    seen: AtomicU64,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    pub(crate) fn open(config: &AccessLog, dropped: IntCounter, supervisor: &Supervisor) -> io::Result<Log> {
        let file = config.file.clone();
        let open = move || -> io::Result<Box<dyn Write + Send>> {
            match &file {
                Some(path) => Ok(Box::new(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?)),
                None => Ok(Box::new(io::stdout())),
            }
        };
        Log::start(Box::new(open), config.format, config.sample, QUEUE, dropped, supervisor)
    }

    fn start(
        mut open: Open,
        format: AccessFormat,
        sample: NonZeroU32,
        queue: usize,
        dropped: IntCounter,
        supervisor: &Supervisor,
    ) -> io::Result<Log> {
        let (sender, orders) = mpsc::sync_channel(queue);
        let (out, reopen) = (BufWriter::new(open()?), Arc::<AtomicBool>::default());
        let mut writer = Writer { open, out, format, failing: false, lost: dropped.clone(), reopen: Arc::clone(&reopen) };
        let writer = supervisor.thread("access log", move |running| writer.run(&orders, running))?;
        Ok(Log { sender, reopen, dropped, sample: sample.get().into(), seen: AtomicU64::new(0), writer: Mutex::new(Some(writer)) })
    }

    /// Has the file opened again.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // If the queue is full the writer is about to look anyway.
        let _looks_anyway = self.sender.try_send(Order::Look);
    }

    /// Whether the next request is one that is logged.
    pub(crate) fn takes_next(&self) -> bool {
        self.sample == 1 || self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.sample)
    }

    /// Logs it, unless the writer can't keep up.
    pub(crate) fn add(&self, entry: Entry) {
        if self.sender.try_send(Order::Write(entry)).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until all lines are written. Blocks.
    pub(crate) fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // The writer is gone only if it panicked; the join says so.
            let _gone = self.sender.send(Order::End);
            if writer.join().is_err() {
                tracing::error!("the access log's thread panicked");
            }
        }
    }
}

/// Opens what is written to.
type Open = Box<dyn FnMut() -> io::Result<Box<dyn Write + Send>> + Send>;

/// Flushes whenever nothing waits. Says once that it fails, until it works again.
struct Writer {
    open: Open,
    out: BufWriter<Box<dyn Write + Send>>,
    format: AccessFormat,
    failing: bool,
    lost: IntCounter,
    reopen: Arc<AtomicBool>,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>, running: &Running) {
        while let Ok(first) = orders.recv() {
            running.fault_point();
            let (mut next, mut ending, mut batch, mut written) = (Some(first), false, 0, Ok(()));
            // No longer than the queue is, so that a busy log is reopened, too.
            while let Some(order) = next.take() {
                match order {
                    Order::Write(entry) => {
                        batch += 1;
                        let ended = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
                        written = written.and_then(|()| entry.print(self.format, ended, &mut self.out));
                    }
                    Order::Look => {}
                    Order::End => ending = true,
                }
                next = if batch < QUEUE { orders.try_recv().ok() } else { None };
            }
            let flushed = written.and_then(|()| self.out.flush());
            self.settle(flushed, batch);
            if ending {
                return;
            }
            if self.reopen.swap(false, Ordering::Acquire) {
                self.open_again();
            }
        }
    }

    /// What has become of so many lines.
    fn settle(&mut self, written: io::Result<()>, lines: usize) {
        let Err(error) = written else {
            self.failing = self.failing && lines == 0;
            return;
        };
        self.lost.inc_by(u64::try_from(lines).unwrap_or(u64::MAX));
        // What could not be written would be tried again with the next lines, and in half of a line.
        let unused = BufWriter::new(Box::new(io::sink()) as Box<dyn Write + Send>);
        let (failed, _) = std::mem::replace(&mut self.out, unused).into_parts();
        self.out = BufWriter::new(failed);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "access log not written");
        }
    }

    fn open_again(&mut self) {
        match (self.open)() {
            Ok(out) => self.out = BufWriter::new(out),
            Err(error) => tracing::error!(%error, "access log not reopened; writing to the old file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn entry(agent: &[u8]) -> Entry {
        let target = b"/a\"b?Pay-Token=secret";
        let mut line = Line::new("192.0.2.1".parse().unwrap(), RequestId::next(), b"GET", target, agent);
        line.pod = Some(PodKey::from_digest([0; 32]));
        Entry { line: Box::new(line), is_control: false, status: 200, received: 3, sent: 4, took: Duration::from_micros(1_500) }
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
        let id = entry.line.id.unwrap().to_string();
        assert_eq!(
            printed(&entry, AccessFormat::Text),
            format!(
                "2023-11-14T22:13:20.123Z 192.0.2.1 GET {pod} \"/a\\\"b\" 200 3 4 0.001500 \"x\\\"\u{fffd}\\t{}\" {id}\n",
                "y".repeat(96)
            )
        );
        let json = printed(&entry, AccessFormat::Json);
        assert_eq!(json.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["path"], &json["micros"], &json["host"]), (&"/a\"b".into(), &1500.into(), &pod.into()));
        assert_eq!(json["id"], id);
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
        let mut out = Some(Gated { here, go: gate, written: Arc::clone(&written) });
        let open = Box::new(move || Ok(Box::new(out.take().unwrap()) as Box<dyn Write + Send>));
        let log = Log::start(open, AccessFormat::Text, NonZeroU32::MIN, 2, dropped.clone(), &Supervisor::default()).unwrap();
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
        let open = Box::new(|| Ok(Box::new(io::sink()) as Box<dyn Write + Send>));
        let log = Log::start(
            open,
            AccessFormat::Text,
            NonZeroU32::new(3).unwrap(),
            1,
            IntCounter::new("x", "x").unwrap(),
            &Supervisor::default(),
        )
        .unwrap();
        assert_eq!([(); 7].map(|()| log.takes_next()), [true, false, false, true, false, false, true]);
    }
}
