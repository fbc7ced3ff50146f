//! A guest that really starts: QEMU without KVM, Debian's kernel, and busybox as first process. Requires root and QEMU.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::{
            fs::{FileExt, OpenOptionsExt},
            net::UnixStream,
            process::CommandExt,
        },
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use codiusd_guest_protocol::{CONTROL_PORT, DISK_SERIAL, image_serial};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sched::{CloneFlags, unshare},
};

use super::{
    engine::{self, Accelerator, IMAGES_MAX, Layout},
    fixtures, kernel,
};

/// What the guest has to do anything; it takes two seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
const MAC: [u8; 6] = [2, 0, 10, 200, 1, 2];
/// Size of each image and of the disk.
const DEVICE_BYTES: u64 = 1 << 20;

/// Loads the modules, and says on the control port what the machine has. Takes the place of the guest's own first process.
const INIT: &str = r#"#!/busybox sh
b=/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done </modules/order
until $b grep -qx codius.control /sys/class/virtio-ports/*/name; do $b usleep 1000; done
for port in /sys/class/virtio-ports/*; do
  read -r name <"$port/name"
  [ "$name" != codius.control ] || control=/dev/${port##*/}
done
exec 3<>"$control"
echo ready >&3
echo "release $($b uname -r)" >&3
echo "vcpus $($b nproc)" >&3
echo "mac $($b cat /sys/class/net/eth0/address)" >&3
echo "memory $($b awk '/MemTotal/ {print $2}' /proc/meminfo)" >&3
for disk in /sys/block/vd*; do
  serial=$($b cat "$disk/serial")
  echo "block $serial $($b cat "$disk/ro") $($b head -c 7 "/dev/${disk##*/}" | $b tr -d '\0')" >&3
  if [ "$serial" = disk ]; then echo written | $b dd of="/dev/${disk##*/}" conv=fsync 2>/dev/null; fi
done
for kind in erofs overlay ext4; do echo "fs $($b grep -w "$kind" /proc/filesystems)" >&3; done
echo end >&3
read -r word <&3
$b poweroff -f
"#;

/// Ends the machine, however the test ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.kill().ok(); // it may have exited
        self.0.wait().unwrap();
    }
}

/// A tap device in a network namespace that exists as long as it.
fn tap() -> File {
    let apart = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // struct ifreq: the name, then IFF_TAP | IFF_NO_PI | IFF_VNET_HDR.
        let mut request = [0_u8; 40];
        request[..4].copy_from_slice(b"tap0");
        request[16..18].copy_from_slice(&0x5002_u16.to_le_bytes());
        // SAFETY: the structure lives through the call (TUNSETIFF) and is as long as the kernel's.
        Errno::result(unsafe { libc::ioctl(tap.as_raw_fd(), 0x4004_54ca, request.as_mut_ptr()) }).unwrap();
        tap
    };
    thread::spawn(apart).join().unwrap()
}

