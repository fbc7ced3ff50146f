//! What is run of an image, as whom.

use std::{fs, os::unix::fs::symlink};

use super::kit::Ground;
use crate::{
    ContainerSpec, RuntimeError,
    image::{Image, ImageSettings, Process, process_of},
};

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/sh\nbig:x:65536:1::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwww:x:102:\nlogs:x:7:other,web\nmany:x:8:web\nbig:x:65536:web\n";

fn settings() -> ImageSettings {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    ImageSettings {
        entrypoint: words(&["/entry"]),
        cmd: words(&["one", "two"]),
        env: words(&["PATH=/opt/bin", "A=1", "B=2", "no-assignment"]),
        working_dir: Some("/srv".to_owned()),
        user: None,
    }
}

fn spec() -> ContainerSpec {
    ContainerSpec { name: "app".to_owned(), image: "local/x@sha256:0".to_owned(), command: None, workdir: None, env: Vec::new() }
}

fn image(ground: &Ground, settings: ImageSettings) -> Image {
    Image { layers: vec![ground.path("lower"), ground.path("upper")], settings, uses: Vec::new() }
}

/// Two layers: users in the lower one, groups in the upper one.
fn layers() -> Ground {
    let ground = Ground::new();
    for layer in ["lower", "upper"] {
        fs::create_dir_all(ground.path(layer).join("etc")).unwrap();
    }
    fs::write(ground.path("lower/etc/passwd"), PASSWD).unwrap();
    fs::write(ground.path("lower/etc/group"), "www:x:9:\n").unwrap();
    fs::write(ground.path("upper/etc/group"), GROUP).unwrap();
    ground
}

fn as_user(ground: &Ground, user: &str) -> Result<Process, RuntimeError> {
    process_of(&image(ground, ImageSettings { user: Some(user.to_owned()), ..settings() }), &spec())
}

#[test]
fn the_manifest_overrides_the_image() {
    let ground = layers();
    let image = image(&ground, settings());
    let own = process_of(&image, &spec()).unwrap();
    assert_eq!((own.args, own.cwd.as_str()), (vec!["/entry".to_owned(), "one".to_owned(), "two".to_owned()], "/srv"));
    assert_eq!(own.env, ["PATH=/opt/bin", "A=1", "B=2"]);

    let env = [("B", "3"), ("C", "x=y"), ("C", "z")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let asked = ContainerSpec { command: Some(vec!["/mine".to_owned()]), workdir: Some("/".to_owned()), env: env.into(), ..spec() };
    let asked = process_of(&image, &asked).unwrap();
    assert_eq!((asked.args, asked.cwd.as_str()), (vec!["/mine".to_owned()], "/"));
    assert_eq!(asked.env, ["PATH=/opt/bin", "A=1", "B=3", "C=z"]);
    assert!(!format!("{:?}", process_of(&image, &spec()).unwrap()).contains("B=2"), "variables may be private");
}

#[test]
fn an_image_that_says_nothing_gets_defaults_or_is_refused() {
    let ground = layers();
    let bare = process_of(&image(&ground, ImageSettings::default()), &spec());
    assert!(matches!(bare, Err(RuntimeError::ImageRefused { .. })), "no command: {bare:?}");
    let cmd = ImageSettings { cmd: settings().cmd, ..ImageSettings::default() };
    let process = process_of(&image(&ground, cmd), &spec()).unwrap();
    assert_eq!((process.cwd.as_str(), process.uid, process.gid), ("/", 0, 0));
    assert!(process.env[0].starts_with("PATH=/usr/local/sbin:"), "{:?}", process.env);
    let relative = ImageSettings { working_dir: Some("srv".to_owned()), ..settings() };
    assert!(process_of(&image(&ground, relative), &spec()).is_err());
}

#[test]
fn users_are_found_by_name_and_number_in_the_topmost_file() {
    let ground = layers();
    let who = |user: &str| as_user(&ground, user).map(|process| (process.uid, process.gid, process.additional_gids)).ok();
    for (user, expected) in [
        ("", Some((0, 0, vec![]))),
        ("web", Some((101, 102, vec![7, 8]))),
        ("101", Some((101, 102, vec![7, 8]))),
        ("web:www", Some((101, 102, vec![]))),
        ("web:55", Some((101, 55, vec![]))),
        ("4242", Some((4242, 0, vec![]))),
        ("4242:4343", Some((4242, 4343, vec![]))),
        (":www", Some((0, 102, vec![]))),
        ("nobody", None),
        ("web:nobody", None),
        ("65536", None),
        ("big", None),
        ("-1", None),
        ("0:65536", None),
    ] {
        assert_eq!(who(user), expected, "{user:?}");
    }
}

/// Not the host's users, and nothing that would block or never end.
#[test]
fn user_files_are_the_image_s_own() {
    let host_user = fs::read_to_string("/etc/passwd").unwrap().lines().find(|line| !line.starts_with("root:")).unwrap().to_owned();
    let name = host_user.split(':').next().unwrap();
    let ground = layers();
    fs::remove_file(ground.path("lower/etc/passwd")).unwrap();
    let replace: [&dyn Fn(&std::path::Path); 4] = [
        &|path| symlink("/etc/passwd", path).unwrap(),
        &|path| symlink("../../../../../../../../etc/passwd", path).unwrap(),
        &|path| symlink("/proc/self/root/etc/passwd", path).unwrap(),
        &|path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        },
    ];
    for (number, put) in replace.iter().enumerate() {
        let path = ground.path("upper/etc/passwd");
        put(&path);
        assert!(as_user(&ground, name).is_err(), "case {number}");
        assert_eq!(as_user(&ground, "12").unwrap().uid, 12, "case {number}");
        fs::remove_file(path).unwrap();
    }
}
