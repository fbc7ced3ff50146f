//! The meaning of layers, and their size limits.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use tar::EntryType;

use super::kit::{Ground, Tar, gzip, opaque, whiteout};
use crate::image::{Digest, unpack::UnpackError};

const MIB: usize = 1024 * 1024;

#[test]
fn whiteouts_hide_what_is_below() {
    let ground = Ground::new();
    ground.unpack(&Tar::new().directory("etc", 0o755).file("etc/.wh.gone", "").file("implied/.wh.too", "").bytes()).unwrap();
    assert!(whiteout(&ground.path("layer/etc/gone")));
    assert!(whiteout(&ground.path("layer/implied/too")));
}

/// OCI Image Layer 1.1: a whiteout applies to the layers below; an entry of that name in its own layer stays, wherever it comes.
#[test]
fn a_whiteout_leaves_its_own_layer_alone() {
    let orders = [
        Tar::new().file(".wh.d", "").file(".wh.f", "").directory("d", 0o755).file("d/new", "new").file("f", "new"),
        Tar::new().directory("d", 0o755).file("d/new", "new").file("f", "new").file(".wh.d", "").file(".wh.f", ""),
        Tar::new().file(".wh.d", "").file("d/new", "new").file("f", "new").file(".wh.f", ""),
    ];
    for (number, tar) in orders.into_iter().enumerate() {
        let ground = Ground::new();
        ground.unpack(&tar.bytes()).unwrap_or_else(|error| panic!("order {number}: {error}"));
        assert_eq!((ground.read("d/new"), ground.read("f")), ("new".to_owned(), "new".to_owned()), "order {number}");
        assert!(opaque(&ground.path("layer/d")), "order {number}: what is below shines through");
    }
}

#[test]
fn opaque_directories_hide_what_is_below_and_keep_what_is_theirs() {
    let ground = Ground::new();
    let tar = Tar::new().directory("d", 0o755).file("d/before", "1").file("d/.wh..wh..opq", "").file("d/after", "2");
    ground.unpack(&tar.bytes()).unwrap();
    assert!(opaque(&ground.path("layer/d")));
    assert_eq!((ground.read("d/before"), ground.read("d/after")), ("1".to_owned(), "2".to_owned()));
    assert!(!ground.path("layer/d/.wh..wh..opq").exists());
}

#[test]
fn hard_links_are_one_file() {
    let ground = Ground::new();
    let tar = Tar::new().file("a/f", "x").hard_link("g", "/a/f").symlink("s", "a/f").hard_link("t", "s");
    ground.unpack(&tar.bytes()).unwrap();
    let about = |path: &str| fs::symlink_metadata(ground.path("layer").join(path)).unwrap();
    assert_eq!(about("a/f").ino(), about("g").ino());
    assert_eq!(about("s").ino(), about("t").ino());
    assert!(about("t").is_symlink());
    let missing = Ground::new().unpack(&Tar::new().hard_link("h", "nothing").bytes());
    assert!(matches!(missing, Err(UnpackError::HardLink)), "{missing:?}");
}

#[test]
fn permissions_owners_and_times_are_the_archive_s() {
    let ground = Ground::new();
    let change = |header: &mut tar::Header| {
        header.set_mode(0o4711);
        header.set_uid(65_535);
        header.set_gid(7);
    };
    ground
        .unpack(&Tar::new().directory("./", 0o711).entry(EntryType::Regular, "su", b"x", change).directory("tmp", 0o1777).bytes())
        .unwrap();
    let about = |path: &str| fs::metadata(ground.path(path)).unwrap();
    assert_eq!(about("layer").permissions().mode() & 0o7777, 0o711);
    assert_eq!(about("layer/tmp").permissions().mode() & 0o7777, 0o1777);
    let su = about("layer/su");
    assert_eq!((su.permissions().mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4711, 65_535, 7, 1_000_000_000));
}

