//! Kernels and modules small enough to be written by tests, and Debian's real one.

use std::path::PathBuf;

use super::kernel::KernelSource;

/// An ELF file with these sections, and with a segment for each of the `notes`.
pub(super) fn elf(sections: &[(&str, &[u8])], notes: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64, 0);
    let mut names = b"\0".to_vec();
    let (mut section_headers, mut segment_headers) = (vec![0; 64], Vec::new());
    let mut put = |content: &[u8]| {
        let at = bytes.len() as u64;
        bytes.extend_from_slice(content);
        (at, content.len() as u64)
    };
    for (name, content) in sections {
        section_headers.extend(section_header(u32::try_from(names.len()).unwrap(), put(content)));
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    section_headers.extend(section_header(0, put(&names)));
    for content in notes {
        let (at, size) = put(content);
        let mut header = [4_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
        [at, 0, 0, size, size, 4].iter().for_each(|field| header.extend(field.to_le_bytes()));
        segment_headers.extend(header);
    }
    let ((segments_at, _), (sections_at, _)) = (put(&segment_headers), put(&section_headers));
    bytes[0x20..0x28].copy_from_slice(&segments_at.to_le_bytes());
    bytes[0x28..0x30].copy_from_slice(&sections_at.to_le_bytes());
    let count = u16::try_from(sections.len()).unwrap();
    let fields = [(0x36, 56), (0x38, u16::try_from(notes.len()).unwrap()), (0x3a, 64), (0x3c, count + 2), (0x3e, count + 1)];
    fields.iter().for_each(|(at, field)| bytes[*at..at + 2].copy_from_slice(&field.to_le_bytes()));
    bytes
}

fn section_header(name: u32, (at, size): (u64, u64)) -> Vec<u8> {
    let mut header = [name.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    [0, 0, at, size, 0, 0, 0].iter().for_each(|field: &u64| header.extend(field.to_le_bytes()));
    header
}

/// A module that says this about itself, each field `key=value`.
pub(super) fn module(fields: &[&str]) -> Vec<u8> {
    let modinfo: Vec<u8> = fields.iter().flat_map(|field| [field.as_bytes(), b"\0"].concat()).collect();
    elf(&[(".text", b"code"), (".modinfo", &modinfo)], &[])
}

/// A kernel that can be started directly.
pub(super) fn vmlinux() -> Vec<u8> {
    let other = b"\x06\0\0\0\x05\0\0\0\x01\0\0\0Linux\0\0\0value\0\0\0";
    let pvh = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01";
    elf(&[(".text", &[0x90; 100_000])], &[other, &[&other[..], pvh].concat()])
}

/// What a boot loader would start: `compressed` behind the header and two setup sectors.
pub(super) fn vmlinuz(compressed: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 3 * 512 + 100];
    bytes[0x1f1] = 2;
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    bytes[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
    bytes[0x24c..0x250].copy_from_slice(&u32::try_from(compressed.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(compressed);
    bytes.extend_from_slice(b"what follows the payload");
    bytes
}

/// The kernel that `tests/guest-kernel/fetch` unpacks.
pub(super) fn debian() -> KernelSource {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/guest-kernel");
    assert!(root.join("boot").exists(), "there is no kernel for tests; run deploy/setup test");
    KernelSource { root }
}
