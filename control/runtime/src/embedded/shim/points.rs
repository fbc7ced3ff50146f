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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::error::Fault;

    fn container(volumes: &[&str]) -> ContainerOrder {
        ContainerOrder {
            name: "main".to_owned(),
            layers: Vec::new(),
            argv: Vec::new(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            volumes: volumes.iter().map(|path| (*path).to_owned()).collect(),
        }
    }

    /// What an image may have at a path.
    #[derive(Clone, Copy, Debug)]
    enum Shape {
        Nothing,
        File,
        Directory,
        /// A directory something is in.
        Full,
        Link(&'static str),
    }

    use Shape::{Directory, File, Full, Link, Nothing};

    const SHAPES: [Shape; 9] = [
        Nothing,
        File,
        Directory,
        Full,
        Link("../run/systemd/resolve/stub-resolv.conf"),
        Link("/tmp/nowhere"),
        Link("/real"),
        Link("hosts"),
        Link("../../../../../../../../outside"),
    ];

    fn shaped(image: &Path, path: &str, shape: Shape) {
        let at = image.join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        match shape {
            Nothing => {}
            File => fs::write(at, "the image's").unwrap(),
            Directory => fs::create_dir(at).unwrap(),
            Full => fs::create_dir_all(at.join("kept")).unwrap(),
            Link(target) => symlink(target, at).unwrap(),
        }
    }

    /// All mount points, after one of them had that shape; or what is said.
    fn made(path: &str, shape: Shape, volumes: &[&str]) -> Result<Vec<PathBuf>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("real"), "kept").unwrap();
        shaped(&image, path, shape);
        let root = Root::open(&image, nix::unistd::geteuid().as_raw()).unwrap();
        let volumes = make(&root, &container(volumes));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{path} {shape:?}: made beside the image");
        assert_eq!(fs::read_to_string(image.join("real")).unwrap(), "kept", "{path} {shape:?}");
        if volumes.is_ok() {
            for name in DIRECTORIES {
                assert!(fs::symlink_metadata(image.join(name)).unwrap().is_dir(), "{path} {shape:?}: /{name}");
            }
            for name in FILES {
                assert!(root.metadata(&Path::new("/etc").join(name)).unwrap().is_file(), "{path} {shape:?}: /etc/{name}");
            }
        }
        volumes
    }

    #[test]
    fn every_mount_point_of_every_shape_is_made_or_named() {
        for shape in SHAPES {
            for path in ["dev", "proc", "sys", "etc"] {
                // A link at /etc to a regular file is as good as that file: it makes room.
                made(path, shape, &[]).unwrap_or_else(|failure| panic!("/{path} {shape:?}: {failure:?}"));
            }
            for path in FILES.map(|name| format!("etc/{name}")) {
                match (made(&path, shape, &[]), shape) {
                    (Err(failure), Directory | Full) => {
                        assert_eq!(failure.fault, Fault::Image, "{path} {shape:?}");
                        assert_eq!(failure.step, format!("/{path} of the image can't be mounted on: Is a directory"));
                    }
                    (Ok(_), Directory | Full) => panic!("{path} {shape:?}: mounted on"),
                    (made, _) => drop(made.unwrap_or_else(|failure| panic!("{path} {shape:?}: {failure:?}"))),
                }
            }
        }
    }

    #[test]
    fn volumes_are_there_or_named() {
        for (shape, volume, expected) in [
            (Nothing, "/data/below", Some("/data/below")),
            (Directory, "/data", Some("/data")),
            (Link("/var/data"), "/data", Some("/var/data")),
            (Link("../../outside"), "/data/x", Some("/outside/x")),
            (Link("/dev"), "/data/x", Some("/dev/x")),
            (File, "/data", None),
            (Link("data"), "/data", None),
        ] {
            match (made("data", shape, &[volume]), expected) {
                (Ok(paths), Some(expected)) => assert_eq!(paths, [Path::new(expected)], "{shape:?}"),
                (Err(failure), None) => {
                    assert_eq!(failure.fault, Fault::Image);
                    assert!(failure.step.starts_with("the volume /data of the image can't be made: "), "{}", failure.step);
                }
                (made, _) => panic!("{shape:?} {volume}: {made:?}"),
            }
        }
    }
}
