//! The process that becomes QEMU, confined so that a guest that breaks out of its virtual machine holds little more than it had inside.
//!
//! | what | how |
//! |---|---|
//! | user | the pod's first uid and gid, no groups, no capabilities (bounding set empty), `no_new_privs` |
//! | namespaces | its own pid, mount, ipc, uts and cgroup namespaces; the pod's network namespace, where no link but loopback has an address |
//! | files | a read-only tmpfs as root, with `/usr` read-only, kernel, initramfs, three devices; no `/proc`, `/sys`, `/etc` |
//! | descriptors | those of the command line; standard streams lead to `/dev/null` and to the shim, which keeps a limited part |
//! | resources | the pod's control group, resource limits |
//! | system calls | none of `filter`, and QEMU's own `-sandbox` |
//! | lifetime | SIGKILL when the shim ends, however it ends |

use std::{
    convert::Infallible,
    ffi::CString,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt, fs::symlink},
    },
    path::Path,
};

use codiusd_container_rootfs::confinement::CORE_BYTES;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::Signal,
        stat::{Mode, SFlag, makedev, mknod},
    },
    unistd::{self, Gid, Pid, Uid, pipe2},
};

use seccompiler::BpfProgram;

use super::{
    super::{BENCH, Failure, Step, sys},
    filter,
};
use crate::embedded::cgroup;

/// Where the kernel is inside the jail.
pub(super) const KERNEL: &str = "/kernel";
/// Where the initramfs is inside the jail.
pub(super) const INITRAMFS: &str = "/initramfs";

/// Open files of QEMU: a descriptor per device and a few of its own.
const OPEN_FILES: u64 = 256;
/// Size of the jail's root: directories and device nodes only.
const ROOT_BYTES: u64 = 1 << 20;
/// Longest report of a process that couldn't be confined, in bytes.
const REPORT_BYTES_MAX: u64 = 4096;
/// Highest number of a capability that the bounding set can have.
const CAPABILITIES: libc::c_ulong = 64;
const GO: u8 = b'+';

/// What runs in the jail.
pub(super) struct Program<'a> {
    /// Path of QEMU, below `/usr`.
    pub(super) exe: &'a Path,
    pub(super) arguments: Vec<String>,
    /// Descriptors named in the arguments.
    pub(super) descriptors: Vec<RawFd>,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// Host user and group.
    pub(super) user: u32,
    /// When memory is short, it is killed before any process of the host.
    pub(super) oom_score_adj: i32,
    /// Whether it gets `/dev/kvm`.
    pub(super) kvm: bool,
    /// Where its messages go.
    pub(super) errors: OwnedFd,
}

/// Starts the program in the control group `group`; it ends with the calling process.
pub(super) fn spawn(program: &Program<'_>, netns: BorrowedFd<'_>, group: &Path) -> Result<Pid, Failure> {
    let step = "starting the virtual machine";
    let (gate, go) = pipe2(OFlag::O_CLOEXEC).step(step)?;
    let (report, reporting) = pipe2(OFlag::O_CLOEXEC).step(step)?;
    let filters = filter::filters().step("compiling the system call filter")?;
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::SIGCHLD;
    // SAFETY: without a stack this is a fork, and the shim has one thread, so the child may continue as an ordinary program.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        drop((go, report));
        let Err(error) = confine_and_execute(program, netns, gate, &filters);
        File::from(reporting).write_all(error.to_string().as_bytes()).ok();
        sys::exit_child(1);
    }
    drop((gate, reporting));
    let pid = Pid::from_raw(
        Errno::result(child).map_err(io::Error::from).and_then(|pid| i32::try_from(pid).map_err(io::Error::other)).step(step)?,
    );
    cgroup::join_process(group, pid).step("putting the virtual machine into its control group")?;
    fs::write(format!("/proc/{pid}/oom_score_adj"), program.oom_score_adj.to_string()).step("setting the virtual machine's OOM score")?;
    // Open until the program executes: that is how it knows that the shim still lives.
    let mut go = File::from(go);
    go.write_all(&[GO]).step(step)?;
    let mut text = String::new();
    File::from(report).take(REPORT_BYTES_MAX).read_to_string(&mut text).step(step)?;
    if text.is_empty() { Ok(pid) } else { Err(io::Error::other(text)).step("confining the virtual machine") }
}

