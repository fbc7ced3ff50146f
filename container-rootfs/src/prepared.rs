//! What is looked up and created in a container's root file system, after it is mounted and before anything runs in it.

use std::{
    ffi::CString,
    io,
    path::{Path, PathBuf},
};

use crate::{
    ImageError,
    command::{Command, is_images},
    identity::Identity,
    mount_points,
    root::{Root, is_hosts_own},
};

/// What is to run in a root file system: image configuration and manifest, merged.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "private values must not reach a log")]
pub struct Wanted<'a> {
    /// Program and arguments.
    pub argv: &'a [String],
    /// `NAME=value`, names unique.
    pub env: &'a [String],
    /// Working directory.
    pub cwd: &'a str,
    /// `user[:group]`, to be looked up in the image; empty is root.
    pub user: &'a str,
    /// Directories that must exist.
    pub volumes: &'a [String],
    /// The pod's host name.
    pub hostname: &'a str,
    /// No program of the image runs, and its user isn't looked up: the process is the container's root.
    pub probe: bool,
}

/// A prepared root file system, and what runs in it.
#[expect(missing_debug_implementations, reason = "private values must not reach a log")]
pub struct Prepared {
    /// Where it is mounted.
    pub rootfs: PathBuf,
    /// The container's user.
    pub who: Identity,
    /// The image's volumes, without links.
    pub volumes: Vec<PathBuf>,
    /// Working directory, without links.
    pub cwd: PathBuf,
    /// None: no program of an image runs.
    pub program: Option<PathBuf>,
    /// The program's variables.
    pub env: Vec<CString>,
    root: Root,
    uid_base: u32,
}

impl Prepared {
    /// Prepares the root file system at `rootfs`, whose uid 0 is `uid_base` outside.
    ///
    /// # Errors
    ///
    /// The image can't be run, or the system failed.
    pub fn make(wanted: Wanted<'_>, rootfs: PathBuf, uid_base: u32) -> Result<Self, ImageError> {
        let opening = |error| ImageError::System { step: "opening the root file system".to_owned(), error };
        let root = Root::open(&rootfs, uid_base).map_err(opening)?;
        let volumes = mount_points::make(&root, wanted.volumes)?;
        let who = if wanted.probe { Identity::root() } else { Identity::find(&root, wanted.user).map_err(ImageError::Image)? };
        let cwd = root.make_dirs(Path::new(wanted.cwd));
        let cwd = cwd.map_err(|error| ImageError::of_path(format!("working directory {}", wanted.cwd), error))?;
        let env = environment(&wanted, &who)?;
        let mut prepared = Self { env, rootfs, root, who, volumes, cwd, program: None, uid_base };
        if !wanted.probe {
            prepared.program = Some(prepared.command().find(wanted.argv, wanted.env).map_err(ImageError::Image)?);
        }
        Ok(prepared)
    }

    /// The working directory if it is on a file system the host mounts: it can be created and entered only there.
    pub fn late_cwd(&self) -> Option<&Path> {
        Some(&*self.cwd).filter(|cwd| is_hosts_own(cwd))
    }

    /// Why the working directory of [`Prepared::late_cwd`] couldn't be entered.
    pub fn explain_cwd(&self, error: io::Error) -> ImageError {
        ImageError::of_path(format!("working directory {}", self.cwd.display()), error)
    }

    /// Why the kernel didn't execute the program.
    pub fn explain_program(&self, error: io::Error) -> ImageError {
        match &self.program {
            Some(program) if is_images(&error) => ImageError::Image(self.command().explain(program, &error)),
            _ => ImageError::System { step: "starting the container's program".to_owned(), error },
        }
    }

    fn command(&self) -> Command<'_> {
        Command { root: &self.root, who: &self.who, uid_base: self.uid_base, cwd: &self.cwd }
    }
}

/// The container's variables; those of its user and working directory are added unless it sets them.
fn environment(wanted: &Wanted<'_>, who: &Identity) -> Result<Vec<CString>, ImageError> {
    let given = wanted.env.iter().filter(|pair| *pair != "HOME=");
    let has = |name: &str| given.clone().any(|pair| pair.split_once('=').is_some_and(|(known, _)| known == name));
    let own = [("HOME", who.home.as_str()), ("HOSTNAME", wanted.hostname)];
    let own = own.into_iter().filter(|(name, _)| !has(name)).map(|(name, value)| format!("{name}={value}"));
    let all = given.clone().cloned().chain(own).map(CString::new).collect::<Result<_, _>>();
    all.map_err(|_| ImageError::Image("a variable holds a NUL character".to_owned()))
}
