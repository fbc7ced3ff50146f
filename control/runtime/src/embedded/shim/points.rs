//! What has to be in an image before it can be a container's root: the places for what the host mounts, and its volumes.
//!
//! Images have links there that lead nowhere (systemd's `/etc/resolv.conf`), out of the image, or in a circle, and runtimes
//! differ in what they make of them. Here it is as with Docker: a link or an odd file makes room; a directory where a file has to
//! be is refused. Links above (`/etc -> usr/etc`) are followed, inside the image.

use std::path::{Path, PathBuf};

use super::{
    Failure,
    root::{Root, is_hosts_own},
};
use crate::embedded::record::ContainerOrder;

/// Directories the host mounts file systems on; what it mounts below is in those.
const DIRECTORIES: [&str; 3] = ["dev", "proc", "sys"];
/// Files of `/etc` the host puts its own over.
const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Makes all of it, and returns the paths of the volumes, without links.
pub(super) fn make(root: &Root, container: &ContainerOrder) -> Result<Vec<PathBuf>, Failure> {
    let fail = |path: String| move |error| Failure::of_image(format!("{path} of the image can't be mounted on"), error);
    for name in DIRECTORIES {
        root.become_dir(Path::new("/"), name).map_err(fail(format!("/{name}")))?;
    }
    let etc = etc(root).map_err(fail("/etc".to_owned()))?;
    for name in FILES {
        root.become_file(&etc, name).map_err(fail(format!("/etc/{name}")))?;
    }
    let volume = |path: &String| {
        let made = root.make_dirs(Path::new(path));
        made.map_err(|error| Failure::of_image(format!("the volume {path} of the image can't be made"), error))
    };
    container.volumes.iter().map(volume).collect()
}

/// Where `/etc` really is.
fn etc(root: &Root) -> std::io::Result<PathBuf> {
    match root.make_dirs(Path::new("/etc")) {
        Ok(real) if !is_hosts_own(&real) => Ok(real),
        // A file, links in a circle, or a place nothing of the image is seen in.
        _ => root.become_dir(Path::new("/"), "etc").map(|()| PathBuf::from("/etc")),
    }
}
