//! Containers' logs on disk: one line per record, in a file that is rotated once it has grown to its limit.
//!
//! `<milliseconds> stdout|stderr F|P <text>\n`: `F` is a full line, `P` a piece of a line longer than the limit. The shim writes with
//! [`Writer`], the daemon reads with [`tail`].

pub(crate) mod tail;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::shim_protocol::LogBounds;
use crate::LogStream;

/// The file of a container's log.
pub(crate) fn path(logs: &Path, container: &str) -> PathBuf {
    logs.join(format!("{container}.log"))
}

/// The previous, rotated file.
pub(crate) fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// Appends to a container's log; holds at most twice `file_bytes` on disk.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    written: u64,
    /// In all files.
    total: u64,
    file_bytes: u64,
}

impl Writer {
    pub(crate) fn create(path: PathBuf, file_bytes: u64) -> io::Result<Self> {
        Ok(Self { file: open(&path)?, path, written: 0, total: 0, file_bytes })
    }

    /// Bytes written so far, including those rotated away.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Appends one record.
    pub(crate) fn line(&mut self, now_ms: u64, stream: LogStream, full: bool, text: &[u8]) -> io::Result<()> {
        let mut record = format!("{now_ms} {} {} ", stream.as_str(), if full { 'F' } else { 'P' }).into_bytes();
        record.extend_from_slice(text);
        record.push(b'\n');
        let length = record.len() as u64;
        if self.written > 0 && self.written + length > self.file_bytes {
            fs::rename(&self.path, rotated(&self.path))?;
            self.file = open(&self.path)?;
            self.written = 0;
        }
        self.written += length;
        self.total += length;
        self.file.write_all(&record)
    }
}

fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Splits an output's bytes into lines.
#[derive(Debug)]
pub(crate) struct Splitter {
    stream: LogStream,
    pending: Vec<u8>,
    line_bytes: usize,
}

impl Splitter {
    pub(crate) fn new(stream: LogStream, bounds: LogBounds) -> Self {
        Self { stream, pending: Vec::new(), line_bytes: bounds.line_bytes.max(1) }
    }

    /// Takes bytes as read and writes the lines they complete.
    pub(crate) fn feed(&mut self, now_ms: u64, bytes: &[u8], writer: &mut Writer) -> io::Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.pending.extend_from_slice(text);
            while self.pending.len() > self.line_bytes {
                let rest = self.pending.split_off(self.line_bytes);
                writer.line(now_ms, self.stream, false, &self.pending)?;
                self.pending = rest;
            }
            if ends {
                writer.line(now_ms, self.stream, true, &self.pending)?;
                self.pending.clear();
            }
        }
        Ok(())
    }

    /// Writes the last line if it has no newline.
    pub(crate) fn finish(&mut self, now_ms: u64, writer: &mut Writer) -> io::Result<()> {
        if self.pending.is_empty() { Ok(()) } else { writer.line(now_ms, self.stream, true, &std::mem::take(&mut self.pending)) }
    }
}

#[cfg(test)]
mod tests;
