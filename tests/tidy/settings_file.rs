//! `deploy/codiusd.toml` has every setting with its default, and can be used as it is. That it has them all, `generated` says.

use std::{fs, path::Path};

use codiusd::config::{Config, Settings, key::Key, keys};

use crate::{files, read, root};

/// A line of the settings file that sets a key when its comment sign is removed.
fn setting(line: &str) -> Option<&str> {
    let setting = line.strip_prefix("# ")?;
    let (name, _) = setting.split_once(" = ")?;
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_').then_some(setting)
}

#[test]
fn the_settings_file_that_is_shipped_has_every_default() {
    let path = root().join("deploy/codiusd.toml");
    let text = read(&path);
    let dev = ("CODIUS_DEV".to_owned(), "true".to_owned());
    let shipped = Settings::read(Some(&path), [dev.clone()]).expect("it is valid");
    let mut table = "";
    let with_every_default = text.lines().map(|line| {
        if line.starts_with('[') {
            table = line.trim_matches(['[', ']']);
            return format!("{line}\n");
        }
        if line == "# [[pod_size]]" {
            table = "pod_size";
            return "[[pod_size]]\n".to_owned();
        }
        let has_default = |name: &str| {
            let path = if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
            table == "pod_size" || keys::all().any(|key| key.default.is_some() && key.path == path)
        };
        match setting(line).filter(|setting| setting.split_once(" = ").is_some_and(|(name, _)| has_default(name))) {
            Some(setting) => format!("{setting}\n"),
            None => String::new(),
        }
    });
    let directory = tempfile::tempdir().expect("make a directory");
    let uncommented = directory.path().join("codiusd.toml");
    let text: String = with_every_default.collect();
    assert!(text.lines().filter(|line| line.contains(" = ")).count() > 70, "{text}");
    fs::write(&uncommented, text).expect("write the file");
    let explicit = Settings::read(Some(&uncommented), [dev]).expect("it is valid without its comment signs");
    let made = |settings: &Settings| Config::from_settings(settings).expect("it can be used");
    let (mut shipped, explicit) = (made(&shipped), made(&explicit));
    // A socket that is set chooses the runtime, also if it is the usual one.
    shipped.runtime.clone_from(&explicit.runtime);
    assert_eq!(format!("{shipped:?}"), format!("{explicit:?}"));
}

#[test]
fn settings_without_default_can_be_used_as_the_file_shows_them() {
    let text = read(&root().join("deploy/codiusd.toml"));
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("codiusd.toml");
    let without: Vec<&Key> = keys::all().filter(|key| key.default.is_none()).collect();
    assert!(!without.is_empty());
    for key in without {
        let section =
            if key.table().is_empty() { text.as_str() } else { text.split_once(&format!("\n[{}]\n", key.table())).expect("its table").1 };
        let line = section.lines().find_map(|line| setting(line).filter(|line| line.starts_with(&format!("{} = ", key.name()))));
        let line = line.unwrap_or_else(|| panic!("no {}", key.path));
        let head = if key.table().is_empty() { String::new() } else { format!("[{}]\n", key.table()) };
        fs::write(&file, format!("{head}{line}")).expect("write the file");
        let settings = Settings::read(Some(&file), [("CODIUS_DEV".to_owned(), "true".to_owned())]);
        let settings = settings.unwrap_or_else(|error| panic!("{}: {error}", key.path));
        Config::from_settings(&settings).unwrap_or_else(|error| panic!("{}: {error}", key.path));
    }
}

/// Settings that documents show are settings.
#[test]
fn settings_in_documents_are_accepted() {
    let directory = tempfile::tempdir().expect("make a directory");
    let file = directory.path().join("codiusd.toml");
    let mut found = 0;
    for document in files(Path::new("docs"), "md") {
        let text = read(&root().join(&document));
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            fs::write(&file, block).expect("write the file");
            let settings = Settings::read(Some(&file), [("CODIUS_DEV".to_owned(), "true".to_owned())]);
            settings
                .and_then(|settings| Config::from_settings(&settings))
                .unwrap_or_else(|error| panic!("{}: {error}", document.display()));
            found += 1;
        }
    }
    assert!(found > 2, "{found}");
}
