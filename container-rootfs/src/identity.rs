//! The user a container runs as: the image's user, looked up in the image's own files, the way Docker and runc do.

use std::{io, path::Path};

use nix::errno::Errno;

use crate::root::Root;

/// Uids and gids of a pod are below this.
const IDS: i64 = 65_536;
/// Size limit of a passwd or group file, as in Docker, in bytes.
const FILE_MAX: u64 = 10 << 20;
/// Home directory of users without an entry.
const HOME: &str = "/";

/// A user in the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub uid: u32,
    /// Number of its first group.
    pub gid: u32,
    /// All groups, the first one included.
    pub groups: Vec<u32>,
    /// Its home directory.
    pub home: String,
}

impl Identity {
    /// The container's root, without any lookup.
    pub(crate) fn root() -> Self {
        Self { uid: 0, gid: 0, groups: vec![0], home: HOME.to_owned() }
    }

    /// Reads `user[:group]`: each a name, a number, or empty. The error names what the image lacks.
    pub(crate) fn find(root: &Root, text: &str) -> Result<Self, String> {
        let mut halves = text.split(':'); // further parts are ignored, as in Docker
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
        // Files of groups outside the range couldn't be unpacked.
        for other in groups.into_iter().filter_map(|group| id("group", text, group).ok()) {
            if !all.contains(&other) {
                all.push(other);
            }
        }
        let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty() && !home.contains('\0')).unwrap_or(HOME);
        Ok(Self { uid, gid, groups: all, home: home.to_owned() })
    }
}

/// One half of `user:group`. A number is never looked up as a name.
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
    /// The content, or why there is none.
    text: Result<String, &'static str>,
}

impl Lines {
    /// Without the file, numbers still work; a file over the size limit is an error.
    fn read(root: &Root, path: &'static str) -> Result<Self, String> {
        let text = match root.read(Path::new(path), FILE_MAX + 1) {
            Ok(bytes) if bytes.len() as u64 > FILE_MAX => return Err(format!("its {path} is larger than {} MiB", FILE_MAX >> 20)),
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(missing(&error)),
        };
        Ok(Self { path, text })
    }

    /// Why a name isn't found.
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

/// Text that isn't a number is 0, as in Docker; a number that is too large stays too large.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\n  web:x:101:102::/srv/web:/bin/sh\nbare:x:7\nhomeless:x:8:9:::\n\
        1000:x:55:56:a name of digits:/digits:\nbig:x:65536:1::/:\nodd:x:x:y::/odd:\nfar:x:-1:1::/:\nlast:x:65535:65535::/last:";
    const GROUP: &str = "root:x:0:\n#no:x:3:web\nwww:x:102:\nlogs:x:7:other,web\nmany:x:8:web,root\nbig:x:65536:web\nagain:x:102:web\n";

    /// Uid, gid, all groups and home; or the error text.
    type Expected = Result<(u32, u32, &'static [u32], &'static str), &'static str>;

