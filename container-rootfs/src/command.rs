//! The program a container executes: how it is found, and why the kernel refused to execute it.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use crate::{identity::Identity, root::Root};

/// Number of bytes of a program that are read: more than the kernel itself reads.
const HEAD_MAX: u64 = 64 << 10;
/// Longest first line of a script the kernel reads, in bytes.
const SCRIPT_LINE_MAX: usize = 256;
/// A loader or an interpreter is a program, too; the kernel follows up to four.
const INTERPRETERS_MAX: usize = 5;

/// Who executes what, and from where.
pub(crate) struct Command<'a> {
    pub(crate) root: &'a Root,
    pub(crate) who: &'a Identity,
    pub(crate) uid_base: u32,
    /// Working directory.
    pub(crate) cwd: &'a Path,
}

impl Command<'_> {
    /// The program's path: unchanged if it contains a `/`, otherwise the first executable of that name in the container's PATH.
    pub(crate) fn find(&self, argv: &[String], env: &[String]) -> Result<PathBuf, String> {
        let program = argv.first().map_or("", String::as_str);
        if program.contains('/') {
            let path = self.cwd.join(program);
            return self.looked_at(&path).map(|()| path).map_err(|why| format!("{program:?} {why}"));
        }
        let path = env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
        let mut why_not = None;
        for directory in path.split(':') {
            let candidate = self.cwd.join(directory).join(program);
            match self.looked_at(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(why) if why != MISSING => why_not = why_not.or_else(|| Some(format!("{:?} {why}", candidate.display().to_string()))),
                Err(_) => {}
            }
        }
        Err(why_not.unwrap_or_else(|| format!("{program:?} isn't in the image: no directory of its PATH has it ({path})")))
    }

    /// Whether it is a file this user may execute; links are resolved inside the image.
    fn looked_at(&self, path: &Path) -> Result<(), String> {
        let found = self.root.metadata(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => MISSING.to_owned(),
            Some(Errno::ELOOP) => "is a loop of links".to_owned(),
            _ => format!("can't be looked at: {error}"),
        })?;
        if found.is_dir() {
            return Err("is a directory".to_owned());
        }
        if !found.is_file() {
            return Err("isn't a regular file".to_owned());
        }
        let mode = found.mode();
        if mode & 0o111 == 0 {
            return Err(format!("is not an executable file (mode {:04o})", mode & 0o7777));
        }
        let host = |id: u32| self.uid_base.saturating_add(id);
        let bit = match found.uid() {
            _ if self.who.uid == 0 => 0o111,
            owner if owner == host(self.who.uid) => 0o100,
            _ if self.who.groups.iter().any(|group| host(*group) == found.gid()) => 0o010,
            _ => 0o001,
        };
        if mode & bit == 0 { Err(format!("may not be executed by user {} (mode {:04o})", self.who.uid, mode & 0o7777)) } else { Ok(()) }
    }

    /// Why the kernel didn't execute the program.
    pub(crate) fn explain(&self, program: &Path, error: &io::Error) -> String {
        let (mut at, mut told) = (program.to_owned(), format!("{}", program.display()));
        for _ in 0..INTERPRETERS_MAX {
            let Ok(head) = self.root.read(&at, HEAD_MAX) else { break };
            let next = match Kind::of(&head) {
                Kind::OtherMachine(machine) => {
                    return format!("{told} is a program for {machine}, and this host is {}", std::env::consts::ARCH);
                }
                Kind::Script(interpreter) if interpreter.as_os_str().is_empty() => {
                    return format!("{told} is a script whose first line names no interpreter");
                }
                Kind::Script(interpreter) => ("interpreter", interpreter),
                Kind::Program(Some(loader)) => ("loader", loader),
                Kind::Program(None) | Kind::Unknown => break,
            };
            let (what, path) = next;
            if let Err(why) = self.looked_at(&self.cwd.join(&path)) {
                return format!("{told} needs the {what} {}, which {why}", path.display());
            }
            told = format!("{told}: its {what} {}", path.display());
            at = self.cwd.join(path);
        }
        let why = match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
            Errno::ENOEXEC => "it is neither a program of this machine nor a script with an interpreter (exec format error)",
            Errno::EACCES => "its user may not execute it, or may not pass through a directory above it",
            Errno::E2BIG => "its arguments and variables are longer than the kernel takes",
            other => return format!("{told} can't be executed: {}", other.desc()),
        };
        format!("{told} can't be executed: {why}")
    }
}

const MISSING: &str = "isn't in the image";

/// A file's type, by its content.
enum Kind {
    /// For this machine, with the loader it requires.
    Program(Option<PathBuf>),
    OtherMachine(String),
    Script(PathBuf),
    Unknown,
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = &line[..line.len().min(SCRIPT_LINE_MAX)];
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            // A CRLF line end makes the kernel look for a name with a carriage return.
            let word = line.trim_matches([' ', '\t']).split([' ', '\t']).next().unwrap_or_default();
            return Self::Script(PathBuf::from(word));
        }
        Self::of_elf(head).unwrap_or(Self::Unknown)
    }

    /// ELF, 64 or 32 bits, little-endian like the machines codiusd runs on.
    fn of_elf(head: &[u8]) -> Option<Self> {
        const PT_INTERP: u32 = 3;
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        let (is_64, is_little) = (*head.get(4)? == 2, *head.get(5)? == 1);
        let machine = if is_little { u16::from_le_bytes(bytes(head, 18)?) } else { u16::from_be_bytes(bytes(head, 18)?) };
        if !is_little || machine != HERE {
            return Some(Self::OtherMachine(machine_name(machine)));
        }
        if !is_64 {
            return Some(Self::Unknown);
        }
        let offset = usize::try_from(u64::from_le_bytes(bytes(head, 32)?)).ok()?;
        let (size, count) = (usize::from(u16::from_le_bytes(bytes(head, 54)?)), usize::from(u16::from_le_bytes(bytes(head, 56)?)));
        for index in 0..count {
            let row = offset.checked_add(index.checked_mul(size)?)?;
            if u32::from_le_bytes(bytes(head, row)?) != PT_INTERP {
                continue;
            }
            let at = usize::try_from(u64::from_le_bytes(bytes(head, row.checked_add(8)?)?)).ok()?;
            let length = usize::try_from(u64::from_le_bytes(bytes(head, row.checked_add(32)?)?)).ok()?;
            let name = head.get(at..at.checked_add(length)?)?.split(|byte| *byte == 0).next()?;
            return Some(Self::Program(Some(PathBuf::from(String::from_utf8_lossy(name).into_owned()))));
        }
        Some(Self::Program(None))
    }
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at.checked_add(N)?)?.try_into().ok()
}

const MACHINES: [(u16, &str, &str); 8] = [
    (3, "x86", "386"),
    (8, "mips", "mips"),
    (21, "powerpc64", "ppc64le"),
    (22, "s390x", "s390x"),
    (40, "arm", "arm"),
    (62, "x86_64", "amd64"),
    (183, "aarch64", "arm64"),
    (243, "riscv64", "riscv64"),
];

/// This machine's ELF machine number.
const HERE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

fn machine_name(number: u16) -> String {
    let known = MACHINES.iter().find(|(known, ..)| *known == number);
    known.map_or_else(
        || format!("machine {number}"),
        |(_, arch, docker)| if arch == docker { (*arch).to_owned() } else { format!("{arch} ({docker})") },
    )
}

/// Whether an exec error is specific to this user or image.
pub(crate) fn is_images(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
    !matches!(errno, Errno::ENOMEM | Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE | Errno::EIO)
}
