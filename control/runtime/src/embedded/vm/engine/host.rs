//! What the host has to run virtual machines: QEMU, its firmware, KVM, and the processor's clock.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::{Deserialize, Serialize};

const PROGRAM: &str = "qemu-system-x86_64";
/// The Debian package that brings program and firmware.
const PACKAGE: &str = "qemu-system-x86";
const PROGRAM_DIRS: &[&str] = &["/usr/bin", "/usr/local/bin"];
/// The firmware that starts a kernel fastest.
const FIRMWARE: &str = "qboot.rom";
const FIRMWARE_DIRS: &[&str] = &["/usr/share/qemu", "/usr/local/share/qemu"];
/// Time that QEMU has to say its version.
const VERSION_TIME: Duration = Duration::from_secs(10);
/// Maximum size of that answer, in bytes.
const VERSION_BYTES_MAX: usize = 4096;

const KVM_DEVICE: &str = "/dev/kvm";
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;
/// The only version there has been since 2007.
const KVM_API_VERSION: i32 = 12;

/// An installed QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Engine {
    /// The program.
    pub(crate) program: PathBuf,
    /// The firmware that starts a kernel.
    pub(crate) firmware: PathBuf,
    /// As it says itself, with the distribution's number: `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
    pub(crate) version: String,
}

/// Finds QEMU and its firmware.
pub(crate) fn find() -> io::Result<Engine> {
    let program = find_file(PROGRAM, PROGRAM_DIRS)?;
    let firmware = find_file(FIRMWARE, FIRMWARE_DIRS)?;
    let version = version(&program, VERSION_TIME)
        .map_err(|error| io::Error::new(error.kind(), format!("{} --version: {error}", program.display())))?;
    Ok(Engine { program, firmware, version })
}

fn find_file(name: &str, dirs: &[&str]) -> io::Result<PathBuf> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no {name} in {}; install {PACKAGE}", dirs.join(" or ")));
    dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file()).ok_or_else(missing)
}

pub(super) fn version(program: &Path, limit: Duration) -> io::Result<String> {
    let command = Command::new(program).arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = command?;
    let answer = answer(&mut child, limit);
    // What it said counts, however it ends.
    child.kill()?;
    child.wait()?;
    parse_version(&answer?).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer of QEMU"))
}

/// What the program writes until it closes its output.
fn answer(child: &mut Child, limit: Duration) -> io::Result<String> {
    let mut output = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
    let deadline = Instant::now() + limit;
    let (mut answer, mut piece) = (Vec::new(), [0; 512]);
    loop {
        let left = PollTimeout::try_from(deadline.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => continue,
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))),
            ready => ready?,
        };
        let length = output.read(&mut piece)?;
        answer.extend_from_slice(piece.get(..length).unwrap_or_default());
        if length == 0 || answer.len() > VERSION_BYTES_MAX {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

fn parse_version(answer: &str) -> Option<String> {
    let version = answer.lines().next()?.strip_prefix("QEMU emulator version ")?.trim();
    (!version.is_empty()).then(|| version.to_owned())
}

/// Whether KVM is there and may be used. Necessary, not sufficient: only a guest that has started proves that KVM can run one.
pub(crate) fn kvm() -> io::Result<()> {
    let of_kvm = |error: io::Error| io::Error::new(error.kind(), format!("{KVM_DEVICE}: {error}"));
    let device = OpenOptions::new().read(true).write(true).open(KVM_DEVICE).map_err(of_kvm)?;
    // SAFETY: this request takes no argument.
    let version = Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION) });
    match version.map_err(|errno| of_kvm(errno.into()))? {
        KVM_API_VERSION => Ok(()),
        other => Err(io::Error::other(format!("{KVM_DEVICE} has version {other}, not {KVM_API_VERSION}"))),
    }
}

/// Frequency of the processor's clock, in kHz; none if it has no such clock.
#[cfg(target_arch = "x86_64")]
pub(super) fn tsc_khz() -> Option<u64> {
    use rustix::time::{ClockId, clock_gettime};

    /// Longer is more exact: this is exact enough for a guest whose clock the host sets now and then.
    const MEASURED: Duration = Duration::from_millis(20);
    /// Of several readings the one with the least delay between both clocks counts: this process may lose the processor at any time.
    const READINGS: usize = 16;

    let now = || {
        let time = clock_gettime(ClockId::MonotonicRaw);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    let reading = || {
        let before = now();
        // SAFETY: every processor of this architecture has the instruction, and Linux lets programs use it.
        let ticks = unsafe { core::arch::x86_64::_rdtsc() };
        (now() - before, before, ticks)
    };
    let best = || (0..READINGS).map(|_| reading()).min().map(|(_, time, ticks)| (time, ticks));
    let (start, first) = best()?;
    std::thread::sleep(MEASURED);
    let (end, last) = best()?;
    u64::try_from(i128::from(last.checked_sub(first)?).checked_mul(1_000_000)?.checked_div(end - start)?).ok()
}

/// Frequency of the processor's clock, in kHz; none if it has no such clock.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn tsc_khz() -> Option<u64> {
    None
}
