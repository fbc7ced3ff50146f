//! The rules of this repository that no compiler checks: sizes, floors, and documents that say what is true.

#![expect(clippy::expect_used, reason = "all of this is test code")]

mod api_tables;
mod documents;
mod floors;
mod generated;
mod settings_file;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Lines a file may have, tests at its end not counted.
const LINES_MAX: usize = 500;
/// Directories that aren't ours to check: built, installed or found by fuzzing.
const NOT_OURS: &[&str] = &[".git", ".venv", "artifacts", "corpus", "node_modules", "target"];
/// Source directories of the crates, and the crates of ours each may import.
const CRATES: &[(&str, &[&str])] = &[
    (
        ".",
        &["codiusd-api-types", "codiusd-control", "codiusd-ilp", "codiusd-net", "codiusd-proxy", "codiusd-runtime", "codiusd-supervisor"],
    ),
    ("api-types", &[]),
    ("container-rootfs", &[]),
    ("control", &["codiusd-api-types", "codiusd-ilp", "codiusd-net", "codiusd-runtime", "codiusd-supervisor"]),
    ("control/ilp", &["codiusd-supervisor"]),
    ("control/runtime", &["codiusd-container-rootfs", "codiusd-guest-protocol", "codiusd-net", "codiusd-supervisor"]),
    ("guest", &["codiusd-container-rootfs", "codiusd-guest-protocol", "codiusd-net"]),
    ("net", &[]),
    ("proxy", &["codiusd-net", "codiusd-supervisor"]),
    ("supervisor", &[]),
    ("tests/toolbox", &[]),
];
/// Files that decide and nothing else: no clock, no files, no network, no tasks.
const PURE: &[&str] = &[
    "control/src/factor.rs",
    "control/src/pod_sizes.rs",
    "control/src/manifest/canonical.rs",
    "control/src/manifest/rules.rs",
    "control/src/manifest/vars.rs",
    "control/src/money/invoices.rs",
    "control/src/money/price.rs",
    "control/src/peers/set.rs",
    "control/src/peers/uri.rs",
    "control/src/pods/reconcile.rs",
    "control/src/pods/state.rs",
    "control/runtime/src/network/policy.rs",
    "control/runtime/src/network/ports.rs",
    "control/runtime/src/network/table.rs",
    "proxy/src/downstream/proxy_protocol.rs",
    "proxy/src/pod_key.rs",
    "proxy/src/policy/admit.rs",
    "proxy/src/policy/via.rs",
    "proxy/src/request/error_response.rs",
    "proxy/src/request/host.rs",
    "proxy/src/routing/table.rs",
    "proxy/src/routing/tombstones.rs",
    "proxy/src/wire.rs",
    "proxy/src/wire/answer.rs",
    "proxy/src/wire/chunk.rs",
    "proxy/src/wire/field.rs",
    "proxy/src/wire/request.rs",
    "proxy/src/wire/syntax.rs",
];
/// What a pure file would do those things with.
const IMPURE: &[&str] = &["async ", "Instant::now", "SystemTime", "Timestamp::now", "rand::", "std::fs", "std::net::Tcp", "tokio::"];
/// Phrases that aren't left in the sources, put together so that this file may be checked, too, and what is done instead.
const BANNED: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "do it, or open an issue"),
    (concat!("dbg", "!("), "use tracing"),
    (concat!("#[al", "low("), "use #[expect(..., reason = \"...\")]"),
    (concat!("#![al", "low("), "use #![expect(..., reason = \"...\")]"),
    (concat!("#[ig", "nore"), "a test runs or goes"),
];
/// What starts a task or thread that nobody supervises.
const UNSUPERVISED: &[&str] = &["tokio::spawn(", "task::spawn(", "thread::spawn(", "thread::Builder::new("];
/// Files that start some all the same: how many, and who notices their end.
const NOTICED: &[(&str, usize, &str)] = &[
    ("control/ilp/src/btp/client.rs", 1, "who sends over the connection is told that it has ended"),
    ("control/runtime/src/embedded.rs", 1, "the caller waits for it"),
    ("control/runtime/src/embedded/launch.rs", 1, "waits for a child process and does nothing else"),
    ("control/runtime/src/hyperd.rs", 1, "the caller waits for it"),
    ("control/runtime/src/hyperd/client.rs", 1, "the request over the connection fails"),
    ("control/runtime/src/hyperd/inventory.rs", 2, "the next survey does it again"),
    ("control/runtime/src/image/jail.rs", 1, "the caller waits for it"),
    ("control/runtime/src/network/kernel.rs", 1, "the caller waits for it"),
    ("control/src/db/writer.rs", 1, "what it runs is a job of the supervisor"),
    ("src/self_test.rs", 1, "the caller waits for it"),
];
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below `directory` with this ending, as paths from the root.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for entry in entries.map(|entry| entry.expect("read a directory")) {
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type().expect("a file's type").is_dir() {
                if !NOT_OURS.iter().any(|ours| name == *ours) {
                    open.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path.strip_prefix(root()).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{ending} files below {}", directory.display());
    found
}

fn sources() -> Vec<PathBuf> {
    files(Path::new(""), "rs")
}

/// Says all that is wrong at once.
#[track_caller]
fn assert_none(wrong: &[String], rule: &str) {
    assert!(wrong.is_empty(), "{rule}:\n  {}", wrong.join("\n  "));
}

/// The lines before the tests at a file's end. `#[cfg(test)]` among other modules' declarations ends nothing.
fn production(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().collect();
    let opens_tests =
        |at: usize| lines[at] == "#[cfg(test)]" && lines.get(at + 1).is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'));
    let all = lines.len();
    let count = (0..all).find(|at| opens_tests(*at)).unwrap_or(all);
    lines.into_iter().take(count)
}

#[test]
fn tests_among_modules_do_not_end_the_count() {
    assert_eq!(production("mod a;\n#[cfg(test)]\nmod tests;\nfn b() {}\n").count(), 4);
    assert_eq!(production("fn b() {}\n#[cfg(test)]\nmod tests {\n}\n").count(), 1);
}

#[test]
fn files_are_short() {
    let too_long = sources().into_iter().filter_map(|path| {
        let text = read(&root().join(&path));
        let lines = production(&text).count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", path.display()))
    });
    assert_none(&too_long.collect::<Vec<_>>(), "files have at most 500 lines without their tests");
}

#[test]
fn every_source_file_is_a_module_of_its_parent() {
    let mut wrong = Vec::new();
    for (krate, _) in CRATES {
        let source = Path::new(krate).join("src");
        for path in files(&source, "rs") {
            let below = path.strip_prefix(source.strip_prefix(".").unwrap_or(&source)).expect("below its source directory");
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if stem == "mod" {
                wrong.push(format!("{}: modules are foo.rs and foo/", path.display()));
            }
            let parent = match below.parent().filter(|parent| *parent != Path::new("")) {
                Some(parent) => vec![source.join(parent).with_extension("rs")],
                None if stem == "lib" || stem == "main" => continue,
                None => vec![source.join("lib.rs"), source.join("main.rs")],
            };
            let declared = parent.iter().filter(|file| root().join(file).exists()).any(|file| {
                let text = read(&root().join(file));
                text.lines().any(|line| line.trim_end().ends_with(&format!("mod {stem};")))
            });
            if !declared {
                wrong.push(format!("{}: nobody declares it", path.display()));
            }
        }
    }
    assert_none(&wrong, "a source file is part of its crate");
}

#[test]
fn crates_import_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for (krate, allowed) in CRATES {
        let manifest: toml::Table = read(&root().join(krate).join("Cargo.toml")).parse().expect("a manifest is TOML");
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table).expect("dependencies");
        let names: Vec<&str> = dependencies.keys().map(String::as_str).collect();
        for name in names {
            let foreign = name.starts_with("codiusd-") && !allowed.contains(&name);
            let frame_of_the_door = name.starts_with("pingora") && *krate != "proxy";
            if foreign || frame_of_the_door {
                wrong.push(format!("{krate} imports {name}"));
            }
        }
    }
    assert_none(&wrong, "the two planes don't know each other");
}

