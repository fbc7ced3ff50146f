//! Extended headers of pax (POSIX.1-2001, "pax Interchange Format"): `LENGTH KEY=VALUE\n`, where values may hold anything.

use std::collections::BTreeMap;

use super::{
    ArchiveError, Segment, Time,
    sparse::{self, Described},
};

const SPARSE: &str = "GNU.sparse.";
const XATTR: &str = "SCHILY.xattr.";
/// Known `GNU.sparse` keys: an unknown one could change the entry's meaning.
const SPARSE_KNOWN: &[&str] = &["major", "minor", "name", "size", "realsize", "numblocks", "offset", "numbytes", "map"];
/// Keys that change entries when they are in a header for all entries; only some readers heed them there.
const NOT_FOR_ALL: &[&str] = &["gid", "linkpath", "path", "size", "uid"];

/// The values of an extended header; of duplicates, the last.
#[derive(Debug, Default)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `GNU.sparse.numbytes`, alternating, one pair per part of a file.
    parts: Vec<u64>,
}

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, ArchiveError> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(ArchiveError::Meaning("an extended header that can't be read"))?;
            bytes = rest;
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    if records.parts.len().is_multiple_of(2) != (key == b"GNU.sparse.offset") {
                        return Err(ArchiveError::Meaning("a sparse file whose map is out of order"));
                    }
                    records.parts.push(decimal(value)?);
                }
                // An empty value deletes the key.
                _ if value.is_empty() => drop(records.values.remove(key)),
                b"path" | b"linkpath" | b"GNU.sparse.name" if value.contains(&0) => {
                    return Err(ArchiveError::Meaning("a name that holds a NUL"));
                }
                _ => drop(records.values.insert(key.to_vec(), value.to_vec())),
            }
        }
        Ok(records)
    }

    /// Checks that the header may apply to all following entries, as a header of type `g` does: most hold only a comment.
    pub(super) fn fit_for_all(&self) -> Result<(), ArchiveError> {
        let changes = |key: &[u8]| {
            key.starts_with(SPARSE.as_bytes()) || key.starts_with(XATTR.as_bytes()) || NOT_FOR_ALL.iter().any(|name| name.as_bytes() == key)
        };
        if self.parts.is_empty() && !self.values.keys().any(|key| changes(key)) {
            return Ok(());
        }
        Err(ArchiveError::Meaning("a global extended header that changes what entries are"))
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice)
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        self.get("path")
    }

    pub(super) fn link(&self) -> Option<&[u8]> {
        self.get("linkpath")
    }

    pub(super) fn size(&self) -> Result<Option<u64>, ArchiveError> {
        self.get("size").map(decimal).transpose()
    }

    pub(super) fn id(&self, key: &str) -> Result<Option<i64>, ArchiveError> {
        let parse = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok();
        self.get(key).map(|value| parse(value).ok_or(ArchiveError::Meaning("an owner that isn't a number"))).transpose()
    }

    pub(super) fn mtime(&self) -> Result<Option<Time>, ArchiveError> {
        let parse = |value: &[u8]| Time::parse(std::str::from_utf8(value).ok()?);
        self.get("mtime").map(|value| parse(value).ok_or(ArchiveError::Meaning("a time that isn't a number"))).transpose()
    }

    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named = self.values.iter().filter_map(|(key, value)| Some((key.strip_prefix(XATTR.as_bytes())?.to_vec(), value.clone())));
        named.collect()
    }

    /// The description of a sparse file, if the entry is one (GNU tar's manual, "Storing Sparse Files").
    pub(super) fn sparse(&self) -> Result<Option<Described>, ArchiveError> {
        let keys = || self.values.keys().filter_map(|key| key.strip_prefix(SPARSE.as_bytes()));
        if keys().next().is_none() && self.parts.is_empty() {
            return Ok(None);
        }
        if !keys().all(|key| SPARSE_KNOWN.iter().any(|known| known.as_bytes() == key)) {
            return Err(ArchiveError::Meaning("a sparse file described in a way that isn't known"));
        }
        let major_minor = (self.get("GNU.sparse.major"), self.get("GNU.sparse.minor"));
        let in_content = match major_minor {
            (None, None) | (Some(b"0"), Some(b"0" | b"1")) => false,
            (Some(b"1"), Some(b"0")) => true,
            _ => return Err(ArchiveError::Meaning("a sparse file in a version of the format that isn't known")),
        };
        let size = self.get("GNU.sparse.size").or_else(|| self.get("GNU.sparse.realsize"));
        let size = decimal(size.ok_or(ArchiveError::Meaning("a sparse file without its size"))?)?;
        let name = self.get("GNU.sparse.name").map(<[u8]>::to_vec);
        let segments = if in_content { None } else { Some(self.segments()?) };
        Ok(Some(Described { size, name, segments }))
    }

    /// The map in the header itself: versions 0.0 and 0.1.
    fn segments(&self) -> Result<Vec<Segment>, ArchiveError> {
        let numbers = match self.get("GNU.sparse.map") {
            Some(_) if !self.parts.is_empty() => return Err(ArchiveError::Meaning("a sparse file with two maps")),
            Some(map) => map.split(|byte| *byte == b',').map(decimal).collect::<Result<Vec<_>, _>>()?,
            None => self.parts.clone(),
        };
        let count = decimal(self.get("GNU.sparse.numblocks").unwrap_or_default())?;
        sparse::pairs(&numbers, count)
    }
}

/// The first record: its key, its value, and the rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let (digits, _) = bytes.split_at_checked(space)?;
    let length = usize::try_from(decimal(digits).ok()?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at_checked(equals)?;
    let good = !key.is_empty() && !key.contains(&0);
    good.then_some((key, value.get(1..)?, rest))
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, ArchiveError> {
    let good = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| good).and_then(|digits| digits.parse().ok());
    number.ok_or(ArchiveError::Meaning("an extended header with a number that can't be read"))
}
