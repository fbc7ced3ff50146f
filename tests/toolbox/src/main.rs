//! What a hostile pod would try. One action per run, told by the arguments; it says in one line whether it worked
//! (`done ...`) or what stopped it (`refused ...`), and leaves nothing that outlives it.
//!
//! The same binary runs in pods, where its actions must come to nothing, and on the host or in pods that lack one defence,
//! where they must work: that shows that the attack is one.

mod calls;
mod places;
mod stores;

use std::{
    io,
    process::ExitCode,
    time::{Duration, Instant},
};

/// Why an action didn't work.
pub(crate) enum Refusal {
    /// The kernel says so.
    Errno(io::Error),
    /// It can be seen.
    Seen(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Errno(error)
    }
}

/// What an action came to; what it did, for those who read along.
pub(crate) type Outcome = Result<String, Refusal>;

/// The last system call's error, as a refusal.
pub(crate) fn refused<T>() -> Result<T, Refusal> {
    Err(Refusal::Errno(io::Error::last_os_error()))
}

/// The result of a system call that says -1 when it fails.
pub(crate) fn check(result: libc::c_long) -> Outcome {
    if result < 0 { refused() } else { Ok(String::new()) }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["again", seconds, action @ ..] => again(Duration::from_secs(number(seconds)), action),
        ["serve", port] => places::serve(number(port)),
        _ => words.split(|word| *word == "+").for_each(in_child),
    }
    ExitCode::SUCCESS
}

/// One action after the other, each in a process of its own: some change what they are.
fn in_child(action: &[&str]) {
    // SAFETY: this process has one thread; the child ends here.
    match unsafe { libc::fork() } {
        -1 => println!("refused {}", io::Error::last_os_error()),
        0 => {
            say(perform(action));
            std::process::exit(0);
        }
        child => {
            let mut status = 0;
            // SAFETY: the child is ours, the number lives through the call.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            if !libc::WIFEXITED(status) {
                println!("refused killed by signal {}", libc::WTERMSIG(status));
            }
        }
    }
}

/// The same action for some time, to be a nuisance to others.
fn again(time: Duration, action: &[&str]) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        // Not said: what it comes to isn't the point.
        drop(perform(action));
    }
    println!("enough");
}

fn say(outcome: Outcome) {
    match outcome {
        Ok(what) => println!("done {what}"),
        Err(Refusal::Errno(error)) => println!("refused {error}"),
        Err(Refusal::Seen(why)) => println!("refused {why}"),
    }
}

fn perform(words: &[&str]) -> Outcome {
    match *words {
        ["call", name] => calls::call(name),
        ["socket", family, kind, protocol] => calls::socket(number(family), number(kind), number(protocol)),
        ["fork", count] => stores::fork(number(count)),
        ["memory", mib] => stores::memory(number(mib)),
        ["write", path, mib] => stores::write(path, number(mib)),
        ["files", directory, count] => stores::files(directory, number(count)),
        ["descriptors", count] => stores::descriptors(number(count)),
        ["sockets", count] => stores::sockets(number(count)),
        ["flood", milliseconds, most] => stores::flood(number(milliseconds), number(most)),
        ["dump-core"] => stores::dump_core(),
        ["open-to-write", path] => places::open_to_write(path),
        ["read", path] => places::read(path),
        ["read-directory", path] => Ok(format!("{} entries", std::fs::read_dir(path).map_err(Refusal::from)?.count())),
        ["make-writable", path] => places::make_writable(path),
        ["mount-groups", kind, controller] => places::mount_groups(kind, controller),
        ["escape", path] => places::escape(path),
        ["environment", text] => places::environment(text),
        ["signal", pid] => places::signal(number(pid)),
        ["lower-oom-score"] => places::lower_oom_score(),
        ["become-root"] => places::become_root(),
        ["device", path] => places::device(path),
        ["abstract-socket", name] => places::abstract_socket(name),
        ["wait", path] => places::wait(path),
        _ => Err(Refusal::Seen(format!("there is no action {words:?}"))),
    }
}

fn number<T: std::str::FromStr + Default>(text: &str) -> T {
    text.parse().unwrap_or_default()
}
