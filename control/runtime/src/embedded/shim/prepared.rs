//! What is looked up and created in a container's root file system, after it is mounted and before the container is created.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

use super::{
    Failure, Step,
    command::Command,
    identity::Identity,
    mount_points,
    root::{Root, is_hosts_own},
};
use crate::embedded::shim_protocol::{ContainerRequest, ShimRequest};

/// A prepared root file system, and what runs in it.
pub(super) struct Prepared {
    /// Where it is mounted.
    pub(super) rootfs: PathBuf,
    pub(super) root: Root,
    pub(super) who: Identity,
    /// The image's volumes, without links.
    pub(super) volumes: Vec<PathBuf>,
    /// Working directory, without links.
    pub(super) cwd: PathBuf,
    /// None: no program of an image runs.
    pub(super) program: Option<PathBuf>,
    pub(super) env: Vec<CString>,
}

impl Prepared {
    pub(super) fn make(order: &ShimRequest, container: &ContainerRequest, rootfs: PathBuf) -> Result<Self, Failure> {
        let root = Root::open(&rootfs, order.uid_base).step("opening the root file system")?;
        let volumes = mount_points::make(&root, container)?;
        let who = if order.probe { Identity::root() } else { Identity::find(&root, &container.user).map_err(Failure::image)? };
        let cwd = root.make_dirs(Path::new(&container.cwd));
        let cwd = cwd.map_err(|error| Failure::of_image(format!("working directory {}", container.cwd), error))?;
        let mut prepared = Self { env: environment(order, container, &who)?, rootfs, root, who, volumes, cwd, program: None };
        if !order.probe {
            prepared.program = Some(prepared.command(order).find(container).map_err(Failure::image)?);
        }
        Ok(prepared)
    }

    pub(super) fn command<'a>(&'a self, order: &ShimRequest) -> Command<'a> {
        Command { root: &self.root, who: &self.who, uid_base: order.uid_base, cwd: &self.cwd }
    }

    /// The working directory if it is on a file system the host mounts: it can be created and entered only there.
    pub(super) fn late_cwd(&self) -> Option<&Path> {
        Some(&*self.cwd).filter(|cwd| is_hosts_own(cwd))
    }
}

/// The container's variables; those of its user and working directory are added unless it sets them.
fn environment(order: &ShimRequest, container: &ContainerRequest, who: &Identity) -> Result<Vec<CString>, Failure> {
    let given = container.env.iter().filter(|pair| *pair != "HOME=");
    let has = |name: &str| given.clone().any(|pair| pair.split_once('=').is_some_and(|(known, _)| known == name));
    let own = [("HOME", who.home.as_str()), ("HOSTNAME", order.pod.id.as_str())];
    let own = own.into_iter().filter(|(name, _)| !has(name)).map(|(name, value)| format!("{name}={value}"));
    let all = given.clone().cloned().chain(own).map(CString::new).collect::<Result<_, _>>();
    all.map_err(|_| Failure::image("a variable holds a NUL character".to_owned()))
}
