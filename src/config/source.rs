//! Where values come from: environment, file, default, in this order.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    Config, ConfigError, DEFAULT_FILE,
    keys::{self, Key},
};

/// How much a key must look like another to be taken for a slip, from 0 to 1.
const LIKENESS_MIN: f64 = 0.85;
/// Keys with any number of values.
const LISTS: [&str; 15] = [
    "block_ports",
    "bootstrap_peers",
    "ilp_listen",
    "image_layouts",
    "insecure_registries",
    "machines",
    "pod_dns",
    "pod_host_ports",
    "proxy_protocol",
    "registries_allow",
    "registries_deny",
    "registries_private",
    "tls_certs",
    "tls_listen",
    "trusted_proxies",
];

/// What was set, and where.
#[derive(Debug)]
pub struct Settings(BTreeMap<&'static str, Set>);

#[derive(Debug)]
struct Set {
    value: String,
    /// As an error names it: `CODIUS_PORT`, or `port in /etc/codius/codiusd.toml`.
    origin: String,
}

impl Settings {
    /// Reads file and environment.
    pub fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut settings = match file {
            Some(path) => Self(from_file(path)?),
            None => match from_file(Path::new(DEFAULT_FILE)) {
                Err(Unread::Missing(_)) => Self(BTreeMap::new()),
                other => Self(other?),
            },
        };
        settings.0.extend(Self::of_environment(environment).0);
        Ok(settings)
    }

    /// Reads the environment only. A variable that is empty isn't set.
    pub fn of_environment(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let environment: BTreeMap<String, String> = environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let set = |key: &'static Key| {
            let (name, value) = key.environment.iter().find_map(|name| Some((*name, environment.get(*name)?)))?;
            Some((key.name, Set { value: value.clone(), origin: name.to_owned() }))
        };
        Self(keys::all().filter_map(set).collect())
    }

    /// Whether a key was set at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Where the host keeps its files, whatever else is set.
    pub(crate) fn root(&self) -> Result<PathBuf, ConfigError> {
        self.get("root", "an absolute path", super::parse_path)
    }

    /// A setting that has a default.
    pub(super) fn get<T>(&self, name: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, ConfigError> {
        match self.optional(name, right, parse)? {
            Some(value) => Ok(value),
            None => Err(self.missing(name, right)),
        }
    }

    /// A setting that may be missing.
    pub(super) fn optional<T>(&self, name: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let key = find(name);
        let (value, origin) = match self.0.get(name) {
            Some(set) => (set.value.as_str(), set.origin.as_str()),
            None => match key.default {
                Some(default) => (default, name),
                None => return Ok(None),
            },
        };
        let wrong = || ConfigError::Value {
            origin: origin.to_owned(),
            value: Some(if key.secret { "(hidden)" } else { value }.to_owned()),
            right: format!("must be {right}"),
        };
        parse(value).map(Some).ok_or_else(wrong)
    }

    /// A setting with any number of values. Paths are separated by colons, the rest (addresses hold colons) by commas.
    pub(super) fn list<T>(&self, name: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ConfigError> {
        let separator = if name == "image_layouts" { ':' } else { ',' };
        self.get(name, right, |text| {
            text.split(separator).map(str::trim).filter(|part| !part.is_empty()).map(&parse).collect::<Option<Vec<T>>>()
        })
    }

    pub(super) fn missing(&self, name: &'static str, right: &str) -> ConfigError {
        let environment = find(name).environment.first().unwrap_or(&name);
        ConfigError::Value { origin: format!("{environment} isn't set"), value: None, right: right.to_owned() }
    }

    /// Every key with the value that counts and where it comes from, as a TOML file with comments. Secrets are hidden.
    /// `config` is what was made of these settings.
    pub fn show(&self, config: &Config) -> String {
        let line = |key: &Key| match (self.0.get(key.name), key.default) {
            (Some(set), _) if key.secret => format!("# {} is set and hidden, from {}\n", key.name, set.origin),
            (Some(set), _) => format!("{} = {:?} # from {}\n", key.name, set.value, set.origin),
            (None, Some(default)) => format!("{} = {default:?}\n", key.name),
            (None, None) => match config.chosen(key.name) {
                Some(value) => format!("{} = {value:?} # chosen by the other settings\n", key.name),
                None => format!("# {} isn't set: {}\n", key.name, key.help),
            },
        };
        keys::all().map(line).collect()
    }
}

fn find(name: &str) -> &'static Key {
    keys::all().find(|key| key.name == name).unwrap_or_else(|| unreachable!("{name} isn't in the table of keys"))
}

enum Unread {
    Bad(ConfigError),
    Missing(ConfigError),
}

impl From<Unread> for ConfigError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Bad(error) | Unread::Missing(error) => error,
        }
    }
}

fn from_file(path: &Path) -> Result<BTreeMap<&'static str, Set>, Unread> {
    let fail = |problem: String| ConfigError::File { path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unread::Missing(fail("doesn't exist".to_owned())),
        _ => Unread::Bad(fail(error.to_string())),
    })?;
    let table = DeTable::parse(&text).map_err(|error| Unread::Bad(fail(where_and_why(&text, &error))))?;
    let mut settings = BTreeMap::new();
    for (name, value) in table.into_inner() {
        let name = name.into_inner();
        let Some(key) = keys::all().find(|key| key.name == name) else {
            let hint = nearest(&name).map(|known| format!("; did you mean {known:?}?")).unwrap_or_default();
            let problem = format!("unknown key {name:?}{hint}");
            return Err(Unread::Bad(fail(problem)));
        };
        let value = as_text(key, value.get_ref());
        let value = value.ok_or_else(|| {
            Unread::Bad(fail(format!(
                "{name} must be {}",
                if LISTS.contains(&key.name) { "a string or a list of strings" } else { "a string, number or boolean" }
            )))
        })?;
        settings.insert(key.name, Set { value, origin: format!("{name} in {}", path.display()) });
    }
    Ok(settings)
}

/// A syntax error. The line itself isn't shown: it may hold a secret.
fn where_and_why(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message().replace('\n', " "))
}

/// A value as it would stand in the environment. Numbers stay the digits they are in the file: prices are exact.
fn as_text(key: &Key, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(bool) => Some(bool.to_string()),
        DeValue::Array(items) if LISTS.contains(&key.name) => {
            let items: Option<Vec<String>> = items.iter().map(|item| as_text(key, item.get_ref())).collect();
            Some(items?.join(if key.name == "image_layouts" { ":" } else { "," }))
        }
        DeValue::Array(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

/// The key that was meant by `name`: the one that has it as its environment variable, or one that looks much like it.
fn nearest(name: &str) -> Option<&'static str> {
    if let Some(key) = keys::all().find(|key| key.environment.contains(&name)) {
        return Some(key.name);
    }
    let likeness = |key: &Key| strsim::jaro_winkler(name, key.name);
    let alike = keys::all().filter(|key| likeness(key) >= LIKENESS_MIN);
    alike.max_by(|one, other| likeness(one).total_cmp(&likeness(other))).map(|key| key.name)
}