/// QEMU, which inherits these descriptors and no others.
fn start(arguments: &[String], inherited: Vec<RawFd>) -> Machine {
    let mut qemu = Command::new(engine::find().unwrap().program);
    qemu.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let inherit = move || {
        for fd in &inherited {
            fcntl(*fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe { qemu.pre_exec(inherit) };
    Machine(qemu.spawn().unwrap())
}

/// The archive with busybox behind it: the kernel unpacks one after another.
fn with_busybox(initramfs: &Path) -> Vec<u8> {
    let bsdtar = Command::new("bsdtar").args(["-c", "-f", "-", "--format", "newc", "-C", "/bin", "busybox"]).output().unwrap();
    assert!(bsdtar.status.success(), "{}", String::from_utf8_lossy(&bsdtar.stderr));
    [fs::read(initramfs).unwrap(), bsdtar.stdout].concat()
}

fn device(dir: &Path, name: &str, writes: bool) -> File {
    let path = dir.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(DEVICE_BYTES).unwrap();
    file.write_all_at(name.as_bytes(), 0).unwrap();
    let direct = if writes { libc::O_DIRECT } else { 0 };
    OpenOptions::new().read(true).write(writes).custom_flags(direct).open(path).unwrap()
}

/// What the guest says, up to `end`.
fn report(control: &UnixStream, qemu: &mut Machine) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(control).lines().map_while(Result::ok) {
        if line == "end" {
            return lines;
        }
        lines.push(line);
    }
    qemu.0.kill().unwrap();
    let mut errors = String::new();
    qemu.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    panic!("waited {LIMIT:?} for the guest's report on {CONTROL_PORT}: {lines:?}; QEMU says {errors:?}");
}

#[test]
fn debians_kernel_starts_and_finds_every_device() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let kernel = kernel::prepare(&fixtures::debian(), dir.path(), INIT.as_bytes()).unwrap();
    let prepared = began.elapsed();
    let initramfs = dir.path().join("initramfs");
    fs::write(&initramfs, with_busybox(&kernel.initramfs)).unwrap();
    let images: Vec<File> = (0..IMAGES_MAX).map(|index| device(dir.path(), &image_serial(index), false)).collect();
    let image_fds: Vec<RawFd> = images.iter().map(AsRawFd::as_raw_fd).collect();
    let disk = device(dir.path(), DISK_SERIAL, true);
    let ((mut control, control_end), (mut output, output_end)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let tap = tap();
    let layout = Layout {
        name: "test",
        accelerator: Accelerator::Tcg,
        vcpus: 2,
        memory_bytes: engine::guest_memory(256 * MIB),
        kernel: &kernel.vmlinux,
        initramfs: &initramfs,
        firmware: &engine::find().unwrap().firmware,
        control: control_end.as_raw_fd(),
        output: output_end.as_raw_fd(),
        tap: tap.as_raw_fd(),
        mac: MAC,
        images: &image_fds,
        disk: Some(disk.as_raw_fd()),
    };
    let inherited = [&[layout.control, layout.output, layout.tap, disk.as_raw_fd()][..], &image_fds].concat();
    let arguments = engine::arguments(&layout);
    let began = Instant::now();
    let mut qemu = start(&arguments, inherited);
    drop((control_end, output_end, tap));
    control.set_read_timeout(Some(LIMIT)).unwrap();
    output.set_read_timeout(Some(LIMIT)).unwrap();
    let mut first = [0; 6];
    let ready = control.read_exact(&mut first).map(|()| began.elapsed());
    let found = report(&control, &mut qemu);
    println!("kernel prepared in {prepared:?}, {} started in {:?}", kernel.release, ready.unwrap());

    assert_eq!(&first, b"ready\n");
    let mut expected = vec![format!("release {}", kernel.release), "vcpus 2".to_owned(), "mac 02:00:0a:c8:01:02".to_owned()];
    assert_eq!(found[..3], expected);
    let kib: u64 = found[3].strip_prefix("memory ").unwrap().parse().unwrap();
    assert!(kib * 1024 > 256 * MIB, "the machine has more memory than was bought: {kib} KiB");
    let mut blocks = found[4..4 + IMAGES_MAX + 1].to_vec();
    blocks.sort();
    expected = (0..IMAGES_MAX).map(image_serial).map(|serial| format!("block {serial} 1 {serial}")).collect();
    expected.push("block disk 0 disk".to_owned());
    expected.sort();
    assert_eq!(blocks, expected);
    assert_eq!(
        found[4 + IMAGES_MAX + 1..].join(" ").split_whitespace().collect::<Vec<_>>(),
        ["fs", "erofs", "fs", "nodev", "overlay", "fs", "ext4"]
    );

    let began = Instant::now();
    control.write_all(b"off\n").unwrap();
    // The output's end means that QEMU has exited.
    assert_eq!(output.read(&mut [0]).expect("QEMU exits when its guest has powered off"), 0);
    assert!(qemu.0.wait().unwrap().success());
    println!("powered off in {:?}", began.elapsed());
    assert!(fs::read(dir.path().join(DISK_SERIAL)).unwrap().starts_with(b"written\n"));
}
