//! The pod's disk, its images, and the containers' root file systems made of both.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use codiusd_guest_protocol::{Bounds, DISK_SERIAL, image_serial};
use nix::mount::{MsFlags, mount};

use crate::devices;

const SCRATCH: &str = "/run/scratch";
/// The same as on the host: no flushes, and no tables written in the background.
const DISK_OPTIONS: &str = "noinit_itable,nobarrier,data_err=ignore";

/// Mounts what containers write to: the pod's disk, or memory.
pub(crate) fn mount_scratch(bounds: &Bounds) -> io::Result<()> {
    let at = Path::new(SCRATCH);
    dir(at)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if let Some(bytes) = bounds.scratch_memory_bytes {
        return Ok(mount(Some("scratch"), at, Some("tmpfs"), flags, Some(&*format!("mode=0711,size={bytes}")))?);
    }
    Ok(mount(Some(&devices::disk(DISK_SERIAL)?), at, Some("ext4"), flags | MsFlags::MS_NOATIME, Some(DISK_OPTIONS))?)
}

/// Mounts a container's root file system: its image, below a part of the disk.
pub(crate) fn mount_root(container: u16, image: u16) -> io::Result<PathBuf> {
    let lower = mount_image(image)?;
    let own = directory(container);
    for part in ["upper", "work"] {
        dir(&own.join(part))?;
    }
    fs::set_permissions(own.join("upper"), Permissions::from_mode(0o755))?;
    let root = Path::new("/run/root").join(container.to_string());
    dir(&root)?;
    // Volatile: what is written doesn't survive the machine anyway, so no `fsync` needs the host's disk.
    let (lower, own) = (lower.display(), own.display());
    let options = format!("lowerdir={lower},upperdir={own}/upper,workdir={own}/work,volatile");
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(&*options))?;
    Ok(root)
}

/// Writes a container's own files for its `/etc` onto the disk, so that programs can change them, and returns their directory.
pub(crate) fn write_names(container: u16, files: &[(&str, String)]) -> io::Result<PathBuf> {
    let names = directory(container).join("etc");
    dir(&names)?;
    for (file, content) in files {
        fs::write(names.join(file), content)?;
    }
    Ok(names)
}

/// Mounts an image, unless another container of the pod has it, too.
fn mount_image(image: u16) -> io::Result<PathBuf> {
    let at = Path::new("/run/image").join(image.to_string());
    if !at.exists() {
        let device = devices::disk(&image_serial(image.into()))?;
        dir(&at)?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some(&device), &at, Some("erofs"), flags, None::<&str>)?;
    }
    Ok(at)
}

/// A container's part of the disk.
fn directory(container: u16) -> PathBuf {
    Path::new(SCRATCH).join(container.to_string())
}

/// A directory others may traverse and only root may list.
fn dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(path)
}
