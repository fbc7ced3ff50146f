//! Sources of values: environment, file, default, in this order.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, ConfigError, DEFAULT_FILE,
    key::Key,
    keys::{self, TABLES},
    kind::Kind,
};

/// How similar to a known key an unknown one must be to count as a typo, from 0 to 1.
const LIKENESS_MIN: f64 = 0.85;
/// Longest file with a secret, in bytes.
const SECRET_MAX: u64 = 64 * 1024;

/// What was set, and where.
#[derive(Debug)]
pub struct Settings(BTreeMap<&'static str, Set>);

#[derive(Debug)]
struct Set {
    value: String,
    /// Source, as errors name it: `CODIUS_PORT`, or `/etc/codius/codiusd.toml:12: edge.port`.
    origin: String,
}

impl Settings {
    /// Reads file and environment.
    ///
    /// # Errors
    ///
    /// The file, or a file with a secret, can't be read, or contains an unknown setting.
    pub fn read(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut settings = match file {
            Some(path) => Self(from_file(path)?),
            None => match from_file(Path::new(DEFAULT_FILE)) {
                Err(Unread::Missing(_)) => Self(BTreeMap::new()),
                other => Self(other?),
            },
        };
        settings.0.extend(Self::of_environment(environment)?.0);
        Ok(settings)
    }

    /// Reads the environment only. An empty variable counts as not set.
    ///
    /// # Errors
    ///
    /// A file with a secret can't be read.
    pub fn of_environment(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let environment: BTreeMap<String, String> = environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut settings = BTreeMap::new();
        for key in keys::all() {
            let set = key.environment.iter().find_map(|name| Some((*name, environment.get(*name)?)));
            let file = |name: &&str| Some((format!("{name}_FILE"), environment.get(&format!("{name}_FILE"))?));
            let file = key.environment.iter().filter(|_| key.secret).find_map(file);
            let set = match (set, file) {
                (None, None) => continue,
                (Some((name, value)), None) => Set { value: value.clone(), origin: name.to_owned() },
                (None, Some((origin, path))) => Set { value: read_secret(Path::new(path), &origin)?, origin },
                (Some((name, _)), Some((file, _))) => return Err(ConfigError::Twice { one: name.to_owned(), other: file }),
            };
            settings.insert(key.path, set);
        }
        Ok(Self(settings))
    }

    /// Whether a key was set at all.
    pub fn is_set(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Where the host keeps its files. Other settings aren't parsed.
    pub(crate) fn root(&self) -> Result<PathBuf, ConfigError> {
        self.get("root", "an absolute path", super::parse_path)
    }

    /// A setting that has a default.
    pub(super) fn get<T>(&self, path: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, ConfigError> {
        match self.optional(path, right, parse)? {
            Some(value) => Ok(value),
            None => Err(self.missing(path, right)),
        }
    }

    /// A setting that may be missing.
    pub(super) fn optional<T>(&self, path: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let key = find(path);
        let (value, origin) = match self.0.get(path) {
            Some(set) => (set.value.as_str(), set.origin.as_str()),
            None => match key.default {
                Some(default) => (default, path),
                None => return Ok(None),
            },
        };
        let wrong = || ConfigError::Value {
            origin: origin.to_owned(),
            value: if key.secret { "(hidden)" } else { value }.to_owned(),
            right: right.to_owned(),
        };
        parse(value).map(Some).ok_or_else(wrong)
    }

    /// A setting with any number of values.
    pub(super) fn list<T>(&self, path: &'static str, right: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ConfigError> {
        let separator = find(path).kind.separator();
        self.get(path, right, |text| {
            text.split(separator).map(str::trim).filter(|part| !part.is_empty()).map(&parse).collect::<Option<Vec<T>>>()
        })
    }

    pub(super) fn missing(&self, path: &'static str, remedy: &str) -> ConfigError {
        let variable = find(path).environment.first().copied().unwrap_or_default();
        ConfigError::Missing { path, variable, remedy: remedy.to_owned() }
    }

    /// Every key with its effective value and the source, as a settings file with comments. Secrets are hidden. `config` is the result
    /// of parsing these settings.
    pub fn show(&self, config: &Config) -> String {
        let (mut shown, mut table) = (String::new(), "");
        // Keys without a table come first: after a table's header they would belong to that table.
        let (first, rest): (Vec<&Key>, Vec<&Key>) = keys::all().partition(|key| key.table().is_empty());
        for key in first.into_iter().chain(rest) {
            if key.table() != table {
                table = key.table();
                shown += &format!("\n[{table}]\n");
            }
            let (name, kind) = (key.name(), key.kind);
            shown += &match (self.0.get(key.path), key.default) {
                (Some(set), _) if key.secret => format!("# {name} is set and hidden, from {}\n", set.origin),
                (Some(set), _) => format!("{name} = {} # from {}\n", kind.toml_of(&set.value), set.origin),
                (None, Some(default)) => format!("{name} = {}\n", kind.toml_of(default)),
                (None, None) => match config.chosen(key.path) {
                    Some(value) => format!("{name} = {} # follows from other settings\n", kind.toml_of(&value)),
                    None => format!("# {name} is not set: {}\n", key.help),
                },
            };
        }
        shown
    }
}

fn find(path: &str) -> &'static Key {
    keys::all().find(|key| key.path == path).unwrap_or_else(|| unreachable!("{path} isn't in the table of keys"))
}

enum Unread {
    Bad(ConfigError),
    Missing(ConfigError),
}

impl From<ConfigError> for Unread {
    fn from(error: ConfigError) -> Self {
        Self::Bad(error)
    }
}

impl From<Unread> for ConfigError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Bad(error) | Unread::Missing(error) => error,
        }
    }
}

