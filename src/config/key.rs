//! One setting.

use super::kind::Kind;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Key in the file: `TABLE.NAME`, or `NAME` before all tables.
    pub path: &'static str,
    /// Variables in the environment; the first that is set counts.
    pub environment: &'static [&'static str],
    /// The type of its value.
    pub kind: Kind,
    /// Default value, in the environment's format; none: see `help`.
    pub default: Option<&'static str>,
    /// Example value of a key without default.
    pub example: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
    /// Never shown; may also be read from a file, by the key with `_file`, or the variable with `_FILE`.
    pub secret: bool,
}

impl Key {
    /// Its table in the file; empty: none.
    pub fn table(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Its name in the table.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }
}
