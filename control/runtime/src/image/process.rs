//! Merges image config and pod spec into the process to run. Lookups in the image's files (its user, its program) happen later, when all
//! layers are merged.

use std::path::{Component, Path, PathBuf};

use super::ImageSettings;
use crate::{ContainerSpec, RuntimeError};

/// The PATH of an image that doesn't set one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Uids and gids of a pod are below this.
const IDS: u32 = 65_536;
/// Maximum number of volumes of an image: each is a directory on the pod's disk.
const VOLUMES_MAX: usize = 256;

/// The process of a container.
#[derive(Clone, PartialEq, Eq)]
pub struct Process {
    /// Command and arguments.
    pub args: Vec<String>,
    /// `NAME=value`; holds private values.
    pub env: Vec<String>,
    /// Working directory; an absolute path without `.` and `..`.
    pub cwd: String,
    /// `user[:group]`, as the image has it.
    pub user: String,
    /// Directories the image requires; absolute paths without `.` and `..`.
    pub volumes: Vec<String>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("args", &self.args).field("cwd", &self.cwd).field("user", &self.user).finish_non_exhaustive()
    }
}

/// Merges an image's settings and a container's spec.
pub fn process_of(settings: &ImageSettings, spec: &ContainerSpec) -> Result<Process, RuntimeError> {
    let refuse = |reason: String| RuntimeError::ImageRefused { image: spec.image.clone(), reason };
    let args = args(settings, spec);
    match args.first() {
        None => return Err(refuse("it says no command, and neither does the manifest".to_owned())),
        Some(program) if program.is_empty() => return Err(refuse("the first word of its command is empty".to_owned())),
        Some(_) if args.iter().any(|word| word.contains('\0')) => return Err(refuse("its command holds a NUL character".to_owned())),
        Some(_) => {}
    }
    let cwd = spec.workdir.as_deref().filter(|cwd| !cwd.is_empty());
    let cwd = cwd.or(settings.working_dir.as_deref()).filter(|cwd| !cwd.is_empty()).unwrap_or("/");
    if !cwd.starts_with('/') || cwd.contains('\0') {
        return Err(refuse(format!("its working directory {cwd:?} isn't an absolute path")));
    }
    let volumes: Vec<String> = settings.volumes.iter().flatten().map(|(path, _)| clean(path)).collect();
    if volumes.len() > VOLUMES_MAX || volumes.iter().any(|path| path.contains('\0')) {
        return Err(refuse(format!("it has {} volumes; at most {VOLUMES_MAX}, with paths without NUL, are made", volumes.len())));
    }
    let user = settings.user.clone().unwrap_or_default();
    if let Some(fault) = user_fault(&user) {
        return Err(refuse(fault));
    }
    let env = environment(settings.env.as_deref(), &spec.env).map_err(refuse)?;
    Ok(Process { args, env, cwd: clean(cwd), user, volumes })
}

/// As Docker combines them: the pod's command replaces the image's, the image's entrypoint stays.
fn args(settings: &ImageSettings, spec: &ContainerSpec) -> Vec<String> {
    // An entrypoint of one empty word means none.
    let entrypoint = settings.entrypoint.iter().flatten().cloned();
    let entrypoint: Vec<String> = entrypoint.collect();
    let entrypoint = if entrypoint.len() == 1 && entrypoint[0].is_empty() { Vec::new() } else { entrypoint };
    let command = spec.command.as_ref().or(settings.cmd.as_ref());
    entrypoint.into_iter().chain(command.into_iter().flatten().cloned()).collect()
}

/// What is wrong with `user[:group]`, independent of the image's files: a number is never a name.
fn user_fault(user: &str) -> Option<String> {
    let is_number = |half: &&str| {
        let digits = half.strip_prefix(['+', '-']).unwrap_or(half);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_ours = |half: &str| half.parse::<i64>().is_ok_and(|number| (0..i64::from(IDS)).contains(&number));
    if user.contains('\0') {
        return Some("its user holds a NUL character".to_owned());
    }
    let beyond = user.split(':').take(2).filter(is_number).find(|half| !is_ours(half))?;
    Some(format!("its user {user:?} has the number {beyond}, and those of a pod are 0 to {}", IDS - 1))
}

/// Makes a path absolute and resolves `.` and `..` textually, ignoring links.
fn clean(path: &str) -> String {
    let mut cleaned = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => drop(cleaned.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned.to_string_lossy().into_owned()
}

/// The image's variables, overridden by the pod's. An entry of the image without `=` is ignored.
fn environment(image: Option<&[String]>, pod: &[(String, String)]) -> Result<Vec<String>, String> {
    let mut variables: Vec<(&str, &str)> = vec![("PATH", PATH)];
    let image: Vec<(&str, &str)> = image.unwrap_or_default().iter().filter_map(|variable| variable.split_once('=')).collect();
    for (name, value) in &image {
        if name.is_empty() {
            return Err(format!("its variable {:?} has no name", format!("={value}")));
        }
        if name.contains('\0') || value.contains('\0') {
            return Err(format!("its variable {name:?} holds a NUL character"));
        }
    }
    for (name, value) in image.into_iter().chain(pod.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => variables.push((name, value)),
        }
    }
    Ok(variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}