/// A settings file that is being read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
    settings: BTreeMap<&'static str, Set>,
}

fn from_file(path: &Path) -> Result<BTreeMap<&'static str, Set>, Unread> {
    let fail = |problem: String| ConfigError::File { path: path.to_owned(), problem };
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unread::Missing(fail("the file doesn't exist".to_owned())),
        _ => Unread::Bad(fail(error.to_string())),
    })?;
    let mut file = File { path, text: &text, settings: BTreeMap::new() };
    // The line itself isn't shown: it may hold a secret.
    let table =
        DeTable::parse(&text).map_err(|error| file.problem(error.span().map(|span| span.start), &error.message().replace('\n', " ")))?;
    for (name, value) in table.into_inner() {
        match value.get_ref() {
            DeValue::Table(entries) if TABLES.iter().any(|(table, _)| *table == name.get_ref()) => {
                for (inner, value) in entries {
                    file.set(&format!("{}.{}", name.get_ref(), inner.get_ref()), inner.span().start, value)?;
                }
            }
            _ if TABLES.iter().any(|(table, _)| *table == name.get_ref()) => {
                let problem = format!("{0} is a table: write [{0}] and its keys below", name.get_ref());
                return Err(file.problem(Some(name.span().start), &problem).into());
            }
            _ => file.set(name.get_ref(), name.span().start, &value)?,
        }
    }
    Ok(file.settings)
}

impl File<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or_default().matches('\n').count() + 1
    }

    fn problem(&self, at: Option<usize>, problem: &str) -> ConfigError {
        let line = at.map(|at| format!("line {}: ", self.line(at))).unwrap_or_default();
        ConfigError::File { path: self.path.to_owned(), problem: format!("{line}{problem}") }
    }

    fn set(&mut self, path: &str, at: usize, value: &Spanned<DeValue<'_>>) -> Result<(), ConfigError> {
        let origin = format!("{}:{}: {path}", self.path.display(), self.line(at));
        let of_file = path.strip_suffix("_file").and_then(|path| keys::all().find(|key| key.secret && key.path == path));
        let (key, value) = match (keys::all().find(|key| key.path == path), of_file) {
            (Some(key), _) => {
                let wrong = || ConfigError::Value {
                    origin: origin.clone(),
                    value: if key.secret { "(hidden)".to_owned() } else { self.written(value) },
                    right: key.kind.right().to_owned(),
                };
                (key, key.kind.text_of(value.get_ref()).ok_or_else(wrong)?)
            }
            (None, Some(key)) => {
                let named = Kind::Text.text_of(value.get_ref()).and_then(|text| super::parse_path(&text));
                let wrong =
                    || ConfigError::Value { origin: origin.clone(), value: self.written(value), right: "an absolute path".to_owned() };
                (key, read_secret(&named.ok_or_else(wrong)?, &origin)?)
            }
            (None, None) => {
                let hint = nearest(path).map(|known| format!("; did you mean {known}?")).unwrap_or_default();
                return Err(self.problem(Some(at), &format!("unknown key {path}{hint}")));
            }
        };
        match self.settings.insert(key.path, Set { value, origin }) {
            Some(_) => Err(ConfigError::Twice { one: key.path.to_owned(), other: format!("{}_file", key.path) }),
            None => Ok(()),
        }
    }

    /// A value as it is written in the file, on one line.
    fn written(&self, value: &Spanned<DeValue<'_>>) -> String {
        let text = self.text.get(value.span()).unwrap_or_default();
        text.trim_matches('"').replace('\n', " ")
    }
}

/// The text of a file with a secret, without the whitespace around it.
fn read_secret(path: &Path, origin: &str) -> Result<String, ConfigError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        // Bounded while it is read: a device or a pipe has no length.
        let bytes = fs::File::open(path)?.take(SECRET_MAX + 1).read_to_string(&mut text)?;
        if u64::try_from(bytes).is_ok_and(|bytes| bytes > SECRET_MAX) {
            return Err(io::Error::other("the file is too large for a secret"));
        }
        Ok(text)
    };
    let fail = |error: io::Error| ConfigError::Secret { origin: origin.to_owned(), path: path.to_owned(), problem: error.to_string() };
    read().map(|text| text.trim().to_owned()).map_err(fail)
}

/// The key that `path` probably means: the one with this environment variable, in any case, or the most similar one.
fn nearest(path: &str) -> Option<&'static str> {
    let variables = [path.to_ascii_uppercase(), format!("CODIUS_{}", path.to_ascii_uppercase())];
    if let Some(key) = keys::all().find(|key| key.environment.iter().any(|name| variables.iter().any(|variable| variable == name))) {
        return Some(key.path);
    }
    if let Some(key) = keys::all().find(|key| key.name() == path) {
        return Some(key.path);
    }
    let likeness = |key: &Key| strsim::jaro_winkler(path, key.path).max(strsim::jaro_winkler(path, key.name()));
    let alike = keys::all().filter(|key| likeness(key) >= LIKENESS_MIN);
    alike.max_by(|one, other| likeness(one).total_cmp(&likeness(other))).map(|key| key.path)
}
