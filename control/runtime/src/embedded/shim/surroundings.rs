//! A container's view of itself: its names in `/etc`, and its control group.
//!
//! The files in `/etc` are the container's own, on the pod's disk, so that programs can change them and their writes are accounted for. The
//! container gets a read-only view of its own control group and none of its parents or siblings, at the usual paths of version 1 and 2:
//! Node, the JVM and others size heaps and pools by the limits they read there.

use std::{
    fs, io,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
};

use codiusd_container_rootfs::names;
use nix::mount::{MsFlags, mount};

use super::{BENCH, mounts};
use crate::embedded::{
    cgroup,
    shim_protocol::{ContainerRequest, ShimRequest},
};

/// Enough for the directories and links on which the version 1 hierarchies are mounted.
const GROUPS_TMPFS: &str = "mode=0755,size=64k,nr_inodes=64";

/// Creates both, for [`super::spec`] to mount.
pub(super) fn prepare(order: &ShimRequest, container: &ContainerRequest) -> io::Result<()> {
    write_names(order, container)?;
    let group = order.pod.cgroup.join(&container.name);
    cgroup::create_container(&group, order.machine, order.bounds.pids)?;
    let at = groups_of(container);
    mounts::dir(&at)?;
    match cgroup::joined()?.as_slice() {
        [unified] if unified == Path::new(cgroup::MOUNT) => show(&cgroup::join(unified, &group), &at),
        hierarchies => show_each(hierarchies, &group, &at, order.uid_base),
    }
}

/// The directory of the container's files for `/etc`.
pub(super) fn names_of(container: &ContainerRequest) -> PathBuf {
    Path::new(mounts::SCRATCH).join(&container.name).join("etc")
}

/// The directory of the container's view of the control groups.
pub(super) fn groups_of(container: &ContainerRequest) -> PathBuf {
    Path::new(BENCH).join("groups").join(&container.name)
}

/// The files with the pod's names and addresses, as container engines write them; they belong to the pod's root.
fn write_names(order: &ShimRequest, container: &ContainerRequest) -> io::Result<()> {
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    let directory = names_of(container);
    mounts::dir(&directory)?;
    for (file, content) in names::files(order.pod.id.as_str(), order.pod.address, ipv6, &order.resolv_conf) {
        fs::write(directory.join(file), content)?;
        chown(directory.join(file), Some(order.uid_base), Some(order.uid_base))?;
    }
    Ok(())
}

/// Mounts the version 1 hierarchies, each under its name, and links the names of those that are mounted together.
fn show_each(hierarchies: &[PathBuf], group: &Path, at: &Path, owner: u32) -> io::Result<()> {
    let options = format!("{GROUPS_TMPFS},uid={owner},gid={owner}");
    mount(Some("tmpfs"), at, Some("tmpfs"), view_flags(), Some(&*options))?;
    for hierarchy in hierarchies {
        let Some(name) = hierarchy.file_name().and_then(|name| name.to_str()) else { continue };
        let view = at.join(name);
        fs::create_dir(&view)?;
        show(&cgroup::join(hierarchy, group), &view)?;
        for controller in name.split(',').filter(|controller| *controller != name) {
            symlink(name, at.join(controller))?;
        }
    }
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | view_flags();
    mount(None::<&str>, at, None::<&str>, flags, Some(&*options)).map_err(io::Error::from)
}

/// Mounts a directory read-only. A mount namespace can't make a mount writable that it inherited from a more privileged user namespace.
fn show(directory: &Path, at: &Path) -> io::Result<()> {
    mount(Some(directory), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | view_flags();
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).map_err(io::Error::from)
}

fn view_flags() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs with private mounts that end with the thread. The test runs as root.
    fn with_own_mounts(run: impl FnOnce(&Path) + Send) {
        let dir = tempfile::tempdir().unwrap();
        let own = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).unwrap();
            run(dir.path());
        };
        thread::scope(|scope| scope.spawn(own).join()).unwrap();
    }

    #[test]
    fn of_version_2_one_directory_is_shown_read_only() {
        with_own_mounts(|dir| {
            let (hierarchy, at) = (dir.join("hierarchy"), dir.join("at"));
            fs::create_dir(&hierarchy).unwrap();
            fs::create_dir(&at).unwrap();
            mount(Some("cgroup2"), &hierarchy, Some("cgroup2"), MsFlags::empty(), None::<&str>).unwrap();
            let group = hierarchy.join(format!("codius-test-view-{}", std::process::id()));
            fs::create_dir(&group).unwrap();
            show(&group, &at).unwrap();
            let (seen, made) = (fs::read_to_string(at.join("cgroup.procs")), fs::create_dir(at.join("below")));
            let written = fs::write(at.join("cgroup.max.depth"), "1");
            fs::remove_dir(&group).unwrap();
            assert_eq!(seen.unwrap(), "", "nothing is in it");
            for refused in [made, written] {
                assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
            }
        });
    }

    #[test]
    fn hierarchies_of_version_1_have_all_their_names() {
        with_own_mounts(|dir| {
            let at = dir.join("at");
            fs::create_dir(&at).unwrap();
            let hierarchies = ["memory", "cpu,cpuacct"].map(|name| dir.join(name));
            for hierarchy in &hierarchies {
                fs::create_dir_all(hierarchy.join("codius/pod/main")).unwrap();
                fs::write(hierarchy.join("codius/pod/main/limit"), hierarchy.file_name().unwrap().as_encoded_bytes()).unwrap();
            }
            show_each(&hierarchies, Path::new("/codius/pod/main"), &at, 0).unwrap();
            for (name, wanted) in [("memory", "memory"), ("cpu,cpuacct", "cpu,cpuacct"), ("cpu", "cpu,cpuacct"), ("cpuacct", "cpu,cpuacct")]
            {
                assert_eq!(fs::read_to_string(at.join(name).join("limit")).unwrap(), wanted, "{name}");
            }
            for path in ["more", "memory/more", "cpu/more"] {
                assert_eq!(fs::write(at.join(path), "").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem, "{path}");
            }
        });
    }
}
