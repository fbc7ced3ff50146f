//! Entries of a tar archive, each merged from all of its headers.
//!
//! The formats are those of POSIX (ustar, pax), GNU tar and their predecessors. Where tools interpret an archive differently, this follows
//! Go's `archive/tar`, which other container runtimes use; an ambiguous archive is rejected. The `tar` crate parses the fields of a header;
//! its own reader doesn't support sparse files in pax format and drops an entire extended header if a value holds a newline.

mod numbers;
mod pax;
mod sparse;

use std::io::{self, Read};

use tar::{GnuHeader, Header};

pub(super) use numbers::Time;
use numbers::{number, text, trimmed};
use pax::Records;
pub(super) use sparse::Segment;

const BLOCK: u64 = 512;
/// Maximum size of an extended header, a long name or the map of a sparse file, in bytes; as in Go. They are held in memory.
const SPECIAL_MAX: u64 = 1 << 20;

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Device,
    Directory,
    Fifo,
    File,
    HardLink,
    Symlink,
}

/// An archive that can't be read; `Display` is fit for uploaders.
#[derive(Debug, thiserror::Error)]
pub(in crate::image) enum ArchiveError {
    #[error("a name or extended header is too long")]
    Headers,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Meaning(&'static str),
    #[error("an entry of type {0:?}, which other container runtimes don't take either")]
    Type(char),
    #[error("it can't be read as a tar archive")]
    Unreadable,
}

/// One file, directory or link.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    /// A link's target.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) mtime: Time,
    /// A file's size, in bytes.
    pub(super) size: u64,
    /// The parts of a sparse file that the archive contains, in order; the rest are holes.
    pub(super) segments: Option<Vec<Segment>>,
    /// Extended attributes, by their names.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads an archive from its beginning.
pub(super) struct Archive<R> {
    inner: R,
    /// Unread bytes of the entry's content.
    content: u64,
    /// Bytes after the content, up to the next header.
    padding: u64,
    /// The path of the current entry.
    at: Vec<u8>,
}

/// Values from the headers that precede an entry's own.
#[derive(Debug, Default)]
struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, content: 0, padding: 0, at: Vec::new() }
    }

    /// The path of the entry that an error is about, as far as known.
    pub(super) fn at(&self) -> &[u8] {
        &self.at
    }

    /// The next entry; skips the rest of the last one's content.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut before = Before::default();
        self.pass_over()?;
        self.at.clear();
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else {
                let whole = before.name.is_none() && before.link.is_none() && before.records.is_none();
                return if whole { Ok(None) } else { Err(ArchiveError::Meaning("it ends with an extended header of nothing")) };
            };
            let slot = match header.as_bytes()[156] {
                b'L' => &mut before.name,
                b'K' => &mut before.link,
                b'x' => {
                    let records = Records::parse(&self.special(&header)?)?;
                    if before.records.replace(records).is_some() {
                        return Err(ArchiveError::Meaning("two extended headers of one entry"));
                    }
                    continue;
                }
                b'g' => {
                    Records::parse(&self.special(&header)?)?.fit_for_all()?;
                    continue;
                }
                _ => return self.entry(&header, before).map(Some),
            };
            let name = trimmed(&self.special(&header)?).to_vec();
            if slot.replace(name).is_some() {
                return Err(ArchiveError::Meaning("two long names of one entry"));
            }
        }
    }

    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry, ArchiveError> {
        let records = before.records.unwrap_or_default();
        let old = header.as_old();
        let path = match (before.name, records.path()) {
            // Go uses the first, others the second.
            (Some(long), Some(path)) if long != path => return Err(ArchiveError::Meaning("two different long names of one entry")),
            (Some(name), _) => name,
            (None, Some(path)) => path.to_vec(),
            (None, None) => name_of(header),
        };
        let link = match (before.link, records.link()) {
            (Some(long), Some(link)) if long != link => return Err(ArchiveError::Meaning("two different long names of one link")),
            (Some(link), _) => link,
            (None, Some(link)) => link.to_vec(),
            (None, None) => text(&old.linkname).to_vec(),
        };
        self.at.clone_from(&path);
        let (kind, sparse) = kind_of(old.linkflag[0], &path)?;
        let dense = match records.size()? {
            Some(size) => size,
            None => u64::try_from(number(&old.size)?).map_err(|_| ArchiveError::Unreadable)?,
        };
        // Other types have no content, whatever their headers say.
        self.expect(if kind == Kind::File { dense } else { 0 })?;
        let mut entry = Entry {
            kind,
            path,
            link,
            // Only the lower bits have a meaning.
            mode: u32::try_from(number(&old.mode)? & 0o7777).map_err(|_| ArchiveError::Unreadable)?,
            uid: records.id("uid")?.map_or_else(|| number(&old.uid), Ok)?,
            gid: records.id("gid")?.map_or_else(|| number(&old.gid), Ok)?,
            mtime: records.mtime()?.map_or_else(|| number(&old.mtime).map(Time::seconds), Ok)?,
            size: self.content,
            segments: None,
            xattrs: records.xattrs(),
        };
        let map = match records.sparse()? {
            None if !sparse => return Ok(entry),
            None => {
                let gnu = header.as_gnu().ok_or(ArchiveError::Meaning("a sparse file in a format other than GNU's"))?;
                entry.size = u64::try_from(number(&gnu.realsize)?).map_err(|_| ArchiveError::Unreadable)?;
                self.old_map(gnu)?
            }
            Some(_) if sparse || kind != Kind::File => return Err(ArchiveError::Meaning("a sparse file described in two ways")),
            Some(described) => {
                entry.size = described.size;
                if let Some(name) = described.name {
                    entry.path = name;
                }
                match described.segments {
                    Some(segments) => segments,
                    None => self.map_in_content()?,
                }
            }
        };
        sparse::check(&map, entry.size, self.content)?;
        entry.segments = Some(map);
        Ok(entry)
    }

    /// The map of a sparse file in GNU tar's own format: in its header, and in blocks after it that its size doesn't include.
    fn old_map(&mut self, gnu: &GnuHeader) -> Result<Vec<Segment>, ArchiveError> {
        let mut map = sparse::Map::default();
        map.add(&gnu.sparse)?;
        let mut more = gnu.isextended[0] != 0;
        let mut length = BLOCK;
        while more {
            length += BLOCK;
            if length > SPECIAL_MAX {
                return Err(ArchiveError::Headers);
            }
            let mut block = tar::GnuExtSparseHeader::new();
            self.inner.read_exact(block.as_mut_bytes()).map_err(cut_off)?;
            map.add(&block.sparse)?;
            more = block.isextended[0] != 0;
        }
        Ok(map.segments())
    }

    /// The map of a sparse file in version 1.0 of the format for pax: at the beginning of its content, in blocks of its own.
    fn map_in_content(&mut self) -> Result<Vec<Segment>, ArchiveError> {
        let mut map = sparse::Lines::default();
        let mut length = 0;
        while !map.is_whole()? {
            length += BLOCK;
            if length > SPECIAL_MAX {
                return Err(ArchiveError::Headers);
            }
            let mut block = [0; 512];
            self.content = self.content.checked_sub(BLOCK).ok_or(ArchiveError::Meaning("a sparse file without its map"))?;
            self.inner.read_exact(&mut block).map_err(cut_off)?;
            map.add(&block);
        }
        map.segments()
    }

    /// The next header, if there is one.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut header = Header::new_old();
        if !self.block(&mut header)? {
            return Ok(None);
        }
        if is_zero(&header) {
            // Some archives end with one block of zeros, or none. Bytes after two such blocks don't belong to the archive.
            let more = self.block(&mut header)? && !is_zero(&header);
            return if more { Err(ArchiveError::Meaning("an entry behind a block of zeros")) } else { Ok(None) };
        }
        let own = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { *byte };
        let bytes = || header.as_bytes().iter().enumerate().map(own);
        let unsigned: i64 = bytes().map(i64::from).sum();
        // Some tools sum the bytes as signed.
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        let said = number(&header.as_old().cksum)?;
        if said == unsigned || said == signed { Ok(Some(header)) } else { Err(ArchiveError::Unreadable) }
    }

    fn block(&mut self, header: &mut Header) -> Result<bool, ArchiveError> {
        let bytes = header.as_mut_bytes();
        let mut length = 0;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest)? {
                0 if length == 0 => return Ok(false),
                0 => return Err(ArchiveError::Unreadable),
                count => length += count,
            }
        }
        Ok(true)
    }

    /// The content of an entry that describes other entries.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let size = u64::try_from(number(&header.as_old().size)?).map_err(|_| ArchiveError::Unreadable)?;
        if size > SPECIAL_MAX {
            return Err(ArchiveError::Headers);
        }
        self.expect(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn expect(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padded = size.checked_next_multiple_of(BLOCK).ok_or(ArchiveError::Unreadable)?;
        (self.content, self.padding) = (size, padded - size);
        Ok(())
    }

    fn pass_over(&mut self) -> Result<(), ArchiveError> {
        io::copy(self, &mut io::sink())?;
        // Some archives lack their last padding.
        io::copy(&mut (&mut self.inner).take(self.padding), &mut io::sink())?;
        self.padding = 0;
        Ok(())
    }
}

