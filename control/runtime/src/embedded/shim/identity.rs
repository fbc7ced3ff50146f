//! Who a container runs as: the image's user, looked up in the image's own files, as Docker and runc read them.

use std::{io, path::Path};

use nix::errno::Errno;

use super::root::Root;

/// Users and groups of a pod are below this.
const IDS: i64 = 65_536;
/// As much of a passwd or group file as Docker reads, in bytes.
const FILE_MAX: u64 = 10 << 20;
/// Where users without an entry are at home.
const HOME: &str = "/";

/// A user in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// All groups, the first one included.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

impl Identity {
    /// The container's root, of whom nothing is looked up.
    pub(super) fn root() -> Self {
        Self { uid: 0, gid: 0, groups: vec![0], home: HOME.to_owned() }
    }

    /// Reads `user[:group]`: each a name, a number, or empty. The error says what the image lacks.
    pub(super) fn find(root: &Root, text: &str) -> Result<Self, String> {
        let mut halves = text.split(':'); // what follows is nothing, as with Docker
        let (user, group) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let (user, group) = (Wanted::parse(user), Wanted::parse(group));
        let (passwd, group_file) = (Lines::read(root, "/etc/passwd")?, Lines::read(root, "/etc/group")?);
        let entry = passwd.rows().map(Entry::of).find(|entry| user.is(entry.name, entry.uid, 0));
        let uid = match (&entry, user) {
            (Some(entry), _) => entry.uid,
            (None, Wanted::Nothing) => 0,
            (None, Wanted::Number(number)) => number,
            (None, Wanted::Name(name)) => return Err(format!("it has no user {name:?}: {}", passwd.lack())),
        };
        let mut groups = Vec::new();
        let gid = match group {
            Wanted::Nothing => {
                let name = entry.as_ref().map(|entry| entry.name).filter(|name| !name.is_empty());
                groups.extend(name.into_iter().flat_map(|name| group_file.groups_of(name)));
                entry.as_ref().map_or(0, |entry| entry.gid)
            }
            wanted => {
                let row = group_file.groups().find(|row| wanted.is(field(row, 0), number(field(row, 2)), 0));
                match (row, wanted) {
                    (Some(row), _) => number(field(&row, 2)),
                    (None, Wanted::Number(number)) => number,
                    (None, _) => return Err(format!("it has no group {:?}: {}", wanted.name(), group_file.lack())),
                }
            }
        };
        let (uid, gid) = (id("user", text, uid)?, id("group", text, gid)?);
        let mut all = vec![gid];
        // Files of other groups couldn't be unpacked.
        for other in groups.into_iter().filter_map(|group| id("group", text, group).ok()) {
            if !all.contains(&other) {
                all.push(other);
            }
        }
        let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty() && !home.contains('\0')).unwrap_or(HOME);
        Ok(Self { uid, gid, groups: all, home: home.to_owned() })
    }
}

/// What one half of `user:group` asks for. A number is never looked for among names.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Nothing,
    Name(&'a str),
    Number(i64),
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Self {
        if text.is_empty() {
            return Self::Nothing;
        }
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::Name(text);
        }
        Self::Number(number(text))
    }

    fn is(self, name: &str, number: i64, default: i64) -> bool {
        match self {
            Self::Nothing => number == default,
            Self::Name(wanted) => name == wanted,
            Self::Number(wanted) => number == wanted,
        }
    }

    fn name(self) -> &'a str {
        match self {
            Self::Name(name) => name,
            Self::Nothing | Self::Number(_) => "",
        }
    }
}

/// A row of a passwd file.
struct Entry<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn of(row: Vec<&'a str>) -> Self {
        Self { name: field(&row, 0), uid: number(field(&row, 2)), gid: number(field(&row, 3)), home: field(&row, 5) }
    }
}

/// A passwd or group file.
struct Lines {
    path: &'static str,
    /// Or why there are none.
    text: Result<String, &'static str>,
}

impl Lines {
    /// Without the file there are numbers still; one that is too large to be read to its end is an error.
    fn read(root: &Root, path: &'static str) -> Result<Self, String> {
        let text = match root.read(Path::new(path), FILE_MAX + 1) {
            Ok(bytes) if bytes.len() as u64 > FILE_MAX => return Err(format!("its {path} is larger than {} MiB", FILE_MAX >> 20)),
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(missing(&error)),
        };
        Ok(Self { path, text })
    }

    /// Why somebody isn't found.
    fn lack(&self) -> String {
        format!("{} {}", self.path, self.text.as_ref().map_or_else(|why| *why, |_| "doesn't name it"))
    }

    fn rows(&self) -> impl Iterator<Item = Vec<&str>> {
        let text = self.text.as_deref().unwrap_or_default();
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.split(':').collect())
    }

    fn groups(&self) -> impl Iterator<Item = Vec<&str>> {
        self.rows().filter(|row| !field(row, 0).starts_with('#'))
    }

    fn groups_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = i64> + 'a {
        self.groups().filter(move |row| field(row, 3).split(',').any(|member| member == name)).map(|row| number(field(&row, 2)))
    }
}

fn missing(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => "is a loop of links",
        Some(Errno::ENOENT | Errno::ENOTDIR) => "isn't there",
        Some(_) => "can't be read",
        None => "isn't a regular file",
    }
}

fn field<'a>(row: &[&'a str], index: usize) -> &'a str {
    row.get(index).copied().unwrap_or_default()
}

/// What isn't a number is 0, as Docker has it; what is too large stays too large.
fn number(text: &str) -> i64 {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    text.parse().unwrap_or(i64::MAX)
}

fn id(what: &str, text: &str, number: i64) -> Result<u32, String> {
    let id = u32::try_from(number).ok().filter(|_| number < IDS);
    id.ok_or_else(|| format!("its user {text:?} has the {what} number {number}, and those of a pod are 0 to {}", IDS - 1))
}
