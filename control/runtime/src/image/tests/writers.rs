//! Trees written by archive tools, and unpacked again: nothing in them may change.

use std::{
    collections::BTreeMap,
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::kit::Ground;
use crate::image::Digest;

/// A tool with its arguments; `DIR` is the tree, `OUT` the archive, `GO` a Go program.
struct Writer {
    name: &'static str,
    command: &'static [&'static str],
    /// Whether it supports paths of more than 100 characters, and times before 1970.
    long: bool,
    xattrs: bool,
    /// How far times may differ, in nanoseconds.
    tolerance: i128,
}

const SECOND: i128 = 999_999_999;
const PYTHON: &str = "import sys, tarfile
with tarfile.open(sys.argv[3], 'w', format=getattr(tarfile, sys.argv[1])) as tar: tar.add(sys.argv[2], '.')";

macro_rules! gnu {
    ($name:literal, $long:literal, $tolerance:expr, $($argument:literal)*) => {
        Writer {
            name: $name,
            command: &["tar", "--create", "--file=OUT", "--directory=DIR", "--numeric-owner", $($argument,)* "."],
            long: $long,
            xattrs: $tolerance == 0,
            tolerance: $tolerance,
        }
    };
}

const WRITERS: &[Writer] = &[
    gnu!("GNU tar, gnu", true, SECOND, "--format=gnu" "--sparse" "--hole-detection=raw"),
    gnu!("GNU tar, oldgnu", true, SECOND, "--format=oldgnu" "--sparse" "--hole-detection=raw"),
    gnu!("GNU tar, ustar", false, SECOND, "--format=ustar"),
    gnu!("GNU tar, pax", true, 0, "--format=pax" "--xattrs"),
    gnu!("GNU tar, sparse 0.0", true, 0, "--format=pax" "--xattrs" "--sparse" "--hole-detection=raw" "--sparse-version=0.0"),
    gnu!("GNU tar, sparse 0.1", true, 0, "--format=pax" "--xattrs" "--sparse" "--hole-detection=raw" "--sparse-version=0.1"),
    gnu!("GNU tar, sparse 1.0", true, 0, "--format=pax" "--xattrs" "--sparse" "--hole-detection=raw" "--sparse-version=1.0"),
    Writer {
        name: "bsdtar, pax",
        command: &["bsdtar", "--format=pax", "-cf", "OUT", "-C", "DIR", "."],
        long: true,
        xattrs: true,
        tolerance: 0,
    },
    Writer {
        name: "bsdtar, gnu",
        command: &["bsdtar", "--format=gnutar", "-cf", "OUT", "-C", "DIR", "."],
        long: true,
        xattrs: false,
        tolerance: SECOND,
    },
    Writer {
        name: "bsdtar, ustar",
        command: &["bsdtar", "--format=ustar", "-cf", "OUT", "-C", "DIR", "."],
        long: false,
        xattrs: false,
        tolerance: SECOND,
    },
    Writer {
        name: "Python, pax",
        command: &["python3", "-c", PYTHON, "PAX_FORMAT", "DIR", "OUT"],
        long: true,
        xattrs: false,
        tolerance: 2000,
    },
    Writer {
        name: "Python, gnu",
        command: &["python3", "-c", PYTHON, "GNU_FORMAT", "DIR", "OUT"],
        long: true,
        xattrs: false,
        tolerance: SECOND,
    },
    Writer {
        name: "Python, ustar",
        command: &["python3", "-c", PYTHON, "USTAR_FORMAT", "DIR", "OUT"],
        long: false,
        xattrs: false,
        tolerance: SECOND,
    },
    Writer { name: "Go, pax", command: &["GO", "pax", "DIR", "OUT"], long: true, xattrs: true, tolerance: 0 },
    Writer { name: "Go, gnu", command: &["GO", "gnu", "DIR", "OUT"], long: true, xattrs: false, tolerance: SECOND },
    Writer { name: "Go, ustar", command: &["GO", "ustar", "DIR", "OUT"], long: false, xattrs: false, tolerance: SECOND },
];

