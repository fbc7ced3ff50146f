//! Documents say what is true: paths and links lead somewhere, and the README is short.

use std::path::Path;

use crate::{assert_none, files, read, root, sources};

/// First parts of paths in this repository, by which a path in a text is told from others.
const TOP: &[&str] = &[".ci", "api-types", "certs", "control", "demo", "deploy", "docs", "net", "proxy", "src", "supervisor", "tests"];
/// Bytes of the README.
const README_MAX: usize = 6_500;

#[test]
fn paths_in_texts_exist() {
    let documents = files(Path::new(""), "md").into_iter().map(|path| (path, false));
    let mut wrong = Vec::new();
    for (path, is_source) in documents.chain(sources().into_iter().map(|path| (path, true))) {
        let text = read(&root().join(&path));
        let lines = text.lines().filter(|line| !is_source || line.trim_start().starts_with("//"));
        for word in lines.flat_map(|line| line.split(['`', '(', ')', '[', ']', ' ', ',', ';'])) {
            let word = word.trim_end_matches(['.', ':', '/']);
            let is_path = word.split_once('/').is_some_and(|(first, rest)| TOP.contains(&first) && !rest.is_empty());
            let is_file = !is_source && !word.contains('/') && word.ends_with(".md");
            if (is_path || is_file) && !exists(&path, word) {
                wrong.push(format!("{} names {word}", path.display()));
            }
        }
    }
    assert_none(&wrong, "texts name only files that exist");
}

/// Whether a path is there from the root, or from the crate of the file that names it.
fn exists(named_in: &Path, path: &str) -> bool {
    let mut bases = named_in.ancestors().skip(1).map(|base| root().join(base));
    bases.any(|base| base.join(path).exists())
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in files(Path::new(""), "md") {
        let text = read(&root().join(&document));
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let file = if path.is_empty() { root().join(&document) } else { root().join(document.with_file_name(path)) };
            let has_anchor = |anchor: &str| read(&file).lines().any(|line| line.starts_with('#') && anchor_of(line) == anchor);
            if !file.exists() || anchor.is_some_and(|anchor| !has_anchor(anchor)) {
                wrong.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert_none(&wrong, "links lead to files and headings that exist");
}

/// As forges make it of a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn the_readme_is_read_in_a_minute() {
    let size = read(&root().join("README.md")).len();
    assert!(size <= README_MAX, "README.md has {size} bytes: what of it belongs to docs/?");
}
