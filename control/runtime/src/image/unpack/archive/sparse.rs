//! Maps of sparse files: which parts of them the archive contains.

use tar::GnuSparseHeader;

use super::{ArchiveError, numbers::number, pax::decimal};

/// A part of a file that isn't a hole, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image::unpack) struct Segment {
    pub(in crate::image::unpack) offset: u64,
    pub(in crate::image::unpack) length: u64,
}

/// A sparse file as an extended header describes it.
#[derive(Debug)]
pub(super) struct Described {
    /// Including holes, in bytes.
    pub(super) size: u64,
    /// The real name: the entry's own is a placeholder for readers without support for sparse files.
    pub(super) name: Option<Vec<u8>>,
    /// None: the map is in the entry's content.
    pub(super) segments: Option<Vec<Segment>>,
}

/// Whether a map is valid for a file of `size` of which the archive contains `dense` bytes.
pub(super) fn check(map: &[Segment], size: u64, dense: u64) -> Result<(), ArchiveError> {
    let (mut end, mut sum) = (0, 0);
    for segment in map {
        let ordered = segment.offset >= end;
        end = segment.offset.checked_add(segment.length).filter(|_| ordered).ok_or(WRONG)?;
        // Can't overflow, as it is below `end`.
        sum += segment.length;
    }
    if end <= size && sum == dense { Ok(()) } else { Err(WRONG) }
}

const WRONG: ArchiveError = ArchiveError::Meaning("a sparse file whose map doesn't fit it");

/// A map in headers of GNU tar.
#[derive(Debug, Default)]
pub(super) struct Map(Vec<Segment>);

impl Map {
    pub(super) fn add(&mut self, slots: &[GnuSparseHeader]) -> Result<(), ArchiveError> {
        // The first empty slot ends the block.
        for slot in slots.iter().take_while(|slot| slot.offset[0] != 0) {
            let field = |field: &[u8]| u64::try_from(number(field)?).map_err(|_| WRONG);
            self.0.push(Segment { offset: field(&slot.offset)?, length: field(&slot.numbytes)? });
        }
        Ok(())
    }

    pub(super) fn segments(self) -> Vec<Segment> {
        self.0
    }
}

/// A map of lines with decimal numbers: the number of parts, then the offset and length of each.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    lines: u64,
}

impl Lines {
    pub(super) fn add(&mut self, block: &[u8]) {
        self.lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.bytes.extend_from_slice(block);
    }

    pub(super) fn is_whole(&self) -> Result<bool, ArchiveError> {
        if self.lines == 0 {
            return Ok(false);
        }
        let lines = self.count()?.checked_mul(2).and_then(|lines| lines.checked_add(1)).ok_or(WRONG)?;
        Ok(self.lines >= lines)
    }

    fn count(&self) -> Result<u64, ArchiveError> {
        decimal(self.bytes.split(|byte| *byte == b'\n').next().unwrap_or_default())
    }

    pub(super) fn segments(self) -> Result<Vec<Segment>, ArchiveError> {
        let count = self.count()?;
        let wanted = usize::try_from(count.saturating_mul(2)).unwrap_or(usize::MAX);
        let numbers = self.bytes.split(|byte| *byte == b'\n').skip(1).take(wanted).map(decimal).collect::<Result<Vec<_>, _>>()?;
        pairs(&numbers, count)
    }
}

/// Converts alternating offsets and lengths to parts.
pub(super) fn pairs(numbers: &[u64], count: u64) -> Result<Vec<Segment>, ArchiveError> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() as u64 != count {
        return Err(WRONG);
    }
    Ok(pairs.iter().map(|[offset, length]| Segment { offset: *offset, length: *length }).collect())
}
