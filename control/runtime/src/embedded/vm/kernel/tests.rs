use std::{io::Seek as _, process::Command};

use super::*;
use crate::embedded::vm::fixtures;

/// Modules of every kernel in these tests.
const MODULES: &[&str] = &["virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "virtio_balloon", "erofs", "overlay", "ext4"];

/// Compresses a kernel as its build does: with its size behind it.
fn compressed(program: &[&str], kernel: &[u8]) -> Vec<u8> {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(kernel).unwrap();
    input.rewind().unwrap();
    let output = Command::new(program[0]).args(&program[1..]).stdin(input).output().unwrap();
    assert!(output.status.success(), "{program:?}");
    let size = u32::try_from(kernel.len()).unwrap().to_le_bytes();
    if program[0] == "gzip" { output.stdout } else { [&output.stdout[..], &size].concat() }
}

fn zstd() -> Vec<u8> {
    fixtures::vmlinuz(&compressed(&["zstd", "-q", "-19"], &fixtures::vmlinux()))
}

fn install(root: &Path, release: &str, vmlinuz: &[u8]) {
    fs::create_dir_all(root.join("boot")).unwrap();
    fs::write(root.join("boot").join(format!("vmlinuz-{release}")), vmlinuz).unwrap();
    let modules = root.join("usr/lib/modules").join(release).join("kernel");
    fs::create_dir_all(&modules).unwrap();
    for name in MODULES {
        fs::write(modules.join(format!("{name}.ko")), fixtures::module(&["depends="])).unwrap();
    }
}

fn source(root: &Path) -> KernelSource {
    KernelSource { root: root.to_owned() }
}

fn kept(state: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(state.join("vm")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_kernel_is_extracted_whichever_way_it_is_compressed() {
    let kernel = fixtures::vmlinux();
    let programs: [&[&str]; 5] = [
        &["lz4", "-l", "-9", "-c", "-q"],
        &["zstd", "-q", "-22", "--ultra"],
        &["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB"],
        &["xz", "--check=crc32"],
        &["gzip", "-n", "-9"],
    ];
    for program in programs {
        let extracted = bzimage::vmlinux(&fixtures::vmlinuz(&compressed(program, &kernel)));
        assert!(extracted.unwrap_or_else(|error| panic!("{program:?}: {error}")) == kernel, "{program:?}");
    }
}

#[test]
fn a_large_kernel_is_more_than_one_block_of_lz4() {
    let kernel = [fixtures::vmlinux(), (0..9 << 20).map(|at: u32| (at.wrapping_mul(at) >> 7).to_le_bytes()[0]).collect()].concat();
    let vmlinuz = fixtures::vmlinuz(&compressed(&["lz4", "-l", "-1", "-c", "-q"], &kernel));
    assert!(bzimage::vmlinux(&vmlinuz).unwrap() == kernel);
}

#[test]
fn debians_kernel_is_extracted() {
    let vmlinuz = candidates(&fixtures::debian().root).unwrap().remove(0).vmlinuz;
    let kernel = bzimage::vmlinux(&fs::read(vmlinuz).unwrap()).unwrap();
    assert!(kernel.windows(16).any(|text| text == b"Linux version 6."), "it says its version");
}

#[test]
fn what_is_no_kernel_is_refused_with_the_reason() {
    let kernel = fixtures::vmlinux();
    let good = compressed(&["zstd", "-q"], &kernel);
    let short = [&good[..good.len() - 4], b"\x01\0\0\0"].concat();
    let not_pvh = compressed(&["zstd", "-q"], &fixtures::elf(&[(".text", b"code")], &[]));
    let cases: [(Vec<u8>, &str); 6] = [
        (b"MZ".to_vec(), "not a kernel for x86 (of protocol 2.08 or newer)"),
        (vec![0; 4096], "not a kernel for x86 (of protocol 2.08 or newer)"),
        (fixtures::vmlinuz(&short), "it has another size than it says"),
        (fixtures::vmlinuz(&not_pvh), "it can't be started directly (CONFIG_PVH)"),
        (fixtures::vmlinuz(b"BZh9..."), "compressed in an unknown way (it starts with 425a68); gzip, lz4, xz and zstd are known"),
        (fixtures::vmlinuz(b"\x02\x21\x4c\x18\xff\xff\xff\xff12345678"), "lz4: it ends within a block"),
    ];
    for (bytes, reason) in cases {
        assert_eq!(bzimage::vmlinux(&bytes).unwrap_err().to_string(), reason);
    }
    for program in [&["lz4", "-l", "-c", "-q"][..], &["zstd", "-q"], &["xz"], &["gzip"]] {
        let whole = compressed(program, &kernel);
        for length in (0..whole.len()).step_by(whole.len() / 50 + 1) {
            assert!(bzimage::vmlinux(&fixtures::vmlinuz(&whole[..length])).is_err(), "{program:?} cut to {length}");
        }
    }
}

#[test]
fn content_beyond_the_limit_is_refused_before_it_fills_memory() {
    let bomb = vec![0; 1 << 20];
    for program in [&["lz4", "-l", "-c", "-q"][..], &["zstd", "-q"], &["xz"], &["gzip"]] {
        let compressed = compressed(program, &bomb);
        let bytes = if program[0] == "gzip" { &compressed[..] } else { &compressed[..compressed.len() - 4] };
        assert_eq!(decompress::decompress(bytes, (1 << 20) - 1).unwrap_err().to_string(), "longer than 1048575 bytes", "{program:?}");
        assert_eq!(decompress::decompress(bytes, 1 << 20).unwrap().len(), 1 << 20, "{program:?}");
    }
}

#[test]
fn kernels_for_virtual_machines_come_first_then_newer_ones_then_the_running_one() {
    let mut releases = [
        "6.1.0-57-amd64",
        "6.1.0-9-cloud-amd64",
        "6.1.0-57-cloud-amd64",
        "6.12.9+deb13-amd64",
        "6.8.0-40-generic",
        "6.8.0-40-lowlatency",
        "rescue",
    ];
    releases.sort_by_cached_key(|release| Reverse(rank(release, "6.8.0-40-generic")));
    let expected = [
        "6.1.0-57-cloud-amd64",
        "6.1.0-9-cloud-amd64",
        "6.12.9+deb13-amd64",
        "6.8.0-40-generic",
        "6.8.0-40-lowlatency",
        "6.1.0-57-amd64",
        "rescue",
    ];
    assert_eq!(releases, expected);
}

#[test]
fn the_best_kernel_with_all_that_is_needed_is_taken() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let none = prepare(&source(root.path()), state.path(), b"init").unwrap_err().to_string();
    assert!(none.starts_with("no kernel with its modules in ") && none.contains("linux-image-cloud-amd64"), "{none}");
    install(root.path(), "6.2.0-cloud-amd64", &zstd());
    fs::remove_file(root.path().join("usr/lib/modules/6.2.0-cloud-amd64/kernel/erofs.ko")).unwrap();
    fs::write(root.path().join("boot/vmlinuz-9.9.9-without-modules"), zstd()).unwrap();
    let lacking = prepare(&source(root.path()), state.path(), b"init").unwrap_err().to_string();
    assert!(lacking.contains("6.2.0-cloud-amd64: the module erofs is missing"), "{lacking}");
    install(root.path(), "6.3.0-broken-cloud-amd64", b"not a kernel");
    install(root.path(), "6.1.0-amd64", &zstd());
    let kernel = prepare(&source(root.path()), state.path(), b"init").unwrap();
    assert_eq!(kernel.release, "6.1.0-amd64");
    assert!(fs::read(&kernel.vmlinux).unwrap() == fixtures::vmlinux());
    for file in [&kernel.vmlinux, &kernel.initramfs] {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o7777, 0o644, "{}", file.display());
    }
}

#[test]
fn the_same_input_is_prepared_once() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    install(root.path(), "6.1.0-amd64", &zstd());
    let inode = |kernel: &Kernel| fs::metadata(&kernel.vmlinux).unwrap().ino();
    let first = prepare(&source(root.path()), state.path(), b"init").unwrap();
    let (again, inode_of_first) = (prepare(&source(root.path()), state.path(), b"init").unwrap(), inode(&first));
    assert_eq!((&again, inode(&again)), (&first, inode_of_first));
    let other_init = prepare(&source(root.path()), state.path(), b"other").unwrap();
    let module = root.path().join("usr/lib/modules/6.1.0-amd64/kernel/erofs.ko");
    fs::write(module, fixtures::module(&["depends=", "version=2"])).unwrap();
    let other_module = prepare(&source(root.path()), state.path(), b"other").unwrap();
    let prints = [&first, &other_init, &other_module].map(|kernel| kernel.fingerprint.clone());
    assert_eq!(std::collections::HashSet::from(prints).len(), 3, "each has a fingerprint of its own");
}