/// Builds the Go program.
fn go(home: &Path) -> PathBuf {
    let (program, source) = (home.join("archive"), concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/archive.go"));
    let built = Command::new("go").args(["build", "-o"]).arg(&program).arg(source).env("GOTOOLCHAIN", "local").env("GOFLAGS", "").output();
    let built = built.unwrap_or_else(|error| panic!("go: {error}; `deploy/setup test` installs it"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

impl Writer {
    fn write(&self, tree: &Path, archive: &Path, go: &Path) {
        let [program, arguments @ ..] = self.command else { unreachable!() };
        let arguments =
            arguments.iter().map(|argument| argument.replace("OUT", archive.to_str().unwrap()).replace("DIR", tree.to_str().unwrap()));
        let program = if *program == "GO" { go } else { Path::new(program) };
        let done = Command::new(program).args(arguments).env("LC_ALL", "C.UTF-8").output();
        let done = done.unwrap_or_else(|error| panic!("{}: {error}; `deploy/setup test` installs it", program.display()));
        assert!(done.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&done.stderr));
    }
}

/// Pseudo-random numbers, the same each time.
struct Dice(u64);

impl Dice {
    fn below<T: TryFrom<u64>>(&mut self, most: u64) -> T {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        T::try_from(self.0 % most).ok().unwrap()
    }

    fn name(&mut self, number: usize, long: bool) -> String {
        let length = [3, 20, 99, if long { 240 } else { 60 }][self.below::<usize>(4)];
        let odd = ["", " ", "é", "%", "=", "\\", "'"][self.below::<usize>(7)];
        let odd = if long { odd } else { "" };
        format!("{number}{odd}{}", "n".repeat(length - 3))
    }
}

/// Creates a random tree.
fn plant(root: &Path, dice: &mut Dice, long: bool) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..40 {
        let parent = directories[dice.below::<usize>(directories.len() as u64)].clone();
        let path = parent.join(dice.name(number, long));
        if !long && path.strip_prefix(root).unwrap().as_os_str().len() > 95 {
            continue;
        }
        match dice.below::<u8>(8) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                directories.push(path);
                continue;
            }
            2 => symlink("t".repeat(1 + dice.below::<usize>(if long { 150 } else { 90 })), &path).unwrap(),
            3 if !files.is_empty() => {
                fs::hard_link(&files[dice.below::<usize>(files.len() as u64)], &path).unwrap();
                continue;
            }
            4 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            _ => {
                fill(&path, dice);
                files.push(path.clone());
            }
        }
        finish(&path, dice, long);
    }
    directories.iter().rev().for_each(|directory| finish(directory, dice, long));
}

/// A file of parts and holes.
fn fill(path: &Path, dice: &mut Dice) {
    let mut file = fs::File::create(path).unwrap();
    for _ in 0..dice.below::<u64>(40) {
        if dice.below::<u8>(2) == 0 {
            file.seek(SeekFrom::Current(1 + dice.below::<i64>(20_000))).unwrap();
        } else {
            let bytes: Vec<u8> = (0..dice.below::<u64>(3000)).map(|_| dice.below::<u8>(256)).collect();
            file.write_all(&bytes).unwrap();
        }
    }
    let end = file.stream_position().unwrap();
    file.set_len(end + [0, 1, 512, 70_000][dice.below::<usize>(4)]).unwrap();
}

