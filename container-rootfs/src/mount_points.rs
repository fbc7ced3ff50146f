//! What an image must contain to be a container's root: the mount points for the host's mounts, and its volumes.
//!
//! Images contain links there that dangle (systemd's `/etc/resolv.conf`), lead out of the image, or form a cycle, and runtimes differ in
//! how they handle them. This follows Docker: a link or a special file is replaced; a directory in the place of a file is refused. Links in
//! parent directories (`/etc -> usr/etc`) are followed, inside the image.

use std::path::{Path, PathBuf};

use crate::{
    ImageError,
    root::{Root, is_hosts_own},
};

/// Directories the host mounts file systems on; its further mounts are inside those.
const DIRECTORIES: [&str; 3] = ["dev", "proc", "sys"];
/// Files in `/etc` that the host mounts its own over.
const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Creates all mount points, and returns the paths of the volumes, without links.
pub(crate) fn make(root: &Root, volumes: &[String]) -> Result<Vec<PathBuf>, ImageError> {
    let fail = |path: String| move |error| ImageError::of_path(format!("{path} of the image can't be mounted on"), error);
    for name in DIRECTORIES {
        root.become_dir(Path::new("/"), name).map_err(fail(format!("/{name}")))?;
    }
    let etc = etc(root).map_err(fail("/etc".to_owned()))?;
    for name in FILES {
        root.become_file(&etc, name).map_err(fail(format!("/etc/{name}")))?;
    }
    let volume = |path: &String| {
        let made = root.make_dirs(Path::new(path));
        made.map_err(|error| ImageError::of_path(format!("the volume {path} of the image can't be made"), error))
    };
    volumes.iter().map(volume).collect()
}

/// The real path of `/etc`.
fn etc(root: &Root) -> std::io::Result<PathBuf> {
    match root.make_dirs(Path::new("/etc")) {
        Ok(real) if !is_hosts_own(&real) => Ok(real),
        // A file, a cycle of links, or a place below the host's own mounts.
        _ => root.become_dir(Path::new("/"), "etc").map(|()| PathBuf::from("/etc")),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// What an image may have at a path.
    #[derive(Clone, Copy, Debug)]
    enum Shape {
        Nothing,
        File,
        Directory,
        /// A directory that isn't empty.
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

    /// All mount points, for an image with that shape at a path; or the error text.
    fn made(path: &str, shape: Shape, volumes: &[&str]) -> Result<Vec<PathBuf>, ImageError> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("real"), "kept").unwrap();
        shaped(&image, path, shape);
        let root = Root::open(&image, nix::unistd::geteuid().as_raw()).unwrap();
        let volumes: Vec<String> = volumes.iter().map(|path| (*path).to_owned()).collect();
        let volumes = make(&root, &volumes);
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
                // A link at /etc that leads to a regular file is replaced like that file.
                made(path, shape, &[]).unwrap_or_else(|failure| panic!("/{path} {shape:?}: {failure:?}"));
            }
            for path in FILES.map(|name| format!("etc/{name}")) {
                match (made(&path, shape, &[]), shape) {
                    (Err(ImageError::Image(told)), Directory | Full) => {
                        assert_eq!(told, format!("/{path} of the image can't be mounted on: Is a directory"), "{shape:?}");
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
                (Err(ImageError::Image(told)), None) => {
                    assert!(told.starts_with("the volume /data of the image can't be made: "), "{told}");
                }
                (made, _) => panic!("{shape:?} {volume}: {made:?}"),
            }
        }
    }
}
