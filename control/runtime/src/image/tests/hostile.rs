//! Layers that try to reach the host. Some are refused, some have no effect; nothing outside their directory ever changes.

use tar::EntryType;

use super::kit::{Ground, Tar};

/// `{out}` is a directory of the host with a file `canary`; the layer's directory is beside it.
type Case = (&'static str, fn(Tar, &str) -> Tar);

const CASES: &[Case] = &[
    ("a path that climbs", |tar, _| tar.file("../canary", "x")),
    ("a path that climbs later", |tar, _| tar.directory("a", 0o755).file("a/../../outside/canary", "x")),
    ("a long name that climbs", |tar, _| tar.long_name(&format!("{}../../canary", "./".repeat(80))).file("short", "x")),
    ("an extended header that climbs", |tar, _| tar.pax("path", "../outside/canary").file("short", "x")),
    ("an absolute path", |tar, out| tar.long_name(&format!("{out}/canary")).file("short", "x")),
    ("a file through an absolute link", |tar, out| tar.symlink("s", out).file("s/canary", "x")),
    ("a file through a relative link", |tar, _| tar.symlink("s", "../outside").file("s/canary", "x")),
    ("a file through two links", |tar, _| tar.symlink("a", "..").symlink("s", "a/outside").file("s/canary", "x")),
    ("a file through a magic link", |tar, out| tar.symlink("s", "/proc/self/root").long_name(&format!("s{out}/canary")).file("short", "x")),
    ("a file through the working directory", |tar, _| tar.symlink("s", "/proc/self/cwd").file("s/Cargo.toml", "x")),
    ("a file over a link", |tar, out| tar.symlink("s", &format!("{out}/canary")).file("s", "x")),
    ("a file over a dangling link", |tar, out| tar.symlink("s", &format!("{out}/new")).file("s", "x")),
    ("permissions of a link", |tar, out| {
        let target = format!("{out}/canary");
        tar.entry(EntryType::Symlink, "s", b"", |header| {
            header.set_link_name(&target).unwrap();
            header.set_mode(0o777);
            header.set_uid(1000);
        })
    }),
    ("a directory over a link over a directory", |tar, out| tar.directory("d", 0o755).symlink("d", out).directory("d", 0o777)),
    ("a file in a directory that became a link", |tar, out| tar.file("d/x", "x").symlink("d", out).file("d/canary", "x")),
    ("a hard link to an absolute path", |tar, out| tar.hard_link("h", &format!("{out}/canary")).file("h", "x")),
    ("a hard link that climbs", |tar, _| tar.hard_link("h", "../outside/canary").file("h", "x")),
    ("a hard link through a link", |tar, out| tar.symlink("s", out).hard_link("h", "s/canary").file("h", "x")),
    ("a hard link to a link", |tar, out| tar.symlink("s", &format!("{out}/canary")).hard_link("h", "s").directory("h", 0o777)),
    ("a hard link put through a link", |tar, out| tar.file("f", "x").symlink("s", out).hard_link("s/linked", "f")),
    ("a whiteout through a link", |tar, out| tar.symlink("s", out).file("s/.wh.canary", "")),
    ("a whiteout of the parent", |tar, _| tar.file(".wh...", "")),
    ("a whiteout of the directory itself", |tar, _| tar.directory("d", 0o755).file("d/.wh..", "")),
    ("an opaque directory through a link", |tar, out| tar.symlink("s", out).file("s/.wh..wh..opq", "")),
    ("links in a circle", |tar, _| tar.symlink("a", "b").symlink("b", "a").file("a/x", "x")),
    ("an entry that is the root, and a link", |tar, out| tar.symlink("./", out).file("canary", "x")),
    ("an entry without a name", |tar, _| tar.file("", "x")),
];

#[test]
fn no_layer_reaches_out_of_its_directory() {
    for (name, build) in CASES {
        let ground = Ground::new();
        let before = ground.outside();
        let outside = ground.path("outside");
        let outcome = ground.unpack(&build(Tar::new(), outside.to_str().unwrap()).bytes());
        assert_eq!(ground.outside(), before, "{name} ({outcome:?})");
    }
}

#[test]
fn paths_that_climb_are_refused() {
    for (name, build) in CASES.iter().filter(|(name, _)| name.contains("climbs") || name.contains("whiteout of")) {
        let outcome = Ground::new().unpack(&build(Tar::new(), "/").bytes());
        assert!(outcome.is_err(), "{name}");
    }
}

#[test]
fn links_are_followed_as_if_the_layer_were_the_whole_system() {
    let ground = Ground::new();
    let tar = Tar::new().directory("usr", 0o755).directory("usr/bin", 0o755).symlink("bin", "/usr/bin").symlink("up", "../../usr");
    ground.unpack(&tar.file("bin/tool", "a").file("up/bin/other", "b").bytes()).unwrap();
    assert_eq!((ground.read("usr/bin/tool"), ground.read("usr/bin/other")), ("a".to_owned(), "b".to_owned()));
}