fn finish(path: &Path, dice: &mut Dice, long: bool) {
    std::os::unix::fs::lchown(path, Some(dice.below::<u32>(65_536)), Some(dice.below::<u32>(65_536))).unwrap();
    let about = fs::symlink_metadata(path).unwrap();
    if !about.is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o7777 & dice.below::<u32>(0o10000))).unwrap();
    }
    if (about.is_file() || about.is_dir()) && dice.below::<u8>(3) == 0 {
        let value: Vec<u8> = (0..dice.below::<u64>(200)).map(|_| dice.below::<u8>(256)).collect();
        rustix::fs::lsetxattr(path, "user.codius", &value, XattrFlags::empty()).unwrap();
    }
    let early = long && dice.below::<u8>(5) == 0;
    let seconds = if early { -(dice.below::<i64>(1 << 30)) } else { dice.below::<i64>(1 << 32) };
    let time = Timespec { tv_sec: seconds, tv_nsec: if early { 0 } else { dice.below::<i64>(1_000_000_000) } };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything that must survive of a file.
#[derive(Debug, PartialEq)]
struct Described {
    what: String,
    mtime: i128,
    xattr: Option<Vec<u8>>,
}

fn describe(root: &Path) -> BTreeMap<PathBuf, Described> {
    let (mut found, mut first) = (BTreeMap::new(), BTreeMap::new());
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let content = match about.file_type() {
            kind if kind.is_file() => format!("{} bytes, {}", about.len(), Digest::of(&fs::read(&path).unwrap())),
            kind if kind.is_symlink() => format!("to {}", fs::read_link(&path).unwrap().display()),
            kind if kind.is_dir() => {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            _ => String::new(),
        };
        // Hard links to one file have the same first name.
        let names: &mut Vec<PathBuf> = first.entry(about.ino()).or_default();
        names.push(name.clone());
        let mut value = vec![0; 1024];
        let xattr = rustix::fs::lgetxattr(&path, "user.codius", &mut value[..]).ok();
        let xattr = xattr.map(|length| value[..length].to_vec());
        let mtime = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
        let what = format!(
            "{:o} {}:{} {content} {} links",
            about.mode(),
            about.uid(),
            about.gid(),
            if about.is_dir() { 1 } else { about.nlink() }
        );
        found.insert(name, Described { what, mtime, xattr });
    }
    for names in first.into_values().filter(|names| names.len() > 1) {
        let all = format!("{:?}", names.iter().collect::<std::collections::BTreeSet<_>>());
        names.iter().for_each(|name| found.get_mut(name).unwrap().what += &all);
    }
    found
}

#[test]
fn trees_come_out_of_every_archive_as_they_went_in() {
    let programs = tempfile::tempdir().unwrap();
    let go = go(programs.path());
    for seed in 1..=4_u64 {
        for long in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let tree = home.path().join("tree");
            fs::create_dir(&tree).unwrap();
            plant(&tree, &mut Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)), long);
            let right = describe(&tree);
            assert!(right.keys().all(|path| path.as_os_str().as_bytes().len() < 4096));
            for writer in WRITERS.iter().filter(|writer| writer.long || !long) {
                let archive = home.path().join("archive");
                writer.write(&tree, &archive, &go);
                let ground = Ground::new();
                let told = ground.told(&fs::read(&archive).unwrap());
                told.unwrap_or_else(|error| panic!("{}, seed {seed}: {error}", writer.name));
                compare(&right, &describe(&ground.path("layer")), writer, seed);
                fs::remove_file(&archive).unwrap();
            }
        }
    }
}

fn compare(right: &BTreeMap<PathBuf, Described>, found: &BTreeMap<PathBuf, Described>, writer: &Writer, seed: u64) {
    let names = |all: &BTreeMap<PathBuf, Described>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(right), "{}, seed {seed}", writer.name);
    for (path, right) in right {
        let found = &found[path];
        let whose = || format!("{}, seed {seed}: {}", writer.name, path.display());
        assert_eq!(found.what, right.what, "{}", whose());
        if right.mtime < 0 && writer.name == "bsdtar, gnu" {
            continue; // it writes 0
        }
        assert!((found.mtime - right.mtime).abs() <= writer.tolerance, "{}: {} instead of {}", whose(), found.mtime, right.mtime);
        if writer.xattrs {
            assert_eq!(found.xattr, right.xattr, "{}", whose());
        }
    }
}
