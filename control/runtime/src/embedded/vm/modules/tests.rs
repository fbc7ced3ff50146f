use std::{
    fs,
    io::{Seek as _, Write as _},
    path::Path,
    process::Command,
};

use super::*;
use crate::embedded::vm::fixtures;

/// Writes a module; `with` is the program that compresses it.
fn put(dir: &Path, file: &str, fields: &[&str], with: Option<&[&str]>) {
    let path = dir.join("kernel").join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = fixtures::module(fields);
    fs::write(path, with.map_or_else(|| bytes.clone(), |program| filter(program, &bytes))).unwrap();
}

fn filter(program: &[&str], content: &[u8]) -> Vec<u8> {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(content).unwrap();
    input.rewind().unwrap();
    let output = Command::new(program[0]).args(&program[1..]).stdin(input).output().unwrap();
    assert!(output.status.success(), "{program:?}");
    output.stdout
}

/// All that a guest needs, without dependencies, but for `left_out`.
fn put_all_but(dir: &Path, left_out: &[&str]) {
    for name in NEEDED.iter().filter(|name| !left_out.contains(name)) {
        put(dir, &format!("{name}.ko"), &["depends="], None);
    }
}

fn names(dir: &Path) -> Vec<String> {
    needed(dir).unwrap().into_iter().map(|module| module.name).collect()
}

#[test]
fn modules_come_after_those_they_depend_on_however_they_are_compressed() {
    let dir = tempfile::tempdir().unwrap();
    put_all_but(dir.path(), &["virtio_mmio", "virtio_blk", "ext4"]);
    fs::write(dir.path().join("modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/lib/built-in.ko\n").unwrap();
    put(dir.path(), "drivers/virtio/virtio_mmio.ko", &["license=GPL", "depends=virtio,virtio-ring,built-in"], None);
    put(dir.path(), "drivers/virtio/virtio.ko.xz", &["depends=virtio_ring"], Some(&["xz", "--check=crc32", "--lzma2=dict=1MiB"]));
    put(dir.path(), "drivers/virtio/virtio-ring.ko.zst", &["depends="], Some(&["zstd", "-q"]));
    put(dir.path(), "drivers/virtio_blk.ko.gz", &["depends=virtio"], Some(&["gzip", "-n"]));
    let expected = ["virtio_ring", "virtio", "virtio_mmio", "virtio_console", "virtio_blk", "virtio_net"];
    let found = needed(dir.path()).unwrap();
    assert_eq!(found.iter().take(6).map(|module| &*module.name).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|module| module.bytes.starts_with(b"\x7fELF")));
}

#[test]
fn a_wished_algorithm_is_loaded_where_the_kernel_has_it() {
    let dir = tempfile::tempdir().unwrap();
    put_all_but(dir.path(), &["ext4"]);
    put(dir.path(), "ext4.ko", &["softdep=pre: crc32c post: other", "softdep=pre: nowhere", "depends=mbcache"], None);
    put(dir.path(), "crc32c_generic.ko", &["depends="], None);
    put(dir.path(), "other.ko", &["depends="], None);
    put(dir.path(), "mbcache.ko", &["depends="], None);
    assert_eq!(names(dir.path())[7..], ["crc32c_generic", "mbcache", "ext4"]);
}

#[test]
fn modules_that_depend_on_each_other_end_the_search() {
    let dir = tempfile::tempdir().unwrap();
    put_all_but(dir.path(), &["erofs"]);
    put(dir.path(), "erofs.ko", &["depends=netfs"], None);
    put(dir.path(), "netfs.ko", &["depends=erofs"], None);
    assert_eq!(names(dir.path()).len(), NEEDED.len() + 1);
}

#[test]
fn what_a_kernel_lacks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    put_all_but(dir.path(), &["erofs"]);
    assert_eq!(needed(dir.path()).unwrap_err().to_string(), "the module erofs is missing");
    put(dir.path(), "erofs.ko", &["depends=netfs"], None);
    assert_eq!(needed(dir.path()).unwrap_err().to_string(), "the module netfs is missing");
    for wrong in [&b"text"[..], b"", b"\x7fELF\x02\x01", &fixtures::elf(&[(".text", b"code")], &[])] {
        fs::write(dir.path().join("kernel/erofs.ko"), wrong).unwrap();
        assert_eq!(needed(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{wrong:?}");
    }
}

#[test]
fn debians_kernel_gets_its_modules_in_an_order_that_works() {
    let modules = fs::read_dir(fixtures::debian().root.join("lib/modules")).unwrap().next().unwrap().unwrap().path();
    let expected = [
        "virtio_ring",
        "virtio",
        "virtio_mmio",
        "virtio_console",
        "virtio_blk",
        "failover",
        "net_failover",
        "virtio_net",
        "virtio_balloon",
        "libcrc32c",
        "erofs",
        "overlay",
    ];
    assert_eq!(names(&modules), expected);
}

#[test]
fn damaged_files_are_refused_wherever_they_are_cut_or_changed() {
    let whole = fixtures::module(&["depends=virtio"]);
    assert_eq!(elf::section(&whole, b".modinfo"), Some(&b"depends=virtio\0"[..]));
    assert_eq!(elf::section(&whole, b".modinf"), None);
    for length in 0..whole.len() {
        assert_eq!(elf::section(&whole[..length], b".nothing"), None);
    }
    for at in 0..whole.len() {
        for value in [0, 0x7f, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            let found = elf::section(&changed, b".modinfo");
            assert!(found.is_none_or(|section| section.len() <= changed.len()));
            assert!(!elf::has_note(&changed, b"Xen\0", 18));
        }
    }
}
