//! What archives can express, and ambiguous ones.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
};

use tar::{EntryType, Header};

use super::kit::{Ground, Tar, gzip, whiteout};
use crate::image::{Digest, unpack::UnpackError};

/// One part of a file.
type Part = (usize, usize);

/// A sparse file in pax format, version 0.0.
fn pax_0_0(size: usize, map: &[Part], dense: &[u8]) -> Tar {
    let (size, count) = (size.to_string(), map.len().to_string());
    let numbers: Vec<(String, String)> = map.iter().map(|(offset, length)| (offset.to_string(), length.to_string())).collect();
    let mut records: Vec<(&str, &[u8])> = vec![("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.numblocks", count.as_bytes())];
    for (offset, length) in &numbers {
        records.push(("GNU.sparse.offset", offset.as_bytes()));
        records.push(("GNU.sparse.numbytes", length.as_bytes()));
    }
    Tar::new().records(EntryType::XHeader, &records).entry(EntryType::Regular, "f", dense, |_| {})
}

/// Version 0.1.
fn pax_0_1(size: usize, map: &[Part], dense: &[u8]) -> Tar {
    let (size, count) = (size.to_string(), map.len().to_string());
    let numbers: Vec<String> = map.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
    let numbers = numbers.join(",");
    let records: [(&str, &[u8]); 5] = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", count.as_bytes()),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.map", numbers.as_bytes()),
        ("SCHILY.dev", b"7"),
    ];
    Tar::new().records(EntryType::XHeader, &records).entry(EntryType::Regular, "GNUSparseFile.1/f", dense, |_| {})
}

/// Version 1.0.
fn pax_1_0(size: usize, map: &[Part], dense: &[u8]) -> Tar {
    let lines: String = map.iter().map(|(offset, length)| format!("{offset}\n{length}\n")).collect();
    let mut content = format!("{}\n{lines}", map.len()).into_bytes();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend(dense);
    let size = size.to_string();
    let records: [(&str, &[u8]); 4] =
        [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"f"), ("GNU.sparse.realsize", size.as_bytes())];
    Tar::new().records(EntryType::XHeader, &records).entry(EntryType::Regular, "GNUSparseFile.1/f", &content, |_| {})
}

/// GNU tar's own format: four parts in the header, 21 in each block after it.
fn old_gnu(size: usize, map: &[Part], dense: &[u8]) -> Tar {
    let slot = |(offset, length): &Part| format!("{offset:011o}\0{length:011o}\0").into_bytes();
    let (first, rest) = map.split_at(map.len().min(4));
    let mut blocks: Vec<Vec<u8>> = rest.chunks(21).map(|chunk| chunk.iter().flat_map(slot).collect()).collect();
    let count = blocks.len();
    for (index, block) in blocks.iter_mut().enumerate() {
        block.resize(512, 0);
        block[504] = u8::from(index + 1 < count);
    }
    let content = [blocks.concat(), dense.to_vec()].concat();
    Tar::new().entry(EntryType::GNUSparse, "f", &content, |header: &mut Header| {
        header.set_size(dense.len() as u64);
        let bytes: Vec<u8> = first.iter().flat_map(slot).collect();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(size as u64);
        gnu.set_is_extended(count > 0);
        header.as_mut_bytes()[386..386 + bytes.len()].copy_from_slice(&bytes);
    })
}

type Writer = fn(usize, &[Part], &[u8]) -> Tar;
const SPARSE: [(&str, Writer); 4] = [("0.0", pax_0_0), ("0.1", pax_0_1), ("1.0", pax_1_0), ("GNU", old_gnu)];

