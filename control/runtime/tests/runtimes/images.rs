//! What images hold and say of themselves, and what their containers are then: by Docker's rules, or refused by name.

use std::fs;

use codiusd_runtime::{Runtime, error::Fault};
use serde_json::{Value, json};

use crate::{
    busybox,
    kit::{Host, collect, id, output_of},
};

/// Something in an image's upper layers.
#[derive(Clone, Copy)]
pub(crate) enum Entry<'a> {
    Dir(&'a str),
    File(&'a str, &'a str),
    Program(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}

use Entry::{Dir, File, Link, Program};

enum Outcome {
    /// These lines are among what is written.
    Says(&'static [&'static str]),
    /// It isn't started, and this is in the reason.
    Refused(&'static str),
}

use Outcome::{Refused, Says};

/// Layers above the one with busybox, lowest first; what the image says of itself; the outcome.
type Row<'a> = (&'a [&'a [Entry<'a>]], Value, Outcome);

const PASSWD: Entry<'_> =
    File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv/web:/bin/sh\nbig:x:65536:1::/:/bin/sh\n");
const GROUP: Entry<'_> = File("etc/group", "root:x:0:\n# www:x:9:\nwww:x:102:\nlogs:x:7:other,web\nmany:x:8:web\nbig:x:65536:web\n");
/// Where the resolver of systemd has it: there is no such file in an image.
const STUB: &str = "../run/systemd/resolve/stub-resolv.conf";
/// An ELF header of a big-endian machine.
const OF_S390X: &[u8] = b"\x7fELF\x02\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x16";

pub(crate) fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        let (path, content, kind, mode) = match entry {
            Dir(path) => (path, &b""[..], tar::EntryType::Directory, 0o755),
            File(path, text) => (path, text.as_bytes(), tar::EntryType::Regular, 0o644),
            Program(path, bytes) => (path, *bytes, tar::EntryType::Regular, 0o755),
            Link(path, _) => (path, &b""[..], tar::EntryType::Symlink, 0o777),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        for set in [tar::Header::set_uid, tar::Header::set_gid] {
            set(&mut header, 0);
        }
        header.set_mtime(0);
        match entry {
            Link(_, target) => tar.append_link(&mut header, path, target).unwrap(),
            _ => tar.append_data(&mut header, path, content).unwrap(),
        }
    }
    tar.into_inner().unwrap()
}