#[test]
fn owners_a_pod_does_not_have_are_refused() {
    let by_header = Tar::new().entry(EntryType::Regular, "f", b"", |header| header.set_uid(65_536));
    let by_group = Tar::new().entry(EntryType::Directory, "d", b"", |header| header.set_gid(0xffff_ffff));
    let by_extension = Tar::new().pax("uid", "100000").file("f", "");
    for tar in [by_header, by_group, by_extension] {
        let outcome = Ground::new().unpack(&tar.bytes());
        assert!(matches!(outcome, Err(UnpackError::Ids)), "{outcome:?}");
    }
}

#[test]
fn devices_are_left_out() {
    let ground = Ground::new();
    let disk = |header: &mut tar::Header| header.set_device_major(8).unwrap();
    let tar = Tar::new().entry(EntryType::Block, "sda", b"", disk).entry(EntryType::Char, "mem", b"", disk).entry(
        EntryType::Fifo,
        "pipe",
        b"",
        |_| {},
    );
    ground.unpack(&tar.file("f", "x").bytes()).unwrap();
    let names: Vec<_> = fs::read_dir(ground.path("layer")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// A directory implied only by its content keeps the attributes it has in the layers below, not root's defaults.
#[test]
fn implied_directories_look_as_they_do_below() {
    let ground = Ground::new();
    let owned = |header: &mut tar::Header| {
        header.set_mode(0o1770);
        header.set_uid(33);
    };
    let lowest = Tar::new().directory("var", 0o755).entry(EntryType::Directory, "var/www", b"", |header| header.set_uid(1)).bytes();
    let lower = Tar::new().entry(EntryType::Directory, "var/www", b"", owned).bytes();
    ground.unpack_as("lowest", &lowest, Digest::of(&lowest), &[]).unwrap();
    ground.unpack_as("lower", &lower, Digest::of(&lower), &[ground.path("lowest")]).unwrap();
    let upper = Tar::new().file("var/www/new/page", "x").bytes();
    ground.unpack_as("layer", &upper, Digest::of(&upper), &[ground.path("lowest"), ground.path("lower")]).unwrap();
    let about = |path: &str| fs::metadata(ground.path("layer").join(path)).unwrap();
    assert_eq!((about("var/www").mode() & 0o7777, about("var/www").uid()), (0o1770, 33));
    assert_eq!((about("var/www/new").mode() & 0o7777, about("var/www/new").uid()), (0o755, 0));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let ground = Ground::new();
    let tar = Tar::new().file("x/y/z", "1").file("x", "2").symlink("l", "x").directory("l", 0o700).file("l/in", "3");
    ground.unpack(&tar.bytes()).unwrap();
    assert_eq!((ground.read("x"), ground.read("l/in")), ("2".to_owned(), "3".to_owned()));
}

#[test]
fn layers_may_be_plain_gzip_or_zstd_and_end_without_padding() {
    for tar in [Tar::new().file("f", "x").bytes(), Tar::new().file("f", "x").unfinished()] {
        let zstd = zstd::encode_all(&tar[..], 1).unwrap();
        let two_members = [gzip(&tar[..100]), gzip(&tar[100..])].concat();
        for blob in [&tar, &gzip(&tar), &zstd, &two_members] {
            let ground = Ground::new();
            ground.unpack_as("layer", blob, Digest::of(&tar), &[]).unwrap();
            assert_eq!(ground.read("f"), "x");
        }
    }
}

/// Bytes after the end marker are covered by the config's digest.
#[test]
fn the_whole_stream_is_what_the_config_says() {
    let tar = Tar::new().file("f", "x").bytes();
    let longer = [&tar[..], b"hidden"].concat();
    let outcome = Ground::new().unpack_as("layer", &longer, Digest::of(&tar), &[]);
    assert!(matches!(outcome, Err(UnpackError::DiffId)), "{outcome:?}");
    Ground::new().unpack(&longer).unwrap();
}

/// The uploader's image is at fault, not the host's disk.
#[test]
fn broken_archives_are_told_from_broken_disks() {
    let tar = Tar::new().entry(EntryType::Regular, "f", &noise(MIB), |_| {}).bytes();
    let (zipped, zstd) = (gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap());
    let torn = [&tar[..tar.len() / 2], &zipped[..zipped.len() / 2], &zstd[..zstd.len() / 2], b"no archive at all, of any kind"];
    for blob in torn {
        let outcome = Ground::new().unpack_as("layer", blob, Digest::of(&tar), &[]);
        assert!(matches!(outcome, Err(UnpackError::Archive(_) | UnpackError::Compressed(_) | UnpackError::DiffId)), "{outcome:?}");
    }
    let empty = Tar::new().symlink("s", "").bytes();
    let outcome = Ground::new().unpack(&empty);
    assert!(!matches!(outcome, Err(UnpackError::Io(_))), "{outcome:?}");
}

/// Incompressible bytes.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let step = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(step).take(length).collect()
}

fn small() -> Ground {
    let mut ground = Ground::new();
    ground.limits.unpacked_bytes_max = MIB as u64;
    ground.limits.entries_max = 100;
    ground
}

#[test]
fn bombs_are_refused() {
    let zeros = vec![0; 2 * MIB];
    let many = (0..101).fold(Tar::new(), |tar, number| tar.file(&number.to_string(), ""));
    let deep = (0..4).fold(Tar::new(), |tar, _| tar).long_name(&"d/".repeat(129)).file("short", "");
    let bombs = [
        ("a large file", Tar::new().entry(EntryType::Regular, "f", &zeros, |_| {}).bytes(), "too large"),
        ("a large device", Tar::new().entry(EntryType::Char, "c", &zeros, |_| {}).bytes(), "too large"),
        ("much behind the end", [Tar::new().bytes(), zeros.clone()].concat(), "too large"),
        ("a long name", Tar::new().entry(EntryType::GNULongName, "n", &zeros[..MIB + 1], |_| {}).file("f", "").bytes(), "header"),
        ("a large extended header", Tar::new().pax("comment", &"x".repeat(MIB)).file("f", "").bytes(), "header"),
        ("many files", many.bytes(), "too many"),
        ("a deep path", deep.bytes(), "path"),
    ];
    for (name, tar, said) in bombs {
        let outcome = small().unpack_as("layer", &gzip(&tar), Digest::of(&tar), &[]);
        let error = outcome.expect_err(name);
        assert!(error.to_string().contains(said), "{name}: {error}");
    }
}

/// A sparse file is small in the archive, and arbitrarily large on the disk.
#[test]
fn holes_count_as_what_they_become() {
    let sparse = |header: &mut tar::Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 40);
        gnu.sparse[0].set_offset(1 << 40);
        gnu.sparse[0].set_length(0);
    };
    let ground = small();
    let outcome = ground.unpack(&Tar::new().entry(EntryType::GNUSparse, "f", b"", sparse).bytes());
    assert!(matches!(outcome, Err(UnpackError::Size)), "{outcome:?}");
    assert!(!ground.path("layer/f").exists(), "refused before anything is written");
}

