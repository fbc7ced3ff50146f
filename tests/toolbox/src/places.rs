//! Going where a pod has no business.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
};

use crate::{Outcome, Refusal, check};

/// Opens what exists for writing; writes nothing.
pub(crate) fn open_to_write(path: &str) -> Outcome {
    OpenOptions::new().write(true).open(path)?;
    Ok(String::new())
}

/// Reads something of a file.
pub(crate) fn read(path: &str) -> Outcome {
    let mut some = [0; 16];
    match File::open(path)?.read(&mut some)? {
        0 => Err(Refusal::Seen("it is empty".to_owned())),
        length => Ok(format!("{length} bytes")),
    }
}

/// Makes a mount it inherits writable, with all capabilities in namespaces of its own.
pub(crate) fn make_writable(path: &str) -> Outcome {
    own_namespaces()?;
    let path = std::ffi::CString::new(path).map_err(io::Error::from)?;
    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: the path is a C string for the length of the call; what is null may be.
    check(unsafe { libc::mount(std::ptr::null(), path.as_ptr(), std::ptr::null(), flags, std::ptr::null()) }.into())
}

/// Mounts a hierarchy of control groups anew, and makes a group in it.
pub(crate) fn mount_groups(kind: &str, controller: &str) -> Outcome {
    own_namespaces()?;
    let at = "groups";
    fs::create_dir_all(at)?;
    let text = |text: &str| std::ffi::CString::new(text).map_err(io::Error::from);
    let (target, kind, options) = (text(at)?, text(kind)?, text(controller)?);
    // SAFETY: C strings for the length of the call.
    check(unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) }.into())?;
    let group = format!("{at}/attack-{}", std::process::id());
    fs::create_dir(&group)?;
    fs::remove_dir(group)?;
    Ok(String::new())
}

/// Namespaces for mounts and control groups: as root, or as whoever is root in a namespace of users of its own.
fn own_namespaces() -> Outcome {
    let wanted = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    // SAFETY: plain numbers.
    if unsafe { libc::unshare(wanted) } != 0 {
        // SAFETY: as above.
        check(unsafe { libc::unshare(libc::CLONE_NEWUSER | wanted) }.into())?;
    }
    let (none, root) = (std::ptr::null(), c"/");
    // SAFETY: the path is a C string; what is null may be. What is mounted from here on is in no other namespace.
    check(unsafe { libc::mount(none, root.as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) }.into())
}

/// Reads a file of the host by all ways out of a root directory that ever worked.
pub(crate) fn escape(path: &str) -> Outcome {
    let below = path.trim_start_matches('/');
    let up = "../".repeat(40);
    let mut ways: Vec<PathBuf> = vec![
        path.into(),
        format!("/{up}{below}").into(),
        format!("/proc/1/root/{below}").into(),
        format!("/proc/1/cwd/{up}{below}").into(),
        format!("/proc/self/root/{up}{below}").into(),
        format!("/proc/self/cwd/{up}{below}").into(),
        format!("/proc/thread-self/root/{below}").into(),
        format!("/dev/fd/../../../{below}").into(),
    ];
    for entry in fs::read_dir("/proc/self/fd")?.chain(fs::read_dir("/proc/1/fd").into_iter().flatten()) {
        ways.push(entry?.path().join(&up).join(below));
    }
    let link = Path::new("/dev/shm/way-out");
    for target in [path.to_owned(), format!("{up}{below}"), format!("/proc/1/root/{below}")] {
        fs::remove_file(link).ok();
        if std::os::unix::fs::symlink(target, link).is_ok() && fs::read(link).is_ok() {
            fs::remove_file(link).ok();
            return Ok("by a link".to_owned());
        }
    }
    fs::remove_file(link).ok();
    let tried = ways.len();
    match ways.into_iter().find(|way| fs::read(way).is_ok()) {
        Some(way) => Ok(format!("as {}", way.display())),
        None => Err(Refusal::Seen(format!("none of {tried} ways and 3 links leads there"))),
    }
}

/// Looks for a text in the environment of every process but its own.
pub(crate) fn environment(text: &str) -> Outcome {
    let own = std::process::id().to_string();
    let mut looked_at = 0;
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let number = process.file_name().to_string_lossy().into_owned();
        if number == own || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        looked_at += 1;
        let found = fs::read(process.path().join("environ")).unwrap_or_default();
        if found.windows(text.len()).any(|part| part == text.as_bytes()) {
            return Ok(format!("in process {number}"));
        }
    }
    Err(Refusal::Seen(format!("not in the {looked_at} other processes there are")))
}

/// Asks whether a process could be signalled.
pub(crate) fn signal(pid: i32) -> Outcome {
    // SAFETY: plain numbers; 0 is no signal.
    check(unsafe { libc::kill(pid, 0) }.into())
}

/// Asks the kernel to kill others first.
pub(crate) fn lower_oom_score() -> Outcome {
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    Ok(String::new())
}

/// Looks whether a set-user-ID program has another user than who ran it.
pub(crate) fn become_root() -> Outcome {
    // SAFETY: always allowed.
    let (real, effective) = unsafe { (libc::getuid(), libc::geteuid()) };
    if real != 0 && effective == 0 {
        Ok(format!("user {real} is root"))
    } else {
        Err(Refusal::Seen(format!("user {real} acts as {effective}")))
    }
}

/// Makes a device node of the first disk; where that works, opens it.
pub(crate) fn device(path: &str) -> Outcome {
    let path = std::ffi::CString::new(path).map_err(io::Error::from)?;
    // Memory (1:1) is there on every machine.
    let number = libc::makedev(1, 3);
    // SAFETY: the path is a C string for the length of the calls.
    let outcome = check(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, number) }.into());
    // SAFETY: as above.
    unsafe { libc::unlink(path.as_ptr()) };
    outcome
}

/// Connects to a socket that has no file.
pub(crate) fn abstract_socket(name: &str) -> Outcome {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    Ok(String::new())
}

/// An honest page, for others to be a nuisance to.
pub(crate) fn serve(port: u16) {
    let listener = std::net::TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    println!("serving");
    for mut stream in listener.incoming().flatten() {
        let mut request = [0; 1024];
        // Who goes away early doesn't matter.
        if stream.read(&mut request).is_ok() {
            drop(io::Write::write_all(&mut stream, b"HTTP/1.0 200 OK\r\n\r\nstill here"));
        }
    }
}

/// Says that it is there, and waits for its end.
pub(crate) fn wait(path: &str) -> Outcome {
    fs::write(path, "secret")?;
    println!("waiting");
    loop {
        std::thread::park();
    }
}
