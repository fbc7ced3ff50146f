//! Extracts the kernel from the file that boot loaders start (`vmlinuz`). Its header says where the compressed kernel is
//! (Documentation/arch/x86/boot.rst in Linux).

use std::io;

use crate::embedded::vm::{decompress, elf};

/// Maximum size of an extracted kernel, in bytes.
const KERNEL_BYTES_MAX: usize = 512 << 20;
/// Protocol 2.08 introduced the payload's place.
const PROTOCOL_MIN: u16 = 0x0208;
const SECTOR_BYTES: usize = 512;
/// Number of setup sectors if the header says none.
const SETUP_SECTORS: usize = 4;
/// Size of what the build appends to the payload: the size of the kernel.
const SIZE_BYTES: usize = 4;
/// Owner and type of the note with the kernel's entry for a virtual machine without firmware (`XEN_ELFNOTE_PHYS32_ENTRY`).
const PVH: (&[u8], u32) = (b"Xen\0", 18);

/// The kernel (ELF) in `vmlinuz`.
pub(super) fn vmlinux(vmlinuz: &[u8]) -> io::Result<Vec<u8>> {
    let payload = payload(vmlinuz).ok_or_else(|| invalid("not a kernel for x86 (of protocol 2.08 or newer)"))?;
    // The size of gzip is part of its format.
    let appended = if decompress::is_gzip(payload) { 0 } else { SIZE_BYTES };
    let compressed = payload.get(..payload.len().saturating_sub(appended)).unwrap_or_default();
    let kernel = decompress::decompress(compressed, KERNEL_BYTES_MAX)?;
    let size = payload.last_chunk().map(|size| u32::from_le_bytes(*size));
    if size.and_then(|size| usize::try_from(size).ok()) != Some(kernel.len()) {
        return Err(invalid("it has another size than it says"));
    }
    let (owner, kind) = PVH;
    if elf::has_note(&kernel, owner, kind) { Ok(kernel) } else { Err(invalid("it can't be started directly (CONFIG_PVH)")) }
}

fn payload(vmlinuz: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(*vmlinuz.get(at..)?.first_chunk()?));
    let is_header = vmlinuz.get(0x202..)?.starts_with(b"HdrS");
    let protocol = u16::from_le_bytes(*vmlinuz.get(0x206..)?.first_chunk()?);
    if !is_header || protocol < PROTOCOL_MIN {
        return None;
    }
    let setup = match usize::from(*vmlinuz.get(0x1f1)?) {
        0 => SETUP_SECTORS,
        sectors => sectors,
    };
    let offset = usize::try_from(word(0x248)?).ok()?;
    let start = (setup + 1).checked_mul(SECTOR_BYTES)?.checked_add(offset)?;
    vmlinuz.get(start..)?.get(..usize::try_from(word(0x24c)?).ok()?)
}

fn invalid(cause: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