/// The content of the last entry, without its holes.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.inner.read(buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.content -= count as u64;
                Ok(count)
            }
        }
    }
}

fn cut_off(error: io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::UnexpectedEof { ArchiveError::Unreadable } else { error.into() }
}

fn is_zero(header: &Header) -> bool {
    header.as_bytes().iter().all(|byte| *byte == 0)
}

/// The kind for a type flag, and whether the flag marks the file as sparse.
fn kind_of(flag: u8, path: &[u8]) -> Result<(Kind, bool), ArchiveError> {
    let kind = match flag {
        // Before there were type flags, a trailing slash marked a directory.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(ArchiveError::Type(other.into())),
    };
    Ok((kind, flag == b'S'))
}

/// The name in the header itself.
fn name_of(header: &Header) -> Vec<u8> {
    /// Magic at the end of a star header; its prefix is shorter, because times follow it.
    const STAR: (std::ops::Range<usize>, &[u8]) = (508..512, b"tar\0");
    const STAR_PREFIX: usize = 131;
    let name = text(&header.as_old().name);
    let prefix: &[u8] = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) if header.as_bytes().get(STAR.0) == Some(STAR.1) => text(&ustar.prefix[..STAR_PREFIX]),
        (Some(ustar), _) => text(&ustar.prefix),
        // Go before 1.8 wrote a prefix where GNU tar has times (golang/go 12594).
        (None, Some(gnu)) if number(&gnu.atime).is_err() || number(&gnu.ctime).is_err() => {
            let prefix = header.as_bytes().get(345..500).map(text).unwrap_or_default();
            if prefix.is_ascii() { prefix } else { b"" }
        }
        _ => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}
