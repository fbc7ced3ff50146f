//! Image config and pod spec together: what is run, as whom.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use rustix::fs::{self, FileType, OFlags};

use super::{Image, unpack::open_in};
use crate::{ContainerSpec, RuntimeError};

/// What is searched for commands if the image doesn't say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As much of an image's passwd or group file as is read, in bytes.
const FILE_MAX: u64 = 1024 * 1024;
/// Users and groups of a pod are below this.
const IDS: u32 = 65_536;

/// What is run in a container.
#[derive(Clone, PartialEq, Eq)]
pub struct Process {
    /// Command and arguments.
    pub args: Vec<String>,
    /// `NAME=value`; holds private values.
    pub env: Vec<String>,
    /// Where it starts; an absolute path.
    pub cwd: String,
    /// User in the container.
    pub uid: u32,
    /// Group in the container.
    pub gid: u32,
    /// More groups.
    pub additional_gids: Vec<u32>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("args", &self.args).field("cwd", &self.cwd).field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// What an image and what is asked of it come to. Users are looked up in the image, never in this machine.
pub fn process_of(image: &Image, spec: &ContainerSpec) -> Result<Process, RuntimeError> {
    let refuse = |reason: String| RuntimeError::ImageRefused { image: spec.image.clone(), reason };
    let settings = &image.settings;
    let own = || settings.entrypoint.iter().chain(&settings.cmd).flatten().cloned().collect();
    let args: Vec<String> = spec.command.clone().unwrap_or_else(own);
    if args.first().is_none_or(String::is_empty) {
        return Err(refuse("it says no command, and neither does the manifest".to_owned()));
    }
    let cwd = spec.workdir.as_ref().or(settings.working_dir.as_ref()).filter(|cwd| !cwd.is_empty());
    let cwd = cwd.cloned().unwrap_or_else(|| "/".to_owned());
    if !cwd.starts_with('/') {
        return Err(refuse("its working directory isn't an absolute path".to_owned()));
    }
    let user = settings.user.as_deref().unwrap_or_default();
    let who = User::find(&image.layers, user).ok_or_else(|| refuse(format!("it has no user {user:?}")))?;
    Ok(Process { args, env: environment(settings.env.as_deref(), &spec.env), cwd, uid: who.uid, gid: who.gid, additional_gids: who.groups })
}

/// The image's variables, overridden by the pod's.
fn environment(image: Option<&[String]>, pod: &[(String, String)]) -> Vec<String> {
    let name_of = |variable: &str| variable.split_once('=').map_or(variable, |(name, _)| name).to_owned();
    let mut variables: Vec<(String, String)> = vec![("PATH".to_owned(), format!("PATH={PATH}"))];
    let given = image.unwrap_or_default().iter().filter(|variable| variable.contains('=')).cloned();
    let given = given.map(|variable| (name_of(&variable), variable));
    for (name, variable) in given.chain(pod.iter().map(|(name, value)| (name.clone(), format!("{name}={value}")))) {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = variable,
            None => variables.push((name, variable)),
        }
    }
    variables.into_iter().map(|(_, variable)| variable).collect()
}

struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl User {
    /// `user`, `user:group`, each a name or a number; empty is root.
    fn find(layers: &[PathBuf], text: &str) -> Option<Self> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let passwd = file(layers, "etc/passwd");
        let group_file = file(layers, "etc/group");
        let user = if user.is_empty() { "0" } else { user };
        let entry = rows(&passwd).find(|row| row.first() == Some(&user) || row.get(2) == Some(&user));
        let uid = entry.as_ref().and_then(|row| id(row.get(2)?)).or_else(|| id(user))?;
        let gid = match group {
            None => entry.as_ref().and_then(|row| id(row.get(3)?)).unwrap_or(0),
            Some(group) => {
                let row = rows(&group_file).find(|row| row.first() == Some(&group));
                row.and_then(|row| id(row.get(2)?)).or_else(|| id(group))?
            }
        };
        let name = entry.as_ref().and_then(|row| row.first().copied());
        let member = |row: &Vec<&str>| row.get(3).is_some_and(|members| members.split(',').any(|member| Some(member) == name));
        let groups = match group {
            Some(_) => Vec::new(),
            None => rows(&group_file).filter(member).filter_map(|row| id(row.get(2)?)).filter(|other| *other != gid).collect(),
        };
        Some(Self { uid, gid, groups })
    }
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id < IDS)
}

/// A file as the layers together show it; empty if there is none.
fn file(layers: &[PathBuf], path: &str) -> String {
    for layer in layers.iter().rev() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(root) = fs::open(layer, flags, fs::Mode::empty()) else { continue };
        // Looked at before it is opened: opening a fifo would wait for ever.
        let Ok(found) = open_in(&root, Path::new(path), OFlags::PATH) else { continue };
        let kind = fs::fstat(&found).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind != Ok(FileType::RegularFile) {
            return String::new();
        }
        let Ok(open) = open_in(&root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) else { return String::new() };
        let mut bytes = Vec::new();
        let read = std::fs::File::from(open).take(FILE_MAX).read_to_end(&mut bytes);
        return if read.is_ok() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() };
    }
    String::new()
}
