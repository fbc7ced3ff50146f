//! The bytes of a layer: decompressed, hashed, and limited in size.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    time::Instant,
};

use flate2::bufread::GzDecoder;
use sha2::{Digest as _, Sha256};

use super::{Digest, ImageLimits, UnpackError};
use crate::image::layers::ENTRY_BYTES;

/// What unpacking one image may still use, over all its layers.
#[derive(Debug)]
pub(in crate::image) struct Budget {
    bytes: Cell<u64>,
    entries: Cell<u64>,
    deadline: Instant,
}

impl Budget {
    /// One image's limits, but at most `bytes`.
    pub(in crate::image) fn new(limits: &ImageLimits, bytes: u64, deadline: Instant) -> Self {
        Self { bytes: Cell::new(limits.unpacked_bytes_max.min(bytes)), entries: Cell::new(limits.entries_max), deadline }
    }

    /// Takes bytes that an entry adds but the archive doesn't contain: the holes of a sparse file, or a copy of one in a layer below.
    pub(super) fn take_bytes(&self, count: u64) -> Result<(), UnpackError> {
        take(&self.bytes, count).ok_or(UnpackError::Size)
    }

    /// Takes a file, directory or link, including its overhead on the disk.
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

/// Why a [`LayerReader`] has ended early, for callers that get only its bare `io::Error` through the archive reader.
#[derive(Default)]
pub(super) struct Gate(Cell<Option<UnpackError>>);

impl Gate {
    /// The cause of `error`, if it came from the reader.
    pub(super) fn cause(&self) -> Option<UnpackError> {
        self.0.take()
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
    /// Opens a blob that is a tar, plain or compressed; detected by its first bytes, because media types are not always right.
    pub(super) fn open(blob: File, budget: &'a Budget, gate: &'a Gate) -> Result<Self, UnpackError> {
        let mut reader = BufReader::with_capacity(128 * 1024, blob);
        let inner: Box<dyn Read> = match reader.fill_buf()? {
            [0x1f, 0x8b, ..] => Box::new(BufReader::new(Members(Some(GzDecoder::new(reader))))),
            // A frame, or a skippable one (RFC 8878, 3.1), with which pzstd begins. Windows of more than 128 MiB are refused.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(zstd::Decoder::with_buffer(reader)?),
            [b'B', b'Z', b'h', _, b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => return Err(UnpackError::Format("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(UnpackError::Format("xz")),
            _ => Box::new(reader),
        };
        Ok(Self { inner, hasher: Sha256::new(), budget, gate })
    }

    /// Digest of everything read.
    pub(super) fn digest(self) -> Digest {
        Digest(self.hasher.finalize().into())
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        self.budget.take_bytes(bytes.len() as u64)?;
        self.hasher.update(bytes);
        if Instant::now() > self.budget.deadline { Err(UnpackError::Time) } else { Ok(()) }
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = match self.inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            // A disk error; an error of a decompressor has no code, and is the archive's fault.
            Err(error) if error.raw_os_error().is_some() => Err(UnpackError::Io(error)),
            Err(error) => Err(UnpackError::Compressed(error.to_string())),
            Ok(count) => self.pass(buffer.get(..count).unwrap_or_default()).map(|()| count),
        };
        outcome.map_err(|error| {
            self.gate.0.set(Some(error));
            io::Error::other("the layer ends here")
        })
    }
}

/// The members of a gzip file, one after the other. Trailing bytes that aren't a member are ignored, as gzip and pigz do: some tools pad
/// with zeros. This is safe, because the layer's `diff_id` covers the content.
struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            let Some(mut rest) = self.0.take().map(GzDecoder::into_inner) else { break };
            if rest.fill_buf()?.first() == Some(&0x1f) {
                self.0 = Some(GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}