    fn find(files: &[(&str, &str)], user: &str) -> Result<Identity, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join("etc").join(name), text).unwrap();
        }
        Identity::find(&Root::open(dir.path(), 0).unwrap(), user)
    }

    #[test]
    fn users_are_read_as_docker_reads_them() {
        let files = [("passwd", PASSWD), ("group", GROUP)];
        let table: &[(&str, Expected)] = &[
            ("", Ok((0, 0, &[0, 8], "/root"))),
            ("0", Ok((0, 0, &[0, 8], "/root"))),
            ("root", Ok((0, 0, &[0, 8], "/root"))),
            ("web", Ok((101, 102, &[102, 7, 8], "/srv/web"))),
            ("101", Ok((101, 102, &[102, 7, 8], "/srv/web"))),
            ("web:", Ok((101, 102, &[102, 7, 8], "/srv/web"))),
            ("101:", Ok((101, 102, &[102, 7, 8], "/srv/web"))),
            ("web:www", Ok((101, 102, &[102], "/srv/web"))),
            ("web:7", Ok((101, 7, &[7], "/srv/web"))),
            ("web:0", Ok((101, 0, &[0], "/srv/web"))),
            ("web:5000", Ok((101, 5000, &[5000], "/srv/web"))),
            (":7", Ok((0, 7, &[7], "/root"))),
            (":www", Ok((0, 102, &[102], "/root"))),
            (":", Ok((0, 0, &[0, 8], "/root"))),
            ("web:www:rest", Ok((101, 102, &[102], "/srv/web"))),
            ("12345", Ok((12345, 0, &[0], "/"))),
            ("12345:", Ok((12345, 0, &[0], "/"))),
            ("12345:54321", Ok((12345, 54321, &[54321], "/"))),
            ("12345:logs", Ok((12345, 7, &[7], "/"))),
            ("0101", Ok((101, 102, &[102, 7, 8], "/srv/web"))),
            ("bare", Ok((7, 0, &[0], "/"))),
            ("homeless", Ok((8, 9, &[9], "/"))),
            ("odd", Ok((0, 0, &[0], "/odd"))),
            ("last", Ok((65535, 65535, &[65535], "/last"))),
            // A number is never taken for a name.
            ("1000", Ok((1000, 0, &[0], "/"))),
            ("nobody", Err("it has no user \"nobody\": /etc/passwd doesn't name it")),
            ("web:nobody", Err("it has no group \"nobody\": /etc/group doesn't name it")),
            (":nobody", Err("it has no group \"nobody\": /etc/group doesn't name it")),
            ("#no", Err("it has no user \"#no\": /etc/passwd doesn't name it")),
            ("web:#no", Err("it has no group \"#no\": /etc/group doesn't name it")),
            ("big", Err("its user \"big\" has the user number 65536, and those of a pod are 0 to 65535")),
            ("web:big", Err("its user \"web:big\" has the group number 65536, and those of a pod are 0 to 65535")),
            ("65536", Err("its user \"65536\" has the user number 65536, and those of a pod are 0 to 65535")),
            ("-1", Err("its user \"-1\" has the user number -1, and those of a pod are 0 to 65535")),
            ("4294967296", Err("its user \"4294967296\" has the user number 4294967296, and those of a pod are 0 to 65535")),
            (
                "99999999999999999999",
                Err("its user \"99999999999999999999\" has the user number 9223372036854775807, and those of a pod are 0 to 65535"),
            ),
        ];
        for (user, expected) in table {
            let found = find(&files, user);
            let found = found.as_ref().map(|who| (who.uid, who.gid, &*who.groups, &*who.home)).map_err(String::as_str);
            assert_eq!(found, *expected, "{user:?}");
        }
    }

    #[test]
    fn numbers_need_no_files_and_names_say_which_they_need() {
        let anybody = |uid, gid| Identity { uid, gid, groups: vec![gid], home: "/".to_owned() };
        assert_eq!(find(&[], ""), Ok(anybody(0, 0)));
        assert_eq!(find(&[], "7"), Ok(anybody(7, 0)));
        assert_eq!(find(&[], "7:8"), Ok(anybody(7, 8)));
        assert_eq!(find(&[], "web").unwrap_err(), "it has no user \"web\": /etc/passwd isn't there");
        assert_eq!(find(&[], "7:web").unwrap_err(), "it has no group \"web\": /etc/group isn't there");
        let odd = "web:x:5:6::/caf\u{e9}:\r\n";
        assert_eq!(find(&[("passwd", odd)], "web").unwrap().home, "/caf\u{e9}");
        let large = "x".repeat(usize::try_from(FILE_MAX).unwrap() + 1);
        assert_eq!(find(&[("passwd", &large)], "7").unwrap_err(), "its /etc/passwd is larger than 10 MiB");
    }
}