/// Parts of a byte each, more than fit in one block of any format; no parts; one part for the whole file; and holes at both ends.
#[test]
fn sparse_files_are_whole_and_where_they_belong() {
    let many: Vec<Part> = (0..60).map(|number| (number * 3 + 1, 1)).collect();
    let cases: [(usize, &[Part]); 5] =
        [(400, &many), (5000, &[]), (3, &[(0, 3)]), (9000, &[(512, 700), (4096, 1)]), (1 << 20, &[(1 << 20, 0)])];
    for (size, map) in cases {
        let length: usize = map.iter().map(|(_, length)| length).sum();
        let dense: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
        let mut right = vec![0; size];
        let mut taken = 0;
        for (offset, length) in map.iter().copied() {
            right[offset..offset + length].copy_from_slice(&dense[taken..taken + length]);
            taken += length;
        }
        for (format, write) in SPARSE.into_iter().filter(|(format, _)| !map.is_empty() || *format == "1.0" || *format == "GNU") {
            let ground = Ground::new();
            let tar = write(size, map, &dense).file("behind", "x").bytes();
            ground.unpack(&tar).unwrap_or_else(|error| panic!("{format}: {map:?}: {error}"));
            assert!(fs::read(ground.path("layer/f")).unwrap() == right, "{format}: {map:?}");
            let names: Vec<_> = fs::read_dir(ground.path("layer")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names.len(), 2, "{format}: {names:?}");
        }
    }
}

#[test]
fn sparse_files_that_make_no_sense_are_refused() {
    let cases: [(&str, usize, &[Part], usize); 6] = [
        ("out of order", 4000, &[(1024, 512), (0, 512)], 1024),
        ("overlapping", 4000, &[(0, 512), (511, 512)], 1024),
        ("longer than the file", 600, &[(512, 512)], 512),
        ("more content than parts", 4000, &[(0, 512)], 1024),
        ("less content than parts", 4000, &[(0, 1024)], 512),
        ("beyond all numbers", 4000, &[(8_589_934_591, 8_589_934_591)], 512),
    ];
    for (name, size, map, length) in cases {
        for (format, write) in SPARSE {
            let said = Ground::new().told(&write(size, map, &vec![b'x'; length]).bytes()).expect_err(name);
            assert!(said.contains("map doesn't fit"), "{name}, {format}: {said}");
        }
    }
}

fn change(field: &'static [(usize, &[u8])]) -> impl FnOnce(&mut Header) {
    move |header| field.iter().for_each(|(at, bytes)| header.as_mut_bytes()[*at..at + bytes.len()].copy_from_slice(bytes))
}