fn confine_and_execute(program: &Program<'_>, netns: BorrowedFd<'_>, gate: OwnedFd, filters: &[BpfProgram]) -> io::Result<Infallible> {
    let at = |step: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{step}: {error}"));
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut byte = [0];
    let mut gate = File::from(gate);
    gate.read_exact(&mut byte)?; // in its control group now
    unistd::setsid()?;
    unshare(CloneFlags::CLONE_NEWCGROUP)?; // its root is the group just entered
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).map_err(at("entering the network namespace"))?;
    make_root(program).map_err(at("making the root"))?;
    standard_streams(program).map_err(at("opening the standard streams"))?;
    keep_descriptors(&program.descriptors).map_err(at("keeping descriptors"))?;
    for (resource, value) in [(Resource::RLIMIT_CORE, CORE_BYTES), (Resource::RLIMIT_NOFILE, OPEN_FILES), (Resource::RLIMIT_MEMLOCK, 0)] {
        setrlimit(resource, value, value)?;
    }
    drop_privileges(program.user).map_err(at("dropping privileges"))?;
    // Changing the user has cleared it. If the shim died in between, the gate's other end is closed.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut polled = [PollFd::new(gate.as_fd(), PollFlags::POLLIN)];
    let closed = |found: PollFlags| found.contains(PollFlags::POLLHUP);
    if poll(&mut polled, PollTimeout::ZERO)? > 0 && polled[0].revents().is_some_and(closed) {
        return Err(io::Error::other("the shim has ended"));
    }
    sys::default_signals()?;
    let filtered = filters.iter().try_for_each(|filter| seccompiler::apply_filter(filter));
    filtered.map_err(io::Error::other).map_err(at("applying the system call filter"))?;
    let exe = CString::new(program.exe.as_os_str().as_bytes())?;
    let name = program.exe.file_name().map_or_else(Vec::new, |name| name.as_bytes().to_vec());
    let arguments = program.arguments.iter().map(|argument| CString::new(argument.as_bytes()));
    let arguments = std::iter::once(CString::new(name)).chain(arguments).collect::<Result<Vec<_>, _>>()?;
    let nothing: [CString; 0] = [];
    unistd::execve(&exe, &arguments, &nothing).map_err(io::Error::from).map_err(at("executing QEMU"))
}

/// Makes a tmpfs with what QEMU needs the root directory.
fn make_root(program: &Program<'_>) -> io::Result<()> {
    // What the host mounts later must not appear in here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    let root = Path::new(BENCH).join("jail");
    directory(&root)?;
    let options = format!("mode=0755,size={ROOT_BYTES}");
    mount(Some("jail"), &root, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some(&*options))?;
    directory(&root.join("usr"))?;
    show(Path::new("/usr"), &root.join("usr"), MsFlags::empty())?;
    for name in ["lib", "lib64"] {
        let (host, inside) = (Path::new("/").join(name), root.join(name));
        match fs::read_link(&host) {
            Ok(target) => symlink(target, inside)?,
            Err(_) if host.is_dir() => directory(&inside).and_then(|()| show(&host, &inside, MsFlags::empty()))?,
            Err(_) => {}
        }
    }
    for (host, inside) in [(program.kernel, KERNEL), (program.initramfs, INITRAMFS)] {
        let inside = root.join(inside.trim_start_matches('/'));
        File::create(&inside)?;
        show(host, &inside, MsFlags::MS_NOEXEC)?;
    }
    directory(&root.join("dev"))?;
    let devices: &[(&str, u64)] = &[("null", makedev(1, 3)), ("urandom", makedev(1, 9))];
    for (name, device) in devices {
        make_device(&root.join("dev").join(name), *device, 0)?;
    }
    if program.kvm {
        let device = std::os::unix::fs::MetadataExt::rdev(&fs::metadata("/dev/kvm")?);
        make_device(&root.join("dev/kvm"), device, program.user)?;
    }
    std::env::set_current_dir(&root)?;
    unistd::pivot_root(".", ".")?; // the old root is below the new one now
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(io::Error::from)
}

fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)
}

/// Mounts a file or directory of the host read-only.
fn show(host: &Path, inside: &Path, more: MsFlags) -> io::Result<()> {
    mount(Some(host), inside, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | more;
    mount(None::<&str>, inside, None::<&str>, flags, None::<&str>).map_err(io::Error::from)
}

/// A device node that its owner may open; user 0: anybody may.
fn make_device(path: &Path, device: u64, owner: u32) -> io::Result<()> {
    let mode = if owner == 0 { Mode::from_bits_truncate(0o666) } else { Mode::from_bits_truncate(0o600) };
    mknod(path, SFlag::S_IFCHR, mode, device)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode.bits()))?; // whatever the umask
    std::os::unix::fs::chown(path, Some(owner), Some(owner))
}

fn standard_streams(program: &Program<'_>) -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    unistd::dup2(null.as_raw_fd(), libc::STDIN_FILENO)?;
    unistd::dup2(program.errors.as_raw_fd(), libc::STDOUT_FILENO)?;
    unistd::dup2(program.errors.as_raw_fd(), libc::STDERR_FILENO)?;
    Ok(())
}

/// Closes every other descriptor at the execution of the program.
fn keep_descriptors(kept: &[RawFd]) -> io::Result<()> {
    // SAFETY: marks descriptors only.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(marked)?;
    for descriptor in kept {
        fcntl(*descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

fn drop_privileges(user: u32) -> io::Result<()> {
    for capability in 0..CAPABILITIES {
        // SAFETY: plain numbers.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(dropped) {
            Err(Errno::EINVAL) => break, // the kernel has no more
            done => done.map(drop)?,
        }
    }
    unistd::setgroups(&[])?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    unistd::setresgid(gid, gid, gid)?;
    unistd::setresuid(uid, uid, uid)?; // clears the other capability sets
    prctl::set_no_new_privs().map_err(io::Error::from)
}