/// Links let a few entries build directories far deeper than any path is long, which are expensive to remove.
#[test]
fn links_do_not_make_paths_deeper() {
    let mut tar = Tar::new();
    for step in 0..5 {
        let from = if step == 0 { "d".to_owned() } else { format!("s{step}") };
        let path = format!("{from}{}", "/d".repeat(40));
        tar = tar.long_name(&format!("{path}/f")).file("short", "").symlink(&format!("s{}", step + 1), &path);
    }
    let outcome = Ground::new().unpack(&tar.bytes());
    assert!(matches!(outcome, Err(UnpackError::Path)), "{outcome:?}");
}

#[test]
fn a_layer_has_only_so_much_time() {
    let tar = Tar::new().file("f", "x").bytes();
    let ground = Ground::new();
    fs::write(ground.path("blob"), &tar).unwrap();
    let budget = crate::image::unpack::Budget::new(&ground.limits, u64::MAX, std::time::Instant::now());
    let outcome = crate::image::unpack::layer(&ground.path("blob"), &ground.path("layer"), &[], Digest::of(&tar), &budget);
    assert!(matches!(outcome.map_err(|refused| refused.error), Err(UnpackError::Time)));
    let gone = fs::remove_file(ground.path("nothing")).map_err(UnpackError::from);
    assert!(matches!(gone, Err(UnpackError::Io(error)) if error.kind() == io::ErrorKind::NotFound));
}
