//! A virtual machine with the guest in it, and the host's end of its ports.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use codiusd_guest_protocol::{
    CONTROL_PORT, FROM_GUEST_BYTES_MAX, FromGuest, OUTPUT_PORT, Order, TO_GUEST_BYTES_MAX, ToGuest, VERSION, frame, image_serial,
    output::{self, Stream},
};
use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tempfile::TempDir;

use crate::parts;

/// Longest wait for anything: an emulated machine on a busy host takes ten seconds for what takes two on an idle one.
const WAIT: Duration = Duration::from_secs(90);
const MEMORY_MIB: u32 = 256;
/// Most that is kept of one output; of a flood, the rest is only counted.
const KEPT_BYTES: usize = 1 << 20;

/// One at a time: each takes a processor of its own.
static TURN: Mutex<()> = Mutex::new(());
static INITRAMFS: LazyLock<(TempDir, parts::Boot)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let boot = parts::boot(dir.path());
    (dir, boot)
});

/// A running machine.
pub(crate) struct Machine {
    qemu: Child,
    control: UnixStream,
    output: UnixStream,
    messages: frame::Decoder,
    pieces: output::Decoder,
    /// What each container wrote, by output.
    written: Vec<[Vec<u8>; 2]>,
    /// Bytes of all outputs.
    pub(crate) written_bytes: usize,
    _files: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    /// Boots it with these images, and gives it its order.
    pub(crate) fn boot(images: &[&Path], order: Order) -> Self {
        let mut machine = Self::boot_without_order(images, &order);
        machine.send(&ToGuest::Order(Box::new(order)));
        machine
    }

    /// Lets go of the control port, as a host that has died.
    pub(crate) fn leave(&self) {
        self.control.shutdown(std::net::Shutdown::Both).unwrap();
    }

    fn boot_without_order(images: &[&Path], order: &Order) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let files = tempfile::tempdir().unwrap();
        let ((control, theirs), (output, their_output)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(arguments(&INITRAMFS.1, [theirs.as_raw_fd(), their_output.as_raw_fd()]));
        for (index, image) in images.iter().enumerate() {
            qemu.args(disk(&image_serial(index), image, true));
        }
        if order.bounds.scratch_memory_bytes.is_none() {
            qemu.args(disk("disk", &parts::disk(files.path()), false));
        }
        let inherited = [theirs.as_raw_fd(), their_output.as_raw_fd()];
        let inherit = move || {
            for fd in inherited {
                // SAFETY: changes a flag of a descriptor of this process.
                if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the closure makes one system call per descriptor and allocates nothing.
        unsafe { qemu.pre_exec(inherit) };
        let qemu = qemu.stdin(Stdio::null()).spawn().expect("qemu-system-x86_64 is installed");
        drop((theirs, their_output));
        let mut machine = Self {
            qemu,
            control,
            output,
            messages: frame::Decoder::new(FROM_GUEST_BYTES_MAX),
            pieces: output::Decoder::new(u16::try_from(order.containers.len()).unwrap()),
            written: order.containers.iter().map(|_| Default::default()).collect(),
            written_bytes: 0,
            _files: files,
            _turn: turn,
        };
        assert_eq!(machine.next(), FromGuest::Hello { version: VERSION });
        machine
    }

    /// Boots it, and starts its containers.
    pub(crate) fn start(images: &[&Path], order: Order) -> Self {
        let mut machine = Self::boot(images, order);
        assert_eq!(machine.next(), FromGuest::Created);
        machine.send(&ToGuest::Go);
        assert_eq!(machine.next(), FromGuest::Started);
        machine
    }

    pub(crate) fn send(&mut self, message: &ToGuest) {
        self.control.write_all(&frame::encode(message, TO_GUEST_BYTES_MAX).unwrap()).unwrap();
    }

    /// The next message; outputs are read meanwhile.
    #[track_caller]
    pub(crate) fn next(&mut self) -> FromGuest {
        self.next_while(true)
    }

    /// The next message; outputs aren't read meanwhile.
    #[track_caller]
    pub(crate) fn next_unread(&mut self) -> FromGuest {
        self.next_while(false)
    }

    #[track_caller]
    fn next_while(&mut self, reads: bool) -> FromGuest {
        let deadline = Instant::now() + WAIT;
        loop {
            if let Some(message) = self.messages.message().unwrap() {
                return message;
            }
            assert!(self.turn(reads, deadline), "the machine ended before its next message: {}", self.told());
        }
    }

    /// All further messages, up to the machine's end.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<FromGuest> {
        let (deadline, mut rest) = (Instant::now() + WAIT, Vec::new());
        while self.turn(true, deadline) {
            while let Some(message) = self.messages.message().unwrap() {
                rest.push(message);
            }
        }
        assert!(self.end(deadline).success());
        rest
    }

    #[track_caller]
    fn end(&mut self, deadline: Instant) -> ExitStatus {
        // SAFETY: the process is ours and not reaped; the kernel has just given us this descriptor.
        let ended = unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, self.qemu.id(), 0).try_into().unwrap()) };
        let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        assert!(poll(&mut [PollFd::new(ended.as_fd(), PollFlags::POLLIN)], left).unwrap() > 0, "QEMU doesn't end within {WAIT:?}");
        self.qemu.wait().unwrap()
    }

    /// Reads outputs until this container has written that.
    #[track_caller]
    pub(crate) fn await_output(&mut self, container: usize, text: &str) {
        let deadline = Instant::now() + WAIT;
        while !self.stdout(container).contains(text) {
            assert!(self.turn(true, deadline), "{text:?} is never written: {}", self.told());
        }
    }

    pub(crate) fn stdout(&self, container: usize) -> String {
        String::from_utf8_lossy(&self.written[container][0]).into_owned()
    }

    pub(crate) fn stderr(&self, container: usize) -> String {
        String::from_utf8_lossy(&self.written[container][1]).into_owned()
    }

    /// Everything written so far, for a failed test.
    pub(crate) fn told(&self) -> String {
        let texts = self.written.iter().flatten().map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned());
        texts.collect::<Vec<_>>().join("\n--\n")
    }

    /// Reads what comes next on either port; false at the machine's end.
    #[track_caller]
    fn turn(&mut self, reads: bool, deadline: Instant) -> bool {
        let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        let mut polled = vec![PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
        polled.extend(reads.then(|| PollFd::new(self.output.as_fd(), PollFlags::POLLIN)));
        let ready = poll(&mut polled, left).unwrap();
        assert!(ready > 0, "nothing from the machine within {WAIT:?}: {}", self.told());
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap()).collect();
        let mut buffer = [0; 65536];
        if ready.get(1) == Some(&true) {
            let length = self.output.read(&mut buffer).unwrap();
            let (written, total) = (&mut self.written, &mut self.written_bytes);
            let keep = |container: u16, stream: Stream, content: &[u8]| {
                *total += content.len();
                let kept = &mut written[usize::from(container)][stream as usize];
                kept.extend_from_slice(&content[..content.len().min(KEPT_BYTES.saturating_sub(kept.len()))]);
            };
            self.pieces.feed(&buffer[..length], keep).unwrap();
            return length > 0 || !ready[0];
        }
        let length = self.control.read(&mut buffer).unwrap();
        self.messages.feed(&buffer[..length]);
        length > 0
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill().ok(); // it may have ended
        self.qemu.wait().ok();
    }
}

