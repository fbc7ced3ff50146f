//! Types of settings: TOML values in the file, text in the environment. Both are converted to the same text, which is parsed once.

use std::fmt::Write;

use toml::de::{DeTable, DeValue};

/// The type of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// An array of tables with `chain` and `key`; in the environment `CHAIN:KEY`, separated by commas.
    Certificates,
    /// A number with a decimal point, exact.
    Decimal,
    /// `"10s"`; in the environment also a number of seconds.
    Duration,
    /// An array of strings; in the environment separated by commas.
    List,
    /// A table from registry to `"USER:PASSWORD"`; in the environment the same as JSON.
    Logins,
    /// A whole number.
    Number,
    /// An array of strings; in the environment separated by colons.
    Paths,
    /// An array of tables; in the environment `NAME cpus=N memory=SIZE disk=SIZE price=FACTOR`, separated by commas.
    PodSizes,
    /// `"200Mbit/s"`; in the environment also a number of megabits per second.
    Rate,
    /// `"64KiB"`; in the environment also a number of bytes.
    Size,
    /// A string.
    Text,
}

/// Fields of a size of pods, after its name.
const SIZE_FIELDS: [&str; 4] = ["cpus", "memory", "disk", "price"];

impl Kind {
    /// The expected value in the file, for errors.
    pub fn right(self) -> &'static str {
        match self {
            Self::Bool => "true or false, without quotes",
            Self::Certificates => "an array of tables such as [{ chain = \"/etc/codius/cert.pem\", key = \"/etc/codius/key.pem\" }]",
            Self::Decimal => "a number",
            Self::Duration => "a duration with its unit, such as \"10s\", \"15m\", \"1h\" or \"30d\"",
            Self::List | Self::Paths => "an array of strings",
            Self::Logins => "a table such as { \"ghcr.io\" = \"user:password\" }",
            Self::Number => "a whole number, without quotes",
            Self::PodSizes => "tables [[pod_size]] with name, cpus, memory, disk and price",
            Self::Rate => "a rate such as \"200Mbit/s\", or \"unlimited\"",
            Self::Size => "a size with its unit, such as \"64KiB\" or \"1GiB\"",
            Self::Text => "a string",
        }
    }

    /// The separator of a list in the environment.
    pub fn separator(self) -> char {
        if self == Self::Paths { ':' } else { ',' }
    }

    /// Converts a value of the file to the environment's format; none if it isn't of this kind. Numbers keep the file's digits, so that
    /// prices stay exact.
    pub fn text_of(self, value: &DeValue<'_>) -> Option<String> {
        match (self, value) {
            (Self::Bool, DeValue::Boolean(bool)) => Some(bool.to_string()),
            (Self::Number | Self::Decimal, DeValue::Integer(number)) => Some(number.to_string()),
            (Self::Decimal, DeValue::Float(number)) => Some(number.to_string()),
            (Self::Text, DeValue::String(text)) => Some(text.to_string()),
            (Self::Duration | Self::Rate | Self::Size, DeValue::String(text)) => {
                let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
                has_unit.then(|| text.to_string())
            }
            (Self::List | Self::Paths, DeValue::Array(items)) => {
                let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
                let whole = |text: &&str| !text.contains(self.separator());
                Some(texts?).filter(|texts| texts.iter().all(whole)).map(|texts| texts.join(&self.separator().to_string()))
            }
            (Self::Certificates, DeValue::Array(items)) => joined(items, |table| {
                let (chain, key) = (text_in(table, "chain")?, text_in(table, "key")?);
                (table.len() == 2).then(|| format!("{chain}:{key}"))
            }),
            (Self::PodSizes, DeValue::Array(items)) => joined(items, size),
            (Self::Logins, DeValue::Table(table)) => {
                let logins = table.iter().map(|(registry, login)| Some((registry.get_ref().to_string(), login.get_ref().as_str()?.into())));
                Some(serde_json::Value::Object(logins.collect::<Option<_>>()?).to_string())
            }
            _ => None,
        }
    }

    /// Converts a value in the environment's format to a value of the file.
    pub fn toml_of(self, text: &str) -> String {
        let parts = text.split(self.separator()).map(str::trim).filter(|part| !part.is_empty());
        match self {
            Self::Bool | Self::Number => text.to_owned(),
            Self::Decimal if text.parse::<f64>().is_ok() => text.to_owned(),
            Self::Certificates => {
                let tables =
                    parts.filter_map(|part| part.split_once(':')).map(|(chain, key)| format!("{{ chain = {chain:?}, key = {key:?} }}"));
                array(tables)
            }
            Self::List | Self::Paths => array(parts.map(|part| format!("{part:?}"))),
            Self::PodSizes => array(parts.map(|part| format!("{{ {} }}", fields(part, ", ")))),
            Self::Duration if text.ends_with(|last: char| last.is_ascii_digit()) => format!("\"{text}s\""),
            Self::Rate if text.ends_with(|last: char| last.is_ascii_digit()) => format!("\"{text}Mbit/s\""),
            Self::Size if text.ends_with(|last: char| last.is_ascii_digit()) => format!("\"{text}B\""),
            Self::Decimal | Self::Duration | Self::Logins | Self::Rate | Self::Size | Self::Text => format!("{text:?}"),
        }
    }
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn joined(items: &[toml::Spanned<DeValue<'_>>], text_of: impl Fn(&DeTable<'_>) -> Option<String>) -> Option<String> {
    let texts: Option<Vec<String>> = items.iter().map(|item| text_of(item.get_ref().as_table()?)).collect();
    Some(texts?).filter(|texts| texts.iter().all(|text| !text.contains(','))).map(|texts| texts.join(","))
}

fn text_in(table: &DeTable<'_>, field: &str) -> Option<String> {
    table.get(field)?.get_ref().as_str().map(str::to_owned)
}

/// Converts a table of a size to the environment's format.
fn size(table: &DeTable<'_>) -> Option<String> {
    let mut text = text_in(table, "name")?;
    for (field, value) in table.iter().filter(|(field, _)| field.get_ref() != "name") {
        let field = SIZE_FIELDS.iter().find(|known| **known == field.get_ref())?;
        let value = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => return None,
        };
        write!(text, " {field}={value}").ok()?;
    }
    Some(text)
}

/// Converts a size in the environment's format to the fields of a table.
pub(super) fn fields(size: &str, separator: &str) -> String {
    let mut words = size.split_whitespace();
    let name = words.next().map(|name| format!("name = {name:?}"));
    let rest = words.filter_map(|word| word.split_once('=')).map(|(field, value)| {
        let is_number = value.parse::<f64>().is_ok();
        if is_number { format!("{field} = {value}") } else { format!("{field} = {value:?}") }
    });
    name.into_iter().chain(rest).collect::<Vec<_>>().join(separator)
}
