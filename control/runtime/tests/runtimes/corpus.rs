//! What well-known images say of themselves, on small images made after them: each starts as Docker starts it, or is refused for what
//! it is. `tests/data/images.json` is the table.

use std::{collections::BTreeMap, fs};

use codiusd_runtime::{Runtime, error::Fault};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    busybox,
    images::{
        Entry::{self, Dir, File, Link, Program},
        layer,
    },
    kit::{Host, collect, id},
};

const BASH: &[u8] = b"#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n";

/// An image as its registry has it, and what becomes of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    image: String,
    config: Value,
    /// The file that is to be executed: it says how.
    program: Option<String>,
    #[serde(default = "shell")]
    interpreter: String,
    /// Without users and groups.
    #[serde(default)]
    bare: bool,
    #[serde(default)]
    passwd: Vec<String>,
    #[serde(default)]
    group: Vec<String>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    dirs: Vec<String>,
    /// All it writes: path and arguments; then user, group, groups, home and directory.
    says: Option<Vec<String>>,
    /// Why it isn't started.
    refused: Option<String>,
}

fn shell() -> String {
    "/bin/busybox sh".to_owned()
}

impl Row {
    /// The program's own text: it looks for the volumes, too.
    fn script(&self) -> String {
        let volumes = self.config["Volumes"].as_object().into_iter().flatten().map(|(path, _)| path.as_str());
        let volumes = volumes.collect::<Vec<_>>().join(" ");
        format!(
            "#!{}\nb=/bin/busybox; echo $0 $*; echo $($b id -u):$($b id -g) $($b id -G) $HOME $($b pwd)\n\
             for v in {volumes}; do $b test -d $v || echo no volume $v; done\n",
            self.interpreter
        )
    }

    fn write(&self, host: &Host, base: &[Vec<u8>]) -> String {
        let script = self.script();
        let passwd = format!("root:x:0:0:root:/root:/bin/sh\n{}\n", self.passwd.join("\n"));
        let group = format!("root:x:0:\n{}\n", self.group.join("\n"));
        let mut entries: Vec<Entry<'_>> = self.links.iter().map(|(path, target)| Link(path, target)).collect();
        entries.extend(self.dirs.iter().map(|path| Dir(path)));
        entries.extend(self.files.iter().map(|(path, text)| Program(path, text.as_bytes())));
        entries.extend(self.program.iter().map(|path| Program(path, script.as_bytes())));
        if !self.bare {
            entries.extend([File("etc/passwd", &passwd), File("etc/group", &group)]);
        }
        busybox::write_image(&host.config.images.layouts[0], &[base, &[layer(&entries)]].concat(), &self.config)
    }
}

pub(crate) async fn well_known_images_start_as_docker_starts_them(host: Host) {
    let rows: Vec<Row> = serde_json::from_str(include_str!("../data/images.json")).unwrap();
    assert!(rows.len() >= 60, "{}", rows.len());
    let program = fs::read("/bin/busybox").expect("busybox-static is installed");
    let base = [
        busybox::layer(&[("bin/busybox", &program, 0o755), ("bin/bash", BASH, 0o755)]),
        layer(&[Link("bin/sh", "busybox"), Link("bin/ash", "busybox"), Link("usr/bin/env", "../../bin/busybox")]),
    ];
    let runtime = host.open();
    let mut wrong = Vec::new();
    for row in rows {
        let mut container = host.script("main", "");
        container.image = row.write(&host, &base);
        container.command = None;
        let started = runtime.start(host.pod('a', vec![container])).await;
        match (started, row.says, row.refused) {
            (Ok(_), Some(expected), None) => {
                let said = collect(runtime.logs(&id('a'), true).await.unwrap()).await;
                if said != expected {
                    wrong.push(format!("{}: wanted {expected:?}, said {said:?}", row.image));
                }
            }
            (Err(error), None, Some(why)) if error.fault() == Fault::Image && error.to_string().contains(&why) => {}
            (started, expected, why) => wrong.push(format!("{}: {started:?}, wanted {expected:?} {why:?}", row.image)),
        }
        runtime.stop(&id('a')).await.unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}