#[test]
fn what_headers_say_is_done() {
    let x = EntryType::XHeader;
    let case = |name: &'static str, tar: Tar, path: &[u8], content: &'static str| (name, tar, path.to_vec(), content);
    let cases = [
        case("plain", Tar::new().file("f", "x"), b"f", "x"),
        case(
            "a path behind a value with newlines",
            Tar::new().records(x, &[("SCHILY.xattr.user.a", b"1\n2\n"), ("path", b"p")]).file("f", "x"),
            b"p",
            "x",
        ),
        case(
            "a size in an extended header",
            Tar::new().pax("size", "3").entry(EntryType::Regular, "f", b"xyz", |header| header.set_size(0)),
            b"f",
            "xyz",
        ),
        case("the last of two values", Tar::new().records(x, &[("path", b"no"), ("path", b"p")]).file("f", "x"), b"p", "x"),
        case("a value taken back", Tar::new().records(x, &[("path", b"no"), ("path", b"")]).file("f", "x"), b"f", "x"),
        case(
            "a comment for all",
            Tar::new().records(EntryType::XGlobalHeader, &[("comment", b"c"), ("mtime", b"1")]).file("f", "x"),
            b"f",
            "x",
        ),
        case("the same long name twice", Tar::new().long_name("p").pax("path", "p").file("f", "x"), b"p", "x"),
        case("a name that isn't UTF-8", Tar::new().records(x, &[("path", b"\xff\xfe")]).file("f", "x"), b"\xff\xfe", "x"),
        case("a longest name", Tar::new().long_name(&"n".repeat(255)).file("f", "x"), &[b'n'; 255], "x"),
        case("a contiguous file", Tar::new().entry(EntryType::Continuous, "f", b"x", |_| {}), b"f", "x"),
        case("an absolute path", Tar::new().file("/f", "x"), b"f", "x"),
        case("a path that goes back", Tar::new().file("./a//../f", "x"), b"f", "x"),
        case(
            "a binary size",
            Tar::new().entry(EntryType::Regular, "f", b"x", change(&[(124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])])),
            b"f",
            "x",
        ),
        case("a prefix", Tar::new().entry(EntryType::Regular, "f", b"x", change(&[(257, b"ustar\x0000"), (345, b"d\0")])), b"d/f", "x"),
        case(
            "a prefix of star",
            Tar::new().entry(
                EntryType::Regular,
                "f",
                b"x",
                change(&[(257, b"ustar\x0000"), (345, &[b'd'; 131]), (476, b"00000000000\0"), (508, b"tar\0")]),
            ),
            &[[b'd'; 131].as_slice(), b"/f"].concat(),
            "x",
        ),
        case(
            "a prefix where times belong",
            Tar::new().entry(EntryType::Regular, "f", b"x", change(&[(345, b"dir/dir/dir/dir/dir/dir/dir/dir/dir")])),
            b"dir/dir/dir/dir/dir/dir/dir/dir/dir/f",
            "x",
        ),
        case(
            "records of aufs",
            Tar::new().directory(".wh..wh.plnk", 0o700).file(".wh..wh.plnk/1.2", "no").file(".wh..wh.aufs", "").file("f", "x"),
            b"f",
            "x",
        ),
    ];
    for (name, tar, path, content) in cases {
        let ground = Ground::new();
        ground.told(&tar.file("behind", "y").bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = fs::read_to_string(ground.path("layer").join(OsStr::from_bytes(&path)));
        assert_eq!(found.unwrap_or_else(|error| panic!("{name}: {error}")), content, "{name}");
        assert_eq!(ground.read("behind"), "y", "{name}");
        assert!(!whiteout(&ground.path("layer/.wh.plnk")) && !ground.path("layer/.wh..wh.plnk").exists(), "{name}");
    }
}

/// Before there was a type for them, directories were marked by a trailing slash; links have no content, whatever their size.
#[test]
fn old_archives_are_read_as_they_were_meant() {
    let ground = Ground::new();
    let old = |header: &mut Header| header.as_mut_bytes()[156] = 0;
    let sized = |header: &mut Header| {
        header.set_size(4096);
        header.as_old_mut().linkname[0] = b'f';
    };
    let tar = Tar::new().entry(EntryType::Regular, "d/", b"", old).file("f", "x").entry(EntryType::Link, "l", b"", sized).file("g", "y");
    ground.unpack(&tar.bytes()).unwrap();
    assert!(ground.path("layer/d").is_dir());
    assert_eq!((ground.read("l"), ground.read("g")), ("x".to_owned(), "y".to_owned()));
}

#[test]
fn times_and_attributes_are_kept() {
    let ground = Ground::new();
    let records: [(&str, &[u8]); 5] = [
        ("mtime", b"-3.25"),
        ("SCHILY.xattr.user.note", b"a\0b\n"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.capability", b"\x01"),
        ("LIBARCHIVE.xattr.user.note", b"YQ"),
    ];
    let before = change(&[(136, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfb])]);
    let tar =
        Tar::new().directory("d", 0o755).records(EntryType::XHeader, &records).file("d/f", "x").entry(EntryType::Fifo, "d/p", b"", before);
    ground.unpack(&tar.bytes()).unwrap();
    let about = |path: &str| fs::symlink_metadata(ground.path("layer").join(path)).unwrap();
    assert_eq!((about("d/f").mtime(), about("d/f").mtime_nsec()), (-4, 750_000_000));
    assert!(about("d/p").file_type().is_fifo());
    assert_eq!(about("d/p").mtime(), -5);
    assert_eq!(about("d").mtime(), 1_000_000_000, "what comes into a directory doesn't change its time");
    let xattr = |name: &str| {
        let mut value = [0; 16];
        rustix::fs::lgetxattr(ground.path("layer/d/f"), name, &mut value[..]).ok().map(|length| value[..length].to_vec())
    };
    assert_eq!(xattr("user.note").as_deref(), Some(&b"a\0b\n"[..]));
    assert_eq!((xattr("trusted.overlay.opaque"), xattr("security.capability")), (None, None));
}

