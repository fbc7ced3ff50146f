//! What a machine is made of: kernel, initramfs, images, disk.

use std::{
    arch::x86_64::_rdtsc,
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

#[path = "../../compile.rs"]
mod guest;

/// Modules of Debian's kernel, in the order of their dependencies.
const MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "libcrc32c",
    "erofs",
    "overlay",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";
const DISK_BYTES: u64 = 64 << 20;
/// How long the processor's counter is measured.
const TSC_TIME: Duration = Duration::from_millis(50);

/// What QEMU boots.
pub(crate) struct Boot {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// Compiles the guest, and packs it with the kernel's modules.
pub(crate) fn boot(into: &Path) -> Boot {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let binary = guest::compile(env!("CARGO").as_ref(), root, TARGET, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest")).unwrap();
    let kernel = kernel_directory(root);
    let mut cpio = Cpio::default();
    cpio.add("init", 0o100_755, &fs::read(binary).unwrap());
    cpio.add("modules", 0o040_755, b"");
    for module in MODULES {
        let file = format!("{module}.ko");
        let path = find(&kernel.join("lib/modules"), &|name| name == file);
        let path = path.unwrap_or_else(|| panic!("no {file} below {}", kernel.display()));
        cpio.add(&format!("modules/{file}"), 0o100_644, &fs::read(path).unwrap());
    }
    let order: String = MODULES.iter().map(|module| format!("{module}.ko\n")).collect();
    cpio.add("modules/order", 0o100_644, order.as_bytes());
    cpio.add("TRAILER!!!", 0, b"");
    let initramfs = into.join("initramfs");
    fs::write(&initramfs, cpio.0).unwrap();
    let image = find(&kernel.join("boot"), &|name| name.starts_with("vmlinuz-"));
    Boot { kernel: image.unwrap_or_else(|| panic!("no vmlinuz in {}/boot", kernel.display())), initramfs }
}

/// An unpacked package of a kernel: `boot/vmlinuz-VERSION`, `lib/modules/VERSION`.
fn kernel_directory(root: &Path) -> PathBuf {
    let directory = env::var_os("CODIUS_TEST_GUEST_KERNEL").map_or_else(|| root.join("tests/guest-kernel"), PathBuf::from);
    assert!(directory.join("boot").exists(), "no kernel in {}: say where one is in CODIUS_TEST_GUEST_KERNEL", directory.display());
    directory
}

fn find(directory: &Path, is_it: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.map(|entry| entry.unwrap());
    entries.into_iter().find_map(|entry| {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() { find(&path, is_it) } else { is_it(entry.file_name().to_str()?).then_some(path) }
    })
}

/// An archive as the kernel unpacks it ("newc").
#[derive(Default)]
struct Cpio(Vec<u8>);

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        let numbers = [0, mode, 0, 0, 1, 0, u32::try_from(content.len()).unwrap(), 0, 0, 0, 0, u32::try_from(name.len() + 1).unwrap(), 0];
        self.0.extend_from_slice(b"070701");
        self.0.extend(numbers.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
        for part in [&[name.as_bytes(), b"\0"].concat()[..], content] {
            self.0.extend_from_slice(part);
            self.0.resize(self.0.len().next_multiple_of(4), 0);
        }
    }
}

/// An image of busybox, with files `(path, content)` besides; those in `bin` are executable.
pub(crate) fn image(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    for directory in ["bin", "etc", "tmp"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("busybox-static is installed");
    for applet in run(Command::new("/bin/busybox").arg("--list")).split_whitespace().filter(|applet| *applet != "busybox") {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for (path, content) in [("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\n")].iter().chain(files) {
        fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        fs::write(tree.join(path), content).unwrap();
        let mode = if path.starts_with("bin/") { 0o755 } else { 0o644 };
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let image = dir.path().join("image.erofs");
    run(Command::new("mkfs.erofs").args(["--quiet", "-T0"]).arg(&image).arg(&tree));
    (dir, image)
}

/// An empty disk for a pod.
pub(crate) fn disk(directory: &Path) -> PathBuf {
    let path = directory.join("disk");
    fs::File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-F"]).arg(&path));
    path
}

/// Runs a program, and returns what it says.
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// The rate of this processor's counter, which an emulated machine sees and can't measure.
pub(crate) fn tsc_khz() -> u128 {
    // SAFETY: every x86-64 processor has the counter.
    let count = || u128::from(unsafe { _rdtsc() });
    let (start, from) = (Instant::now(), count());
    while start.elapsed() < TSC_TIME {
        std::hint::spin_loop();
    }
    let (elapsed, counted) = (start.elapsed(), count() - from);
    counted * 1_000_000 / elapsed.as_nanos()
}
