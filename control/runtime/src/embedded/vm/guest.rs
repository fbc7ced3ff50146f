//! The first process of a virtual machine.

/// Its program, static: `/init` of the initramfs.
pub(crate) const GUEST: &[u8] = include_bytes!(env!("CODIUS_GUEST_BINARY"));
