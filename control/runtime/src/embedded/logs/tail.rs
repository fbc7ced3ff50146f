//! Reading logs while they are written and rotated.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Take},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::{path, rotated};
use crate::{LogLine, LogLines, LogStream, RuntimeError, embedded::lock};

/// Interval between checks of files without new content.
const POLL: Duration = Duration::from_millis(100);
/// Maximum lines per batch.
const BATCH_LINES: usize = 256;
/// Bytes per read of a file.
const READ_BYTES: usize = 64 * 1024;
/// Maximum length of a record; anything longer isn't ours.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// The lines of all containers of the pod in `dir`, oldest first: existing lines and, with `follow`, new ones.
pub(crate) fn lines(dir: PathBuf, logs: &Path, containers: &[String], follow: bool) -> Result<LogLines, RuntimeError> {
    let tail = |name: &String| Tail::new(name.clone(), path(logs, name), follow);
    let tails = containers.iter().map(tail).collect::<io::Result<_>>().map_err(unreadable)?;
    let reader = Reader { dir, tails, follow, ended: false };
    let batches = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        loop {
            let (batch, back) = match tokio::task::spawn_blocking(move || (reader.batch(), reader)).await {
                Ok(read) => read,
                Err(panicked) => return Some((vec![Err(unreadable(io::Error::other(panicked)))], None)),
            };
            match batch {
                Err(error) => return Some((vec![Err(unreadable(error))], None)),
                Ok(lines) if !lines.is_empty() => return Some((lines.into_iter().map(Ok).collect(), Some(back))),
                Ok(_) if back.ended => return None,
                Ok(_) => {}
            }
            reader = back;
            tokio::time::sleep(POLL).await;
        }
    });
    Ok(batches.flat_map(stream::iter).boxed())
}

fn unreadable(error: io::Error) -> RuntimeError {
    RuntimeError::of_io("reading the pod's log", error)
}

struct Reader {
    /// The pod's directory, whose lock shows whether more lines can come.
    dir: PathBuf,
    tails: Vec<Tail>,
    follow: bool,
    ended: bool,
}

impl Reader {
    /// The next lines. Empty means none yet, or, with `ended` set, no more ever.
    fn batch(&mut self) -> io::Result<Vec<LogLine>> {
        // Checked before reading, so that everything written before the end is read.
        let last = !self.follow || !lock::is_held(&self.dir)?;
        for tail in &mut self.tails {
            tail.fill()?;
        }
        let mut lines = Vec::new();
        while lines.len() < BATCH_LINES {
            let some = self.tails.iter_mut().filter(|tail| !tail.records.is_empty());
            let Some(tail) = some.min_by_key(|tail| tail.records.front().map(|record| record.at_ms)) else { break };
            lines.extend(tail.records.pop_front().map(|record| record.line));
            if tail.records.is_empty() {
                tail.fill()?; // otherwise lines of another container would overtake the rest of this one's
            }
        }
        self.ended = last && lines.is_empty();
        Ok(lines)
    }
}

struct Record {
    at_ms: u64,
    line: LogLine,
}

/// One container's log.
struct Tail {
    container: String,
    /// The file being read, and its inode.
    file: Option<(Take<File>, u64)>,
    next: Next,
    pending: Vec<u8>,
    records: VecDeque<Record>,
}

/// Where a log continues after the file being read.
enum Next {
    /// Here, over rotations, for as long as it is written.
    Follow(PathBuf),
    /// In these files, opened when the log was requested: otherwise the log of a pod that writes as fast as it is read would never end.
    Until(VecDeque<(Take<File>, u64)>),
}

impl Tail {
    fn new(container: String, path: PathBuf, follow: bool) -> io::Result<Self> {
        let (file, next) = if follow {
            // The rotated file is read first, if there is one.
            (open(&rotated(&path), u64::MAX)?, Next::Follow(path))
        } else {
            (None, Next::Until(snapshot(&path)?))
        };
        Ok(Self { container, file, next, pending: Vec::new(), records: VecDeque::new() })
    }

    /// Reads more if no complete record is buffered.
    fn fill(&mut self) -> io::Result<()> {
        while self.records.is_empty() {
            // Checked before the last read of the old file: nothing is appended to it after a rotation.
            let newer = self.newer()?;
            if self.read()? {
                continue;
            }
            let next = if let Next::Until(files) = &mut self.next { files.pop_front() } else { newer };
            let Some(next) = next else { return Ok(()) };
            self.file = Some(next);
        }
        Ok(())
    }

    /// When following, the file that has replaced the one being read.
    fn newer(&self) -> io::Result<Option<(Take<File>, u64)>> {
        let Next::Follow(path) = &self.next else { return Ok(None) };
        let reading = self.file.as_ref().map(|(_, inode)| *inode);
        Ok(open(path, u64::MAX)?.filter(|(_, inode)| reading != Some(*inode)))
    }

    /// Reads a chunk of the file; returns whether there was one.
    fn read(&mut self) -> io::Result<bool> {
        let Some((file, _)) = &mut self.file else { return Ok(false) };
        let mut buffer = vec![0; READ_BYTES];
        let length = file.read(&mut buffer)?;
        self.pending.extend_from_slice(&buffer[..length]);
        let complete = self.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.pending.split_off(complete);
        let records = std::mem::replace(&mut self.pending, rest);
        self.records.extend(records.split_inclusive(|byte| *byte == b'\n').filter_map(|record| parse(&self.container, record)));
        if self.pending.len() > RECORD_BYTES_MAX {
            self.pending.clear();
        }
        Ok(length > 0)
    }
}

/// The current files of a log, oldest first.
fn snapshot(path: &Path) -> io::Result<VecDeque<(Take<File>, u64)>> {
    let mut files = VecDeque::new();
    for path in [path, &rotated(path)] {
        // The newer file first: if it is rotated in between, both paths lead to it, and no lines in the middle are missed.
        let Some((file, inode)) = open(path, 0)? else { continue };
        let length = file.get_ref().metadata()?.len();
        if files.front().is_none_or(|(_, newer)| *newer != inode) {
            files.push_front((file.into_inner().take(length), inode));
        }
    }
    Ok(files)
}

/// The file, limited to `limit` bytes, and its inode; none if it doesn't exist (yet, or any more).
fn open(path: &Path, limit: u64) -> io::Result<Option<(Take<File>, u64)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let inode = file.metadata()?.ino();
    Ok(Some((file.take(limit), inode)))
}

/// `<milliseconds> stdout|stderr F|P <text>\n`
fn parse(container: &str, record: &[u8]) -> Option<Record> {
    let mut fields = record.strip_suffix(b"\n")?.splitn(4, |byte| *byte == b' ');
    let at_ms = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let stream = match fields.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    fields.next()?;
    let text = Bytes::copy_from_slice(fields.next()?);
    Some(Record { at_ms, line: LogLine { container: container.to_owned(), stream, text } })
}
