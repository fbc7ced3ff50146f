//! The house rules, as a test.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use codiusd::config::keys::KEYS;

/// Production lines of one file, at most; its tests don't count.
const LINES_MAX: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "node_modules", ".git"].contains(&name.as_str()) {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(root(), "rs", &mut found);
    assert!(found.len() > 80, "the tree is looked at from {}", root().display());
    found.into_iter().map(|path| (path.strip_prefix(root()).unwrap().display().to_string(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn files_stay_small() {
    for (name, text) in sources() {
        let production = text.split("#[cfg(test)]").next().unwrap();
        let lines = production.lines().count();
        assert!(lines <= LINES_MAX, "{name} has {lines} lines: which second job has it taken on?");
    }
}

#[test]
fn nothing_is_left_lying_about() {
    let banned = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X "), concat!("db", "g!("), concat!("#[al", "low(")];
    for (name, text) in sources() {
        for word in banned {
            assert!(!text.contains(word), "{name} holds {word:?}");
        }
    }
}

#[test]
fn rooms_import_only_whom_they_may() {
    let manifest = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let table = [
        ("proxy/Cargo.toml", &["codiusd-control", "codiusd-ilp", "codiusd-runtime"][..]),
        ("control/ilp/Cargo.toml", &["codiusd-control", "codiusd-proxy", "codiusd-runtime"]),
        ("control/runtime/Cargo.toml", &["codiusd-control", "codiusd-proxy", "codiusd-ilp"]),
        ("control/Cargo.toml", &["codiusd-proxy", "pingora"]),
    ];
    for (path, banned) in table {
        let text = manifest(path);
        let dependencies = text.split("[dependencies]").nth(1).unwrap();
        for name in banned {
            assert!(!dependencies.lines().any(|line| line.starts_with(name)), "{path} must not depend on {name}");
        }
    }
}

#[test]
fn documents_name_files_that_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for word in text.split(|c: char| c.is_whitespace() || "`()[],|".contains(c)) {
            let is_path = word.contains('/') && [".rs", ".toml", ".md", ".service"].iter().any(|end| word.ends_with(end));
            if is_path && !word.starts_with('/') && !word.contains("://") {
                assert!(root().join(word).exists(), "{document} names {word}, which isn't there");
            }
        }
    }
}

#[test]
fn every_setting_is_documented_as_it_is() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let example = fs::read_to_string(root().join("deploy/codiusd.toml")).unwrap();
    let in_example: BTreeSet<&str> = example.lines().filter_map(|line| line.strip_prefix("# ")?.split_once(" = ").map(|(name, _)| name)).collect();
    for key in KEYS {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{}` |", key.name)));
        let row = row.unwrap_or_else(|| panic!("README.md doesn't explain {}", key.name));
        for name in key.environment {
            assert!(row.contains(&format!("`{name}`")), "README.md: {} is also {name}", key.name);
        }
        if let Some(default) = key.default.filter(|default| !default.is_empty()) {
            assert!(row.contains(&format!("`{default}`")), "README.md: {} is {default} by default", key.name);
            let line = format!("# {} = {default:?}", key.name);
            assert!(example.lines().any(|found| found == line), "deploy/codiusd.toml lacks {line}");
        }
        assert!(row.contains(key.help), "README.md: {} is for something else", key.name);
        assert!(in_example.contains(key.name), "deploy/codiusd.toml lacks {}", key.name);
    }
    assert_eq!(in_example.len(), KEYS.len(), "deploy/codiusd.toml has settings that don't exist");
    assert!(!readme.contains("@@"), "README.md has a figure that was never filled in");
}
