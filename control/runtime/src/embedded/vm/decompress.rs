//! Decompresses kernels and modules, whichever of the kernel's formats a distribution chose.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

const ELF: &[u8] = b"\x7fELF";
const GZIP: &[u8] = b"\x1f\x8b\x08";
const LZ4_LEGACY: &[u8] = b"\x02\x21\x4c\x18";
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// Content of a block of a legacy lz4 frame, in bytes; the last one has less.
const LZ4_BLOCK_BYTES: usize = 8 << 20;
/// Largest dictionary of xz: that of the kernel's build is 32 MiB.
const XZ_MEMORY_KIB_MAX: u32 = 256 << 10;

/// A file's content, of at most `max` bytes.
pub(super) fn read(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, max)
}

/// Decompresses `bytes` to at most `max` bytes; an ELF file is returned as it is.
pub(super) fn decompress(bytes: &[u8], max: usize) -> io::Result<Vec<u8>> {
    if bytes.starts_with(ELF) {
        bounded(bytes, max)
    } else if is_gzip(bytes) {
        bounded(flate2::read::GzDecoder::new(bytes), max)
    } else if bytes.starts_with(XZ) {
        bounded(lzma_rust2::XzReader::new_mem_limit(bytes, false, XZ_MEMORY_KIB_MAX), max)
    } else if bytes.starts_with(ZSTD) {
        bounded(zstd::Decoder::with_buffer(bytes)?.single_frame(), max)
    } else if let Some(blocks) = bytes.strip_prefix(LZ4_LEGACY) {
        lz4(blocks, max)
    } else {
        let start = bytes.get(..6).unwrap_or(bytes);
        Err(invalid(format!("compressed in an unknown way (it starts with {}); gzip, lz4, xz and zstd are known", hex::encode(start))))
    }
}

/// Whether `bytes` are compressed by gzip, whose last bytes are the content's size.
pub(super) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(GZIP)
}

/// Blocks, each after its compressed size (`u32`, little endian).
fn lz4(mut rest: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while !rest.is_empty() {
        let (size, after) = rest.split_first_chunk().ok_or_else(|| invalid("lz4: it ends within a block's size"))?;
        let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
        let (compressed, after) = after.split_at_checked(size).ok_or_else(|| invalid("lz4: it ends within a block"))?;
        let length = lz4_flex::block::decompress_into(compressed, &mut block).map_err(|error| invalid(format!("lz4: {error}")))?;
        if content.len() + length > max {
            return Err(too_long(max));
        }
        content.extend_from_slice(block.get(..length).unwrap_or_default());
        rest = after;
    }
    Ok(content)
}

fn bounded(source: impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX);
    source.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() > max { Err(too_long(max)) } else { Ok(content) }
}

fn too_long(max: usize) -> io::Error {
    invalid(format!("longer than {max} bytes"))
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
