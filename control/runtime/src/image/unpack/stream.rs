//! The bytes of a layer: decompressed, hashed, and cut off where they become too many.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Read},
    time::Instant,
};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::{Digest, ImageLimits, UnpackError};
use crate::image::layers::ENTRY_BYTES;

/// Names and extended headers before one entry, in bytes; the archive reader holds them in memory.
const HEADERS_MAX: u64 = 64 * 1024;

/// What unpacking one image may still take, over all its layers.
#[derive(Debug)]
pub(in crate::image) struct Budget {
    bytes: Cell<u64>,
    entries: Cell<u64>,
    deadline: Instant,
}

impl Budget {
    /// All that one image may take, but no more than `bytes`.
    pub(in crate::image) fn new(limits: &ImageLimits, bytes: u64, deadline: Instant) -> Self {
        Self { bytes: Cell::new(limits.unpacked_bytes_max.min(bytes)), entries: Cell::new(limits.entries_max), deadline }
    }

    /// Takes the bytes an entry becomes that aren't in the archive: the holes of a sparse file.
    pub(super) fn take_bytes(&self, count: u64) -> Result<(), UnpackError> {
        take(&self.bytes, count).ok_or(UnpackError::Size)
    }

    /// Takes a file, directory or link, with what it takes on a disk beside its content.
    pub(super) fn take_entry(&self) -> Result<(), UnpackError> {
        take(&self.entries, 1).ok_or(UnpackError::Entries)?;
        self.take_bytes(ENTRY_BYTES)
    }

    /// How many bytes are left.
    pub(in crate::image) fn bytes_left(&self) -> u64 {
        self.bytes.get()
    }
}

fn take(from: &Cell<u64>, count: u64) -> Option<()> {
    from.set(from.get().checked_sub(count)?);
    Some(())
}

/// Why a [`LayerReader`] has ended early, for whoever gets its bare `io::Error` through the archive reader; and how many
/// header bytes it still lets through.
pub(super) struct Gate {
    cause: Cell<Option<UnpackError>>,
    headers: Cell<u64>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { cause: Cell::new(None), headers: Cell::new(HEADERS_MAX) }
    }

    /// What is read next are headers of one entry.
    pub(super) fn expect_headers(&self) {
        self.headers.set(HEADERS_MAX);
    }

    /// What is read next is content, as long as it likes to be.
    pub(super) fn expect_content(&self) {
        self.headers.set(u64::MAX);
    }

    /// The error behind `error`: the reader's own, or else the archive's.
    pub(super) fn cause_of(&self, error: &io::Error) -> UnpackError {
        self.cause.take().unwrap_or_else(|| match error.raw_os_error() {
            Some(code) => UnpackError::Io(io::Error::from_raw_os_error(code)),
            None => UnpackError::Tar,
        })
    }
}

/// The tar of a layer.
pub(super) struct LayerReader<'a> {
    inner: Box<dyn Read>,
    hasher: Sha256,
    budget: &'a Budget,
    gate: &'a Gate,
}

impl<'a> LayerReader<'a> {
    /// Reads a blob that is a tar, plain or compressed; its first bytes tell, for media types are not always right.
    pub(super) fn open(blob: File, budget: &'a Budget, gate: &'a Gate) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(128 * 1024, blob);
        let start = io::BufRead::fill_buf(&mut reader)?;
        let inner: Box<dyn Read> = if start.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::new(MultiGzDecoder::new(reader)))
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Box::new(zstd::Decoder::with_buffer(reader)?)
        } else {
            Box::new(reader)
        };
        Ok(Self { inner, hasher: Sha256::new(), budget, gate })
    }

    /// Digest of all that was read.
    pub(super) fn digest(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let count = bytes.len() as u64;
        self.budget.take_bytes(count)?;
        if self.gate.headers.get() != u64::MAX {
            take(&self.gate.headers, count).ok_or(UnpackError::Headers)?;
        }
        self.hasher.update(bytes);
        if Instant::now() > self.budget.deadline { Err(UnpackError::Time) } else { Ok(()) }
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = match self.inner.read(buffer) {
            // Of the disk; what a decompressor finds wrong has no code, and is the archive's.
            Err(error) if error.raw_os_error().is_some() => Err(UnpackError::Io(error)),
            Err(error) => return Err(error),
            Ok(count) => self.pass(buffer.get(..count).unwrap_or_default()).map(|()| count),
        };
        outcome.map_err(|error| {
            self.gate.cause.set(Some(error));
            io::Error::other("the layer ends here")
        })
    }
}
