//! `deploy/codiusd.toml` has every setting with its default, and can be used as it is.

use std::fs;

use codiusd::config::{
    Config, Settings,
    keys::{self, Key},
};

use crate::{read, root};

#[test]
fn the_settings_file_that_is_shipped_has_every_default() {
    let path = root().join("deploy/codiusd.toml");
    let text = read(&path);
    let expected: Vec<String> = keys::all().map(file_entry).collect();
    let missing = expected.iter().any(|entry| !text.contains(entry.as_str()));
    let others = text.lines().filter(|line| line.starts_with("# ") && line.contains(" = ")).count() != expected.len();
    assert!(!missing && !others, "the entries of {} should be:\n{}", path.display(), expected.join("\n"));

    let dev = ("CODIUS_DEV".to_owned(), "true".to_owned());
    let shipped = Settings::read(Some(&path), [dev.clone()]).expect("it is valid");
    let has_default = |setting: &str| keys::all().any(|key| key.default.is_some() && setting.starts_with(&format!("{} = ", key.name)));
    let with_every_default = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting) if has_default(setting) => format!("{setting}\n"),
        _ => String::new(),
    });
    let directory = tempfile::tempdir().expect("make a directory");
    let uncommented = directory.path().join("codiusd.toml");
    fs::write(&uncommented, with_every_default.collect::<String>()).expect("write the file");
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
        let line = text.lines().find_map(|line| line.strip_prefix("# ").filter(|line| line.starts_with(&format!("{} = ", key.name))));
        fs::write(&file, line.unwrap_or_else(|| panic!("no {}", key.name))).expect("write the file");
        let settings = Settings::read(Some(&file), [("CODIUS_DEV".to_owned(), "true".to_owned())]);
        let settings = settings.unwrap_or_else(|error| panic!("{}: {error}", key.name));
        Config::from_settings(&settings).unwrap_or_else(|error| panic!("{}: {error}", key.name));
    }
}

fn file_entry(key: &Key) -> String {
    let value = key.default.or_else(|| key.example()).map_or_else(|| "...".to_owned(), as_toml);
    format!("# {}.\n# In the environment: {}\n# {} = {value}\n", key.help, key.environment.join(", "), key.name)
}

/// Numbers and booleans are written as what they are, the rest as strings.
fn as_toml(value: &str) -> String {
    let bare = format!("value = {value}")
        .parse::<toml::Table>()
        .is_ok_and(|table| matches!(table.get("value"), Some(toml::Value::Boolean(_) | toml::Value::Integer(_) | toml::Value::Float(_))));
    if bare { value.to_owned() } else { format!("{value:?}") }
}

#[test]
fn values_are_written_with_their_types() {
    for (value, written) in
        [("false", "false"), ("3000", "3000"), ("0.75", "0.75"), ("", "\"\""), ("40GiB", "\"40GiB\""), ("127.0.0.1", "\"127.0.0.1\"")]
    {
        assert_eq!(as_toml(value), written);
    }
}