#[test]
fn an_earlier_kernel_stays_while_it_is_used() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    install(root.path(), "6.1.0-amd64", &zstd());
    let first = prepare(&source(root.path()), state.path(), b"1").unwrap();
    let (used, also_used) = (first.use_lock().unwrap(), first.use_lock().unwrap());
    // Left by a preparation that was killed.
    fs::create_dir(state.path().join("vm/.unfinished-1")).unwrap();
    fs::create_dir(state.path().join("vm/.unfinished-2")).unwrap();
    fs::write(state.path().join("vm/.unfinished-2/lock"), "").unwrap();
    fs::write(state.path().join("vm/.unfinished-2/vmlinux"), "half").unwrap();

    let second = prepare(&source(root.path()), state.path(), b"2").unwrap();
    let dir_of = |kernel: &Kernel| kernel.vmlinux.parent().unwrap().to_owned();
    let mut both = vec![dir_of(&first), dir_of(&second)];
    both.sort();
    assert_eq!(kept(state.path()), both);
    drop(used);
    prepare(&source(root.path()), state.path(), b"2").unwrap();
    assert_eq!(kept(state.path()), both);
    drop(also_used);
    prepare(&source(root.path()), state.path(), b"2").unwrap();
    assert_eq!(kept(state.path()), [dir_of(&second)]);
    assert_eq!(first.use_lock().unwrap_err().kind(), io::ErrorKind::NotFound);
    second.use_lock().unwrap();
}
