//! The little of ELF (64 bits, little endian) that says what a kernel and its modules are.

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// Type of a segment of notes.
const PT_NOTE: u32 = 4;

/// The content of the section of that name.
pub(super) fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    elf.starts_with(MAGIC).then_some(())?;
    let (start, size) = (number(elf, 0x28)?, usize::from(u16_at(elf, 0x3a)?));
    let header = |index: u16| elf.get(start.checked_add(size.checked_mul(index.into())?)?..)?.get(..size);
    let content = |header: &[u8]| elf.get(number(header, 0x18)?..)?.get(..number(header, 0x20)?);
    let names = content(header(u16_at(elf, 0x3e)?)?)?;
    let is_named = |header: &&[u8]| {
        let at = u32_at(header, 0).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| names.get(at..)?.split(|byte| *byte == 0).next()) == Some(name)
    };
    content((0..u16_at(elf, 0x3c)?).map_while(header).find(is_named)?)
}

/// Whether a segment has a note of that owner and type.
pub(super) fn has_note(elf: &[u8], owner: &[u8], kind: u32) -> bool {
    notes(elf).is_some_and(|segments| segments.into_iter().any(|notes| has_note_in(notes, owner, kind)))
}

fn notes(elf: &[u8]) -> Option<Vec<&[u8]>> {
    elf.starts_with(MAGIC).then_some(())?;
    let (start, size) = (number(elf, 0x20)?, usize::from(u16_at(elf, 0x36)?));
    let header = |index: u16| elf.get(start.checked_add(size.checked_mul(index.into())?)?..)?.get(..size);
    let headers = (0..u16_at(elf, 0x38)?).map_while(header).filter(|header| u32_at(header, 0) == Some(PT_NOTE));
    Some(headers.filter_map(|header| elf.get(number(header, 8)?..)?.get(..number(header, 0x20)?)).collect())
}

fn has_note_in(mut notes: &[u8], owner: &[u8], kind: u32) -> bool {
    while let Some((found_owner, found_kind, rest)) = note(notes) {
        if found_owner == owner && found_kind == kind {
            return true;
        }
        notes = rest;
    }
    false
}

/// The first note's owner and type, and what follows it.
fn note(notes: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let size_at = |at| usize::try_from(u32_at(notes, at)?).ok();
    let (owner, content) = (size_at(0)?, size_at(4)?);
    let rest = notes.get(12..)?;
    let after = owner.checked_next_multiple_of(4)?.checked_add(content.checked_next_multiple_of(4)?)?;
    Some((rest.get(..owner)?, u32_at(notes, 8)?, rest.get(after..)?))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
