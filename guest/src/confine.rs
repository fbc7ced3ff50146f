//! What a container's first process may do: its user, capabilities and limits.

use std::io;

use codiusd_container_rootfs::{
    Identity,
    confinement::{CORE_BYTES, ROOT_CAPABILITY_MASK, UMASK},
};
use codiusd_guest_protocol::Bounds;
use nix::{
    sys::{
        prctl,
        resource::{RLIM_INFINITY, Resource, setrlimit},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, setgroups, setresgid, setresuid},
};

use crate::sys;

/// Sets the process's limits.
pub(crate) fn limit(bounds: &Bounds) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, CORE_BYTES, CORE_BYTES)?;
    setrlimit(Resource::RLIMIT_NOFILE, bounds.open_files, bounds.open_files)?;
    setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY)?; // the pod's group limits it, whatever the machine's memory
    umask(Mode::from_bits_truncate(UMASK));
    Ok(())
}

/// Becomes the container's user, who keeps the capabilities of a container's root or has none.
pub(crate) fn become_user(who: &Identity) -> io::Result<()> {
    let is_root = who.uid == 0;
    sys::bound_capabilities(if is_root { ROOT_CAPABILITY_MASK } else { 0 })?;
    let groups: Vec<Gid> = who.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?; // takes all capabilities from a user other than root
    if is_root {
        sys::limit_capabilities()?;
    }
    Ok(prctl::set_no_new_privs()?)
}