#[test]
fn what_decides_has_no_clock_and_no_io() {
    let mut wrong = Vec::new();
    for file in PURE {
        let text = read(&root().join(file));
        for (number, line) in production(&text).enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for impure in IMPURE.iter().filter(|impure| line.contains(**impure)) {
                wrong.push(format!("{file}:{}: {impure}", number + 1));
            }
        }
    }
    assert_none(&wrong, "time is an input, and so is everything else");
}

#[test]
fn every_task_has_somebody_who_notices_its_end() {
    let mut wrong = Vec::new();
    for path in sources().into_iter().filter(|path| !path.starts_with("tests") && !path.starts_with("supervisor")) {
        let name = path.to_string_lossy();
        if name.contains("tests") || name.contains("/examples/") || name.starts_with("demo") {
            continue;
        }
        let text = read(&root().join(&path));
        let starts = production(&text).filter(|line| UNSUPERVISED.iter().any(|call| line.contains(call))).count();
        let may = NOTICED.iter().find(|(file, ..)| *file == name).map_or(0, |(_, count, _)| *count);
        if starts != may {
            wrong.push(format!("{name} starts {starts} tasks or threads itself, where {may} may be"));
        }
    }
    assert_none(&wrong, "tasks and threads are started by the supervisor, or stand in NOTICED with who notices their end");
}

#[test]
fn nothing_unfinished_is_left() {
    let mut wrong = Vec::new();
    for path in sources() {
        for (number, line) in read(&root().join(&path)).lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            for (phrase, instead) in BANNED.iter().filter(|(phrase, _)| line.contains(phrase)) {
                wrong.push(format!("{place}: {phrase}: {instead}"));
            }
            if is_code_in_a_comment(line) {
                wrong.push(format!("{place}: code in a comment: {}", line.trim()));
            }
        }
    }
    assert_none(&wrong, "what is unfinished isn't committed");
}

/// A line of an ordinary comment that ends as a statement does.
fn is_code_in_a_comment(line: &str) -> bool {
    let Some(comment) = line.trim_start().strip_prefix("// ") else { return false };
    let comment = comment.trim();
    let starts = ["let ", "use ", "fn ", "pub ", "return ", "if ", "for ", "assert"].iter().any(|word| comment.starts_with(word));
    comment.ends_with(");") || comment.ends_with("};") || (starts && (comment.ends_with(';') || comment.ends_with('{')))
}
