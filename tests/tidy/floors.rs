//! Imports go down: every crate with a list of floors is read file by file, and no two files import each other, however many lie between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{assert_none, files, production, read, root};

/// A floor: modules by the first part of their path.
type Floor = &'static [&'static str];

/// The floors of each crate, the highest first: a file imports from its own floor and from those below.
const FLOORS: &[(&str, &[Floor])] = &[
    (
        ".",
        &[
            &["cmd"],
            &["doctor"],
            &["app", "runtimes"],
            &["admin"],
            &["self_test"],
            &["client", "logging"],
            &["config"],
            &["edge_routes", "host_metrics", "ready_file"],
            &["host_snapshot"],
            &["demo_image", "error_chain", "finding", "lock_file", "open_files", "sd_notify", "socket_activation"],
        ],
    ),
    ("api-types", &[&["admin", "error", "pods"]]),
    ("container-rootfs", &[&["prepared"], &["command", "mount_points"], &["identity"], &["root"], &["confinement", "error", "names"]]),
    (
        "control",
        &[
            &["persistence"],
            &["api"],
            &["paid_requests"],
            &["pods"],
            &["operator"],
            &["money", "peers"],
            &["manifest"],
            &["capacity", "pod_sizes", "workload"],
            &["db"],
            &["clock", "factor", "html", "request_log"],
        ],
    ),
    ("control/ilp", &[&["service"], &["connector", "uplink"], &["stream"], &["btp", "ildcp"], &["link"], &["packet"], &["address", "oer"]]),
    ("control/runtime", &[&["embedded", "hyperd", "noop"], &["image", "network"], &["time_sync"], &["error"], &["pod"]]),
    (
        "guest",
        &[
            &["serve"],
            &["pod"],
            &["container"],
            &["inside"],
            &["mounts"],
            &["boot", "confine", "control", "output", "report", "storage"],
            &["devices", "groups", "network", "settings", "sys", "verify"],
            &["failure", "wait"],
        ],
    ),
    ("guest-protocol", &[&["frame", "output"]]),
    ("net", &[&["local"], &["cidr", "netlink", "ports"]]),
    (
        "proxy",
        &[
            &["server"],
            &["downstream"],
            &["request"],
            &["context"],
            &["routing"],
            &["upstream"],
            &["policy"],
            &["telemetry"],
            &["differential", "pod_key", "time", "wire"],
        ],
    ),
    ("supervisor", &[&["fault", "panics", "state"]]),
];

/// What each module of a crate imports of the crate itself, by module paths such as `wire::field`.
struct Imports(BTreeMap<String, BTreeSet<String>>);

impl Imports {
    fn of(krate: &str) -> Imports {
        let source = Path::new(krate.trim_start_matches('.')).join("src");
        let is_test = |file: &PathBuf| file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("test"));
        let modules: BTreeMap<String, PathBuf> = files(&source, "rs")
            .into_iter()
            .filter(|file| !is_test(file))
            .map(|file| (module_of(file.strip_prefix(&source).expect("below its crate")), file))
            .collect();
        let imports = modules.iter().map(|(module, file)| {
            let text: String = production(&read(&root().join(file))).filter(|line| !line.trim_start().starts_with("//")).collect();
            let named = paths_in(&text, module).into_iter().filter_map(|path| nearest(&path, &modules)).filter(|other| other != module);
            (module.clone(), named.collect())
        });
        Imports(imports.collect())
    }

    /// A way from a module back to itself.
    fn circle(&self) -> Option<String> {
        let mut done = BTreeSet::new();
        self.0.keys().find_map(|module| self.circle_from(module, &mut Vec::new(), &mut done))
    }

    fn circle_from<'a>(&'a self, module: &'a str, way: &mut Vec<&'a str>, done: &mut BTreeSet<&'a str>) -> Option<String> {
        if let Some(at) = way.iter().position(|earlier| *earlier == module) {
            return Some(format!("{} -> {module}", way[at..].join(" -> ")));
        }
        if !done.insert(module) {
            return None;
        }
        way.push(module);
        let found = self.0[module].iter().find_map(|next| self.circle_from(next, way, done));
        way.pop();
        found
    }
}

fn module_of(file: &Path) -> String {
    let parts: Vec<_> = file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    parts.join("::")
}

/// The module that a path is in, or of.
fn nearest(path: &[String], modules: &BTreeMap<String, PathBuf>) -> Option<String> {
    (1..=path.len()).rev().map(|length| path[..length].join("::")).find(|name| modules.contains_key(name))
}

/// Paths from the crate's root that a text names, those in braces one by one.
fn paths_in(text: &str, module: &str) -> Vec<Vec<String>> {
    let parent: Vec<&str> = module.split("::").collect();
    let parent = &parent[..parent.len() - 1];
    let mut paths = Vec::new();
    for (start, base) in [("crate::", &[][..]), ("super::", parent)] {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            let end = rest.find(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':')).unwrap_or(rest.len());
            let names = rest[..end].split("::").filter(|name| !name.is_empty());
            let path: Vec<String> = base.iter().copied().chain(names).map(str::to_owned).collect();
            if let Some(group) = rest[end..].strip_prefix('{') {
                let group = &group[..group.find('}').unwrap_or(group.len())];
                paths.extend(group.split(',').map(|name| [path.clone(), vec![name.trim().to_owned()]].concat()));
            }
            paths.push(path);
        }
    }
    paths
}

#[test]
fn imports_go_down() {
    let mut wrong = Vec::new();
    for (krate, floors) in FLOORS {
        let floor = |module: &str| {
            let top = module.split("::").next().unwrap_or_default();
            floors.iter().position(|floor| floor.contains(&top))
        };
        for (module, imported) in Imports::of(krate).0.iter().filter(|(module, _)| !matches!(module.as_str(), "lib" | "main" | "tests")) {
            let Some(own) = floor(module) else {
                wrong.push(format!("{krate}: {module} is on no floor"));
                continue;
            };
            let upward = imported.iter().filter(|other| floor(other).is_some_and(|floor| floor < own));
            wrong.extend(upward.map(|other| format!("{krate}: {module} imports {other}, which is above it")));
        }
    }
    assert_none(&wrong, "a file imports from its own floor, and from those below");
}

#[test]
fn no_files_import_each_other() {
    let circles = FLOORS.iter().filter_map(|(krate, _)| Some(format!("{krate}: {}", Imports::of(krate).circle()?)));
    assert_none(&circles.collect::<Vec<_>>(), "what two files need of each other is a file of its own");
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text = "use crate::a::b::Thing; use crate::c::{self, d}; use super::e; fn f() { crate::g::call() }";
    let found: BTreeSet<String> = paths_in(text, "h::i").into_iter().map(|path| path.join("::")).collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a::b::Thing", "c", "c::d", "c::self", "g::call", "h::e"]);
}
