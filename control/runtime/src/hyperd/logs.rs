//! Logs of containers: converts hyperd's frames to lines.
//!
//! Each container's log is a stream of its own, read only as fast as the reader consumes it. hyperd never ends a followed log of a
//! container that had already exited; so during silence the container's state is checked.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::time;

use super::{
    Inner,
    client::{Call, Open},
    error::HyperdError,
    names,
    wire::{ContainerPhase, ContainerStatus},
};
use crate::{LogLine, LogLines, LogStream, PodId, RuntimeError};

/// Maximum length of a piece of a line, in bytes; a longer line is split.
const LINE_MAX: usize = 64 * 1024;
/// Silence after which a followed container's state is checked. hyperd ends a log about 3 s after the container.
const SILENCE: Duration = Duration::from_secs(2);
/// A frame starts with the stream, three zeros, and the length of the payload.
const HEADER: usize = 8;

/// Splits frames into lines, with at most a chunk and a piece of a line in memory.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: BytesMut,
    /// The frame whose payload is being read.
    open: Option<(LogStream, usize)>,
}

/// Bytes that aren't a frame: hyperd reports an error as bare text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotFramed;

impl Frames {
    /// Takes a chunk, and returns the lines that are now complete.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Result<Vec<(LogStream, Bytes)>, NotFramed> {
        self.bytes.extend_from_slice(chunk);
        let mut lines = Vec::new();
        loop {
            let Some((stream, left)) = self.open else {
                let Some(header) = self.bytes.first_chunk::<HEADER>() else { break };
                self.open = Some(frame(*header)?);
                self.bytes.advance(HEADER);
                continue;
            };
            let wanted = left.min(LINE_MAX);
            if self.bytes.len() < wanted {
                break;
            }
            let mut piece = self.bytes.split_to(wanted).freeze();
            self.open = (left > wanted).then_some((stream, left - wanted));
            if self.open.is_none() && piece.ends_with(b"\n") {
                piece.truncate(piece.len() - 1);
            }
            lines.push((stream, piece));
        }
        Ok(lines)
    }
}

fn frame(header: [u8; HEADER]) -> Result<(LogStream, usize), NotFramed> {
    let [stream, 0, 0, 0, a, b, c, d] = header else { return Err(NotFramed) };
    let stream = match stream {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        _ => return Err(NotFramed),
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).map_err(|_| NotFramed)?;
    Ok((stream, length))
}

/// The log of one container.
struct Reader {
    inner: Arc<Inner>,
    open: Open,
    frames: Frames,
    pod: PodId,
    /// The name in hyperd.
    name: String,
    /// The name in the manifest.
    container: String,
    follow: bool,
    /// Whether the container is known to have ended.
    ended: bool,
    ready: VecDeque<LogLine>,
}

impl Reader {
    /// The next lines; none at the end.
    async fn next(&mut self) -> Result<Option<LogLine>, RuntimeError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let frame = match time::timeout(SILENCE, self.open.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|error| self.broken(HyperdError::from((Call::Logs, error.into()))))?,
                // hyperd sends existing lines at once.
                Err(silence) if !self.follow => return Err(self.broken(HyperdError::from((Call::Logs, silence.into())))),
                Err(_silence) if self.ended => return Ok(None),
                // One more period of silence, for its last lines.
                Err(_silence) => {
                    self.ended = self.inner.has_ended(&self.pod, &self.name).await;
                    continue;
                }
            };
            let Ok(chunk) = frame.into_data() else { continue };
            let lines = self.frames.take(&chunk).map_err(|NotFramed| RuntimeError::NoSuchPod(self.pod.clone()))?;
            let line = |(stream, text)| LogLine { container: self.container.clone(), stream, text };
            self.ready.extend(lines.into_iter().map(line));
        }
    }

    fn broken(&self, error: HyperdError) -> RuntimeError {
        error.into_runtime(&self.pod, "reading the log")
    }
}

/// The logs of a pod's containers.
pub(super) async fn lines(inner: &Arc<Inner>, pod: &PodId, containers: &[ContainerStatus], follow: bool) -> Result<LogLines, RuntimeError> {
    let mut logs = Vec::with_capacity(containers.len());
    for status in containers {
        let Some((_, container, _)) = names::parse(&status.name) else { continue };
        let (name, container) = (status.name.clone(), container.to_owned());
        let follow = follow && status.phase == ContainerPhase::Running;
        let follow_text = if follow { "true" } else { "false" };
        let query = [("container", name.as_str()), ("stdout", "true"), ("stderr", "true"), ("follow", follow_text)];
        let open = inner.client.open(Call::Logs, &query).await.map_err(|error| error.into_runtime(pod, "reading the log"))?;
        let reader = Reader {
            inner: Arc::clone(inner),
            open,
            frames: Frames::default(),
            pod: pod.clone(),
            name,
            container,
            follow,
            ended: false,
            ready: VecDeque::new(),
        };
        let log = stream::unfold(Some(reader), async |reader| {
            let mut reader = reader?;
            match reader.next().await {
                Ok(line) => line.map(|line| (Ok(line), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        });
        logs.push(log.boxed());
    }
    Ok(stream::select_all(logs).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(stream: u8, text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0], &length[..], text].concat()
    }

    #[test]
    fn frames_are_told_apart_by_length_however_they_come() {
        let bytes = [framed(1, b"one\n"), framed(2, b"two\xff\n"), framed(1, b"\n"), framed(1, b"no newline"), framed(2, b"")].concat();
        let expected = [
            (LogStream::Stdout, &b"one"[..]),
            (LogStream::Stderr, b"two\xff"),
            (LogStream::Stdout, b""),
            (LogStream::Stdout, b"no newline"),
            (LogStream::Stderr, b""),
        ];
        for size in 1..=bytes.len() {
            let mut frames = Frames::default();
            let lines: Vec<_> = bytes.chunks(size).flat_map(|chunk| frames.take(chunk).unwrap()).collect();
            let lines: Vec<_> = lines.iter().map(|(stream, text)| (*stream, text.as_ref())).collect();
            assert_eq!(lines, expected, "in chunks of {size}");
        }
    }

    #[test]
    fn long_lines_come_in_pieces_and_memory_stays_small() {
        let mut frames = Frames::default();
        let mut seen = 0;
        for chunk in framed(1, &vec![b'x'; 10 * LINE_MAX + 7]).chunks(5000) {
            for (_, piece) in frames.take(chunk).unwrap() {
                assert!(piece.len() <= LINE_MAX);
                seen += piece.len();
            }
            assert!(frames.bytes.len() < LINE_MAX + 5000 + HEADER);
        }
        assert_eq!(seen, 10 * LINE_MAX + 7);
        // A huge length is waited for, without allocating memory for it.
        let mut frames = Frames::default();
        assert_eq!(frames.take(&[1, 0, 0, 0, 255, 255, 255, 255, b'x']), Ok(Vec::new()));
        assert!(frames.bytes.capacity() < 1024);
    }

    #[test]
    fn bare_text_is_no_log() {
        let text = b"Error running logs job: cannot find container x\n";
        assert_eq!(Frames::default().take(text), Err(NotFramed));
    }
}
