//! Taking as much as there is of what others need, too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

use crate::{Outcome, Refusal, refused};

const MIB: usize = 1 << 20;

/// `count` processes at once.
pub(crate) fn fork(count: usize) -> Outcome {
    let mut children = Vec::new();
    let outcome = loop {
        if children.len() == count {
            break Ok(format!("{count} processes"));
        }
        // SAFETY: this process has one thread, and the child does nothing but wait for its end.
        match unsafe { libc::fork() } {
            -1 => break refused(),
            0 => loop {
                // SAFETY: always allowed.
                unsafe { libc::pause() };
            },
            child => children.push(child),
        }
    };
    for child in children {
        // SAFETY: plain numbers; the child is ours and not waited for yet.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    outcome
}

/// A child that has this much memory and uses it.
pub(crate) fn memory(mib: usize) -> Outcome {
    in_child(|| {
        let mut held = vec![0_u8; mib * MIB];
        held.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        std::hint::black_box(&held);
    })
}

/// A child that crashes, with all the core dump it can have.
pub(crate) fn dump_core() -> Outcome {
    let crashed = child_status(|| {
        // SAFETY: the structure lives through the call.
        unsafe {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
        }
        std::process::abort();
    })?;
    if libc::WCOREDUMP(crashed) { Ok("a core dump".to_owned()) } else { Err(Refusal::Seen("no core was dumped".to_owned())) }
}

fn in_child(action: impl FnOnce()) -> Outcome {
    let status = child_status(action)?;
    if libc::WIFEXITED(status) {
        Ok(String::new())
    } else {
        Err(Refusal::Seen(format!("killed by signal {}; its parent lives", libc::WTERMSIG(status))))
    }
}

fn child_status(action: impl FnOnce()) -> Result<i32, Refusal> {
    // SAFETY: this process has one thread; the child ends here.
    match unsafe { libc::fork() } {
        -1 => refused(),
        0 => {
            action();
            // SAFETY: always allowed.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the child is ours, the number lives through the call.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            Ok(status)
        }
    }
}

/// A file of this size; on the disk, or as far as it goes.
pub(crate) fn write(path: &str, mib: usize) -> Outcome {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let piece = vec![0xa5; MIB];
    let written = (0..mib).try_for_each(|_| file.write_all(&piece)).and_then(|()| file.sync_all());
    fs::remove_file(path)?;
    written?;
    Ok(format!("{mib} MiB"))
}

/// Empty files.
pub(crate) fn files(directory: &str, count: usize) -> Outcome {
    let directory = Path::new(directory).join("many");
    fs::create_dir(&directory)?;
    let made: io::Result<()> = (0..count).try_for_each(|number| File::create(directory.join(number.to_string())).map(drop));
    fs::remove_dir_all(directory)?;
    made?;
    Ok(format!("{count} files"))
}

/// Files open at once.
pub(crate) fn descriptors(count: usize) -> Outcome {
    let open: io::Result<Vec<File>> = (0..count).map(|_| File::open("/dev/null")).collect();
    Ok(format!("{} descriptors", open?.len()))
}

/// Sockets open at once, each listening.
pub(crate) fn sockets(count: usize) -> Outcome {
    let open: io::Result<Vec<_>> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect();
    Ok(format!("{} sockets", open?.len()))
}

/// Lines without end, until the time is over or there were more than `most` bytes.
pub(crate) fn flood(milliseconds: u64, most: usize) -> Outcome {
    let (until, mut written) = (Instant::now() + Duration::from_millis(milliseconds), 0);
    // Lines of nothing take the most work for each byte.
    let lines = [b'\n'; 4096];
    let mut out = io::stdout().lock();
    while Instant::now() < until && written <= most {
        out.write_all(&lines)?;
        written += lines.len();
    }
    if written > most {
        Ok(format!("{written} lines"))
    } else {
        Err(Refusal::Seen(format!("slowed down to {written} lines in {milliseconds} ms")))
    }
}