fn arguments(boot: &parts::Boot, [control, output]: [i32; 2]) -> Vec<String> {
    let kernel = "quiet loglevel=1 reboot=t panic=-1 tsc=reliable random.trust_cpu=on 8250.nr_uarts=0 cryptomgr.notests audit=0 apparmor=0";
    let khz = parts::tsc_khz();
    let text = format!(
        "-name codius-test -M microvm,isa-serial=off,dump-guest-core=off,mem-merge=off -accel tcg,tb-size=32 -cpu max -smp 1 -m {MEMORY_MIB} \
         -nodefaults -no-user-config -display none -no-reboot -monitor none -global virtio-mmio.force-legacy=false \
         -bios /usr/share/qemu/qboot.rom -chardev socket,id=ctl,fd={control} -chardev socket,id=out,fd={output} \
         -device virtio-serial-device,max_ports=4 -device virtserialport,chardev=ctl,name={CONTROL_PORT} \
         -device virtserialport,chardev=out,name={OUTPUT_PORT} -netdev hubport,id=n0,hubid=0 \
         -device virtio-net-device,netdev=n0,mac=02:00:0a:c8:00:02"
    );
    let mut arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let [kernel_file, initramfs] = [&boot.kernel, &boot.initramfs].map(|path| path.display().to_string());
    arguments.extend(["-kernel".to_owned(), kernel_file, "-initrd".to_owned(), initramfs]);
    arguments.extend(["-append".to_owned(), format!("{kernel} tsc_early_khz={khz}")]);
    arguments
}

fn disk(serial: &str, path: &Path, read_only: bool) -> [String; 4] {
    let access = if read_only { "on" } else { "off" };
    let drive = format!(
        "driver=raw,node-name={serial},read-only={access},file.driver=file,file.filename={},file.locking=off,cache.no-flush=on",
        path.display()
    );
    ["-blockdev".to_owned(), drive, "-device".to_owned(), format!("virtio-blk-device,drive={serial},serial={serial}")]
}