#[test]
fn what_nobody_could_understand_is_refused_by_name() {
    let (x, g) = (EntryType::XHeader, EntryType::XGlobalHeader);
    let typed = |kind: u8| Tar::new().entry(EntryType::new(kind), "odd", b"", |_| {});
    let sparse = |records: &[(&str, &[u8])]| Tar::new().records(x, records).file("odd", "x");
    let cases: Vec<(&str, Tar, &str)> = vec![
        ("a volume's name", typed(b'V'), "\"odd\": an entry of type 'V'"),
        ("a part of a file of another volume", typed(b'M'), "type 'M'"),
        ("a list of a directory", typed(b'D'), "type 'D'"),
        ("old long names", typed(b'N'), "type 'N'"),
        ("headers of Solaris", typed(b'X'), "type 'X'"),
        (
            "a sparse file of a later version",
            sparse(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1")]),
            "version",
        ),
        ("half a version", sparse(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"1")]), "version"),
        ("a sparse file with something new", sparse(&[("GNU.sparse.size", b"1"), ("GNU.sparse.new", b"1")]), "isn't known"),
        ("a sparse file without a size", sparse(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.numblocks", b"1")]), "without its size"),
        (
            "a sparse file of fewer parts than it says",
            sparse(&[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,1"), ("GNU.sparse.numblocks", b"2")]),
            "map",
        ),
        ("a map out of order", sparse(&[("GNU.sparse.numbytes", b"1"), ("GNU.sparse.offset", b"0")]), "out of order"),
        (
            "a map in the content that isn't",
            sparse(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1")]),
            "without its map",
        ),
        (
            "a sparse link",
            Tar::new()
                .records(x, &[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,1"), ("GNU.sparse.numblocks", b"1")])
                .symlink("odd", "x"),
            "two ways",
        ),
        (
            "a sparse file of star",
            Tar::new().entry(EntryType::GNUSparse, "odd", b"", change(&[(257, b"ustar\x0000"), (508, b"tar\0")])),
            "other than GNU's",
        ),
        ("a path for all", Tar::new().records(g, &[("path", b"p")]).file("odd", ""), "global"),
        ("a size for all", Tar::new().records(g, &[("size", b"1")]).file("odd", ""), "global"),
        ("an owner for all", Tar::new().records(g, &[("uid", b"0")]).file("odd", ""), "global"),
        ("two extended headers", Tar::new().pax("path", "a").pax("path", "b").file("odd", ""), "two extended headers"),
        ("two long names", Tar::new().long_name("a").long_name("b").file("odd", ""), "two long names"),
        ("two names", Tar::new().long_name("a").pax("path", "b").file("odd", ""), "two different long names"),
        ("a name with a NUL", Tar::new().records(x, &[("path", b"a\0b")]).file("odd", ""), "NUL"),
        ("records that aren't", Tar::new().entry(x, "pax", b"12 path=x\n", |_| {}).file("odd", ""), "can't be read"),
        ("an owner in words", Tar::new().pax("uid", "root").file("odd", ""), "owner"),
        ("a time in words", Tar::new().pax("mtime", "noon").file("odd", ""), "time"),
        ("a header of nothing", Tar::new().pax("path", "a"), "of nothing"),
        ("a size below zero", Tar::new().entry(EntryType::Regular, "odd", b"", change(&[(124, &[0xff; 12])])), "can't be read"),
        ("a name too long", Tar::new().long_name(&"n".repeat(256)).file("odd", ""), "path"),
        ("a path too long", Tar::new().long_name(&vec!["n".repeat(250); 20].join("/")).file("odd", ""), "path"),
        ("a link to what comes later", Tar::new().hard_link("odd", "f").file("f", ""), "\"odd\": a hard link"),
        ("a link to what was taken away", Tar::new().file("f", "").directory("f", 0o755).hard_link("odd", "f"), "hard link"),
        ("a link to itself", Tar::new().file("odd", "x").hard_link("odd", "odd"), "hard link"),
        ("an owner below zero", Tar::new().pax("uid", "-1").file("odd", ""), "users or groups"),
    ];
    for (name, tar, right) in cases {
        let said = Ground::new().told(&tar.bytes()).expect_err(name);
        assert!(said.contains(right), "{name}: {said}");
    }
}

/// Neither padded with zeros nor left out.
#[test]
fn archives_that_break_off_are_refused() {
    let whole = Tar::new().file("f", &"x".repeat(600)).unfinished();
    for length in [300, 512 + 1, 512 + 599] {
        let said = Ground::new().told(&whole[..length]).expect_err("it breaks off");
        assert!(said.contains("can't be read"), "{length}: {said}");
    }
    Ground::new().told(&whole[..512 + 600]).unwrap();
    let hidden = [Tar::new().file("f", "").unfinished(), vec![0; 512], Tar::new().file("g", "").bytes()].concat();
    assert!(Ground::new().told(&hidden).unwrap_err().contains("behind a block of zeros"));
    let mut wrong = Tar::new().file("f", "").bytes();
    wrong[0] ^= 1;
    assert!(Ground::new().told(&wrong).is_err());
    // Some old tools sum the bytes as signed.
    let signed = Tar::new().entry(EntryType::Regular, "\u{e9}", b"", |_| {}).bytes();
    let sum: i64 =
        signed[..512].iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { i64::from(byte.cast_signed()) }).sum();
    let signed = [&signed[..148], format!("{sum:06o}\0 ").as_bytes(), &signed[156..]].concat();
    Ground::new().told(&signed).unwrap();
}

/// containerd unpacks onto the layers below, so there a link can lead into them.
#[test]
fn a_hard_link_may_be_to_a_file_of_a_layer_below() {
    let ground = Ground::new();
    let put = |name: &str, tar: Tar, below: &[&str]| {
        let (tar, below): (_, Vec<_>) = (tar.bytes(), below.iter().map(|name| ground.path(name)).collect());
        ground.unpack_as(name, &tar, Digest::of(&tar), &below)
    };
    let owned = |header: &mut Header| {
        header.set_uid(7);
        header.set_mode(0o640);
    };
    let lowest = Tar::new()
        .directory("d", 0o711)
        .entry(EntryType::Regular, "d/f", b"x", owned)
        .symlink("d/s", "f")
        .file("gone", "")
        .directory("o", 0o755)
        .file("o/f", "");
    put("lowest", lowest, &[]).unwrap();
    put("middle", Tar::new().file(".wh.gone", "").file("o/.wh..wh..opq", ""), &["lowest"]).unwrap();
    let below = ["lowest", "middle"];
    put("layer", Tar::new().hard_link("l", "d/f").hard_link("m", "l").hard_link("t", "d/s"), &below).unwrap();
    let about = |path: &str| fs::symlink_metadata(ground.path("layer").join(path)).unwrap();
    assert_eq!((ground.read("l"), about("l").nlink(), about("l").uid(), about("l").mode() & 0o7777), ("x".to_owned(), 3, 7, 0o640));
    assert_eq!((about("l").ino(), about("d").mode() & 0o7777), (about("d/f").ino(), 0o711));
    assert!(about("t").is_symlink());
    for (name, tar) in [
        ("gone", Tar::new().hard_link("l", "gone")),
        ("opaque", Tar::new().hard_link("l", "o/f")),
        ("gone in the same layer", Tar::new().file("d/.wh.f", "").hard_link("l", "d/f")),
        ("opaque in the same layer", Tar::new().file("d/.wh..wh..opq", "").hard_link("l", "d/f")),
        ("a directory", Tar::new().hard_link("l", "d")),
    ] {
        let outcome = put(name, tar, &below);
        assert!(matches!(outcome, Err(UnpackError::HardLink)), "{name}: {outcome:?}");
    }
}

/// A skippable frame (RFC 8878, 3.1.2).
fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
    [&[0x50 + number, 0x2a, 0x4d, 0x18], &u32::try_from(content.len()).unwrap().to_le_bytes()[..], content].concat()
}

#[test]
fn compressed_streams_may_be_of_many_parts() {
    let tar = Tar::new().file("f", &"content".repeat(10_000)).bytes();
    let frame = |bytes: &[u8]| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let named = |bytes: &[u8]| {
        let mut writer = flate2::GzBuilder::new()
            .filename("layer.tar")
            .comment("c")
            .extra(vec![b'S', b'G', 2, 0, 1, 2])
            .write(Vec::new(), flate2::Compression::best());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    let (first, second) = tar.split_at(30_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a skippable frame first", [skippable(0, b"pzstd"), frame(&tar)].concat()),
        (
            "skippable frames all over",
            [skippable(15, b""), frame(first), skippable(7, &[0; 5000]), frame(second), skippable(1, b"x")].concat(),
        ),
        ("two frames", [frame(first), frame(second)].concat()),
        ("an empty frame between", [frame(first), frame(b""), frame(second)].concat()),
        ("gzip members with fields", [named(first), gzip(second)].concat()),
        ("an empty member, as eStargz ends", [named(&tar), named(b"")].concat()),
        ("many members", tar.chunks(100).flat_map(gzip).collect()),
        ("zeros behind gzip", [gzip(&tar), vec![0; 1000]].concat()),
        ("something behind gzip", [gzip(&tar), b"something".to_vec()].concat()),
    ];
    for (name, blob) in &cases {
        let ground = Ground::new();
        ground.unpack_as("layer", blob, Digest::of(&tar), &[]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(ground.read("f").len(), 70_000, "{name}");
    }
}

#[test]
fn streams_that_are_broken_or_foreign_are_refused_by_name() {
    let tar = Tar::new().file("f", &"content".repeat(10_000)).bytes();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let mut wide = zstd.clone();
    // No content size and no single segment, but a window of 2 GiB, in the frame's header (RFC 8878, 3.1.1.1).
    wide.splice(4..6, [0, 21 << 3]);
    let mut sum = gzip(&tar);
    let at = sum.len() - 6;
    sum[at] ^= 1;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a window that takes gigabytes", wide, "can't be decompressed"),
        ("something behind zstd", [&zstd[..], b"something"].concat(), "can't be decompressed"),
        ("a cut skippable frame", [&zstd[..], &skippable(0, b"long")[..10]].concat(), "can't be decompressed"),
        ("a wrong sum", sum, "can't be decompressed"),
        ("a member of nothing", [gzip(&tar), vec![0x1f, 0x8b, 8]].concat(), "can't be decompressed"),
        ("bzip2", b"BZh91AY&SY\0\0".to_vec(), "bzip2"),
        ("xz", b"\xfd7zXZ\0\0\x04".to_vec(), "xz"),
    ];
    for (name, blob, right) in cases {
        let error = Ground::new().unpack_as("layer", &blob, Digest::of(&tar), &[]).expect_err(name).to_string();
        assert!(error.contains(right), "{name}: {error}");
    }
}