fn image(host: &Host, layers: &[&[Entry<'_>]], settings: &Value) -> String {
    let program = fs::read("/bin/busybox").expect("busybox-static is installed");
    let base = busybox::layer(&[("bin/busybox", &program, 0o755), ("bin/sh", b"#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n", 0o755)]);
    let layers: Vec<Vec<u8>> = std::iter::once(base).chain(layers.iter().map(|entries| layer(entries))).collect();
    busybox::write_image(&host.config.images.layouts[0], &layers, settings)
}

/// Runs every row to its end, and says of all that went wrong which it was.
async fn all_of(host: &Host, rows: Vec<Row<'_>>) {
    let runtime = host.open();
    let mut wrong = Vec::new();
    for (number, (layers, settings, outcome)) in rows.into_iter().enumerate() {
        let mut container = host.script("main", "");
        container.image = image(host, layers, &settings);
        container.command = None;
        match outcome {
            Says(lines) => {
                if let Err(error) = runtime.start(host.pod('a', vec![container])).await {
                    wrong.push(format!("{number}: {settings}: {error:?}"));
                    continue;
                }
                let said = collect(runtime.logs(&id('a'), true).await.unwrap()).await;
                runtime.stop(&id('a')).await.unwrap();
                if !lines.iter().all(|line| said.iter().any(|text| text == line)) {
                    wrong.push(format!("{number}: {settings}: wanted {lines:?}, said {said:?}"));
                }
            }
            Refused(why) => match runtime.start(host.pod('a', vec![container])).await {
                Err(error) if error.fault() == Fault::Image && error.to_string().contains(why) => {}
                other => {
                    wrong.push(format!("{number}: {settings}: wanted {why:?}, not {other:?}"));
                    runtime.stop(&id('a')).await.ok(); // only if it runs
                }
            },
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

/// Says whose it is and where.
const WHO: &str = "echo $(busybox id -u) $(busybox id -g) $(busybox id -G) $HOME";
/// Says that the host's own file systems are there.
const MOUNTS: &str = "test -e /proc/self/status && test -d /sys/fs/cgroup && test -c /dev/null && test -w /dev/shm && \
    busybox grep -q nameserver /etc/resolv.conf && busybox grep -q localhost /etc/hosts && echo whole";

fn script(script: &str, mut settings: Value) -> Value {
    settings["Cmd"] = json!(["/bin/busybox", "sh", "-c", script]);
    settings
}

fn user(user: &str) -> Value {
    script(WHO, json!({ "User": user }))
}

fn users() -> Vec<Row<'static>> {
    vec![
        (&[&[PASSWD, GROUP]], user(""), Says(&["0 0 0 /root"])),
        (&[&[PASSWD, GROUP]], user("web"), Says(&["101 102 102 7 8 /srv/web"])),
        (&[&[PASSWD, GROUP]], user("101"), Says(&["101 102 102 7 8 /srv/web"])),
        (&[&[PASSWD, GROUP]], user("web:"), Says(&["101 102 102 7 8 /srv/web"])),
        (&[&[PASSWD, GROUP]], user("web:www"), Says(&["101 102 102 /srv/web"])),
        (&[&[PASSWD, GROUP]], user("web:55"), Says(&["101 55 55 /srv/web"])),
        (&[&[PASSWD, GROUP]], user(":55"), Says(&["0 55 55 /root"])),
        (&[&[PASSWD, GROUP]], user(":www"), Says(&["0 102 102 /root"])),
        (&[&[PASSWD, GROUP]], user("web:www:more"), Says(&["101 102 102 /srv/web"])),
        (&[&[PASSWD, GROUP]], user("10001:"), Says(&["10001 0 0 /"])),
        (&[], user("10001"), Says(&["10001 0 0 /"])),
        (&[], user("10001:10002"), Says(&["10001 10002 10002 /"])),
        (&[], user(""), Says(&["0 0 0 /"])),
        (&[&[PASSWD]], script(WHO, json!({ "User": "web", "Env": ["HOME=/mine"] })), Says(&["101 102 102 /mine"])),
        // Links are followed through all layers together.
        (&[&[Link("etc", "usr/etc")], &[File("usr/etc/passwd", "web:x:101:102::/w:/\n")]], user("web"), Says(&["101 102 102 /w"])),
        (&[&[File("lib/passwd", "web:x:101:102::/w:/\n")], &[Link("etc/passwd", "/lib/passwd")]], user("web"), Says(&["101 102 102 /w"])),
        (&[&[Link("etc/passwd", "../lib/passwd")], &[File("lib/passwd", "web:x:9:9::/w:/\n")]], user("web"), Says(&["9 9 9 /w"])),
        // A layer hides what is below it.
        (&[&[PASSWD], &[File("etc/.wh.passwd", "")]], user("web"), Refused("/etc/passwd isn't there")),
        (&[&[PASSWD], &[File("etc/.wh..wh..opq", ""), File("etc/group", "www:x:3:\n")]], user("0:www"), Says(&["0 3 3 /"])),
        (&[&[PASSWD], &[File(".wh.etc", "")], &[File("etc/passwd", "web:x:5:6::/w:/\n")]], user("web"), Says(&["5 6 6 /w"])),
        (
            &[&[Link("etc", "usr/etc"), File("usr/etc/passwd", "web:x:5:6::/w:/\n")], &[File("usr/etc/.wh..wh..opq", "")]],
            user("web"),
            Refused("/etc/passwd isn't there"),
        ),
        (&[&[PASSWD]], user("nobody"), Refused("no user \"nobody\": /etc/passwd doesn't name it")),
        (&[], user("nobody"), Refused("no user \"nobody\": /etc/passwd isn't there")),
        (&[&[PASSWD]], user("web:nobody"), Refused("no group \"nobody\"")),
        (&[&[PASSWD]], user("big"), Refused("0 to 65535")),
        (&[], user("65536"), Refused("0 to 65535")),
        (&[&[Link("etc/passwd", "passwd")]], user("web"), Refused("/etc/passwd is a loop of links")),
        (&[&[Link("etc/passwd", "../../../../../../../../etc/passwd")]], user("daemon"), Refused("no user \"daemon\"")),
        (&[&[Dir("etc/passwd")]], user("7"), Says(&["7 0 0 /"])),
    ]
}

fn mount_points() -> Vec<Row<'static>> {
    let whole = || script(MOUNTS, json!({}));
    vec![
        (&[], whole(), Says(&["whole"])),
        (&[&[Link("etc/resolv.conf", STUB)]], whole(), Says(&["whole"])),
        (&[&[Link("etc/resolv.conf", "/run/nowhere")]], whole(), Says(&["whole"])),
        (&[&[Link("etc/resolv.conf", "resolv.conf")]], whole(), Says(&["whole"])),
        (&[&[Link("etc/hosts", "/proc/self/mounts"), Link("etc/hostname", "/dev/null")]], whole(), Says(&["whole"])),
        (&[&[Link("etc/resolv.conf", "hosts"), Link("etc/hosts", "resolv.conf")]], whole(), Says(&["whole"])),
        (&[&[Link("etc/hostname", "../../../../../../etc/hostname")]], whole(), Says(&["whole"])),
        (&[&[Dir("etc/hosts")]], whole(), Refused("/etc/hosts of the image can't be mounted on")),
        (&[&[File("etc/hostname/kept", "")]], whole(), Refused("/etc/hostname of the image can't be mounted on")),
        (&[&[Link("dev/shm", "/nowhere"), File("dev/null", "the image's")]], whole(), Says(&["whole"])),
        (&[&[File("dev/shm", ""), Dir("dev/null"), File("sys/fs", "")]], whole(), Says(&["whole"])),
        (&[&[Dir("dev/shm/x"), Link("dev/pts", "pts")]], whole(), Says(&["whole"])),
        (&[&[Link("proc", "proc"), Link("sys", "../../../../sys"), Link("dev", "/proc")]], whole(), Says(&["whole"])),
        (&[&[File(".wh.etc", ""), File(".wh.proc", "")]], whole(), Says(&["whole"])),
        (&[&[Dir("etc/resolv.conf")]], whole(), Refused("/etc/resolv.conf")),
        (&[&[Link("etc", "usr/etc"), Dir("usr/etc")]], whole(), Says(&["whole"])),
        (&[&[Link("etc", "/usr/nowhere")]], whole(), Says(&["whole"])),
        (&[&[Link("etc", "etc")]], whole(), Says(&["whole"])),
        (&[&[Link("etc", "/proc/etc")]], whole(), Says(&["whole"])),
        (&[&[File("etc", "")]], whole(), Says(&["whole"])),
        (&[&[Link("proc", "tmp"), Dir("tmp")]], whole(), Says(&["whole"])),
        (&[&[Link("sys", "/nowhere"), Link("dev", "dev")]], whole(), Says(&["whole"])),
        (&[&[File("proc", ""), File("sys", ""), File("dev", "")]], whole(), Says(&["whole"])),
    ]
}

fn directories() -> Vec<Row<'static>> {
    let at = |path: &str| script("pwd", json!({ "WorkingDir": path }));
    let volumes =
        |path: &str| script("test -d /data && test -d /mnt/y && echo made", json!({ "Volumes": { path: {}, "/mnt/x/../y": {} } }));
    vec![
        (&[], at("/a/../srv/./x//y"), Says(&["/srv/x/y"])),
        (&[], at("/../.."), Says(&["/"])),
        (&[&[Link("srv", "/var/srv")]], at("/srv/x"), Says(&["/var/srv/x"])),
        (&[], at("/sys/fs"), Says(&["/sys/fs"])),
        (&[&[File("srv", "")]], at("/srv"), Refused("working directory /srv: Not a directory")),
        (&[&[Link("srv", "srv")]], at("/srv"), Refused("working directory /srv")),
        (&[], at("srv"), Refused("working directory")),
        (&[], volumes("/data"), Says(&["made"])),
        (&[], volumes("data"), Says(&["made"])),
        (&[&[Link("data", "/var/data")]], volumes("/data"), Says(&["made"])),
        (&[&[File("data", "")]], volumes("/data"), Refused("volume /data")),
    ]
}

fn commands() -> Vec<Row<'static>> {
    let cmd = |words: &[&str]| json!({ "Cmd": words });
    vec![
        (&[], json!({ "Entrypoint": ["/bin/busybox", "echo", "e"], "Cmd": ["c"] }), Says(&["e c"])),
        (&[], json!({ "Entrypoint": ["busybox"], "Cmd": ["echo", "c"] }), Says(&["c"])),
        (&[], json!({ "Entrypoint": [""], "Cmd": ["busybox", "echo", "c"] }), Says(&["c"])),
        (&[], json!({ "Cmd": ["busybox", "env"], "Env": ["discovery.type=one", "A-B=2", "bare"] }), Says(&["discovery.type=one", "A-B=2"])),
        (&[], json!({ "Cmd": ["./busybox", "echo", "c"], "WorkingDir": "/bin" }), Says(&["c"])),
        (&[], json!({}), Refused("says no command")),
        (&[], cmd(&["/nowhere"]), Refused("\"/nowhere\" isn't in the image")),
        (&[], cmd(&["/bin"]), Refused("is a directory")),
        (&[&[Link("x", "x")]], cmd(&["/x"]), Refused("loop of links")),
        (&[&[Program("x", b"#!/bin/bash\n")]], cmd(&["/x"]), Refused("/x needs the interpreter /bin/bash, which isn't in the image")),
        (&[&[Program("x", b"#!/bin/sh\r\n")]], cmd(&["/x"]), Refused("which isn't in the image")),
        (&[&[Program("x", b"#!\n")]], cmd(&["/x"]), Refused("names no interpreter")),
        (&[&[Program("x", b"echo hello\n")]], cmd(&["/x"]), Refused("exec format error")),
        (&[&[Program("x", OF_S390X)]], cmd(&["/x"]), Refused("/x is a program for s390x")),
    ]
}

pub(crate) async fn images_of_all_kinds_start_or_say_why(host: Host) {
    all_of(&host, [users(), mount_points(), directories(), commands()].into_iter().flatten().collect()).await;

    let runtime = host.open();
    let mut asked = host.command("main", &["mine"]);
    asked.image = image(&host, &[], &json!({ "Entrypoint": ["/bin/busybox", "echo", "e"], "Cmd": ["c"] }));
    assert_eq!(output_of(&host, &runtime, asked).await, ["e mine"], "the command takes the place of the image's own, the entrypoint stays");
    let mut named = host.command("main", &["/bin/busybox", "env"]);
    named.env = vec![("discovery.type".to_owned(), "single-node".to_owned())];
    let said = output_of(&host, &runtime, named).await;
    assert!(said.contains(&"discovery.type=single-node".to_owned()), "{said:?}");
}

pub(crate) async fn volumes_of_a_read_only_root_are_written_to(mut host: Host) {
    host.config.read_only = true;
    let writes = "echo x >/data/x && echo wrote; busybox touch /y 2>/dev/null || echo kept";
    let settings = || script(writes, json!({ "Volumes": { "/data": {} } }));
    let layers: [&[Entry<'_>]; 1] = [&[Link("data", "/var/data")]];
    all_of(&host, vec![(&[], settings(), Says(&["wrote", "kept"])), (&layers, settings(), Says(&["wrote", "kept"]))]).await;
}

pub(crate) async fn no_link_of_an_image_leads_out_of_it(host: Host) {
    let outside = tempfile::tempdir().unwrap();
    let absolute = outside.path().to_str().unwrap();
    let relative = format!("{}{absolute}", "../".repeat(30));
    let settings = |workdir: &str| script(MOUNTS, json!({ "WorkingDir": workdir, "Volumes": { "/data/below": {} } }));
    let (to_absolute, to_relative) =
        (["etc", "srv", "data", "sys"].map(|name| Link(name, absolute)), ["etc", "srv", "data", "dev"].map(|name| Link(name, &relative)));
    let (one, two) = ([&to_absolute[..]], [&to_relative[..]]);
    all_of(&host, vec![(&one, settings("/srv/below"), Says(&["whole"])), (&two, settings("/srv/below"), Says(&["whole"]))]).await;
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "made on the host");
}
