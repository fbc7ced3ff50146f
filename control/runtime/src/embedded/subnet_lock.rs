//! Which codiusd owns a network on this machine: a file per network in use, locked by all that assign its addresses to pods.
//!
//! Two codiusd on one network would take each other's addresses, and visitors of one would reach a pod of the other. The daemon and each of
//! its shims share a lock on the file, which contains their root. So a network stays taken as long as a pod has an address in it, even if
//! the daemon has died; the next daemon of that root may take it, no other root; and the locks end with the processes, however those end.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    net::Ipv4Addr,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use codiusd_net::Ipv4Cidr;

use super::{error::OpenError, launch::unavailable};

/// Lost on reboot, as pods are. The directory itself is locked while its content is read or changed.
const CLAIMS: &str = "/run/codius/subnets";

/// A network that is ours until this is dropped, and for as long as pods have addresses in it.
#[derive(Debug)]
pub struct SubnetLock {
    path: PathBuf,
    file: File,
}

impl SubnetLock {
    /// Claims the network for the codiusd in the directory `root`, which may already hold it.
    pub fn take(root: &Path, subnet: Ipv4Cidr) -> Result<Self, OpenError> {
        super::privileges::check()?;
        // One directory under two names is still one codiusd.
        let taken = fs::canonicalize(root).and_then(|root| take_at(Path::new(CLAIMS), &root, subnet));
        let taken = taken.map_err(|error| unavailable("taking the pods' network", error))?;
        taken.map_err(|(taken, root)| OpenError::SubnetInUse { subnet, taken, root })
    }
}

impl Drop for SubnetLock {
    fn drop(&mut self) {
        let Some(claims) = self.path.parent() else { return };
        // If the file isn't removed, it still counts as none without a lock.
        let _ = locked(claims).map(|_claims| self.file.try_lock().is_ok() && fs::remove_file(&self.path).is_ok());
    }
}

/// The file whose lock a shim shares.
pub(crate) fn path(subnet: Ipv4Cidr) -> PathBuf {
    path_in(Path::new(CLAIMS), subnet)
}

/// Shares the daemon's lock; it is held until the file is closed.
pub(crate) fn share(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    file.try_lock_shared()?;
    Ok(file)
}

fn path_in(claims: &Path, subnet: Ipv4Cidr) -> PathBuf {
    claims.join(format!("{}-{}", subnet.address(0), subnet.prefix))
}

/// Inner error: the conflicting network, and the root of its codiusd.
fn take_at(claims: &Path, root: &Path, subnet: Ipv4Cidr) -> io::Result<Result<SubnetLock, (Ipv4Cidr, PathBuf)>> {
    DirBuilder::new().recursive(true).mode(0o700).create(claims)?;
    let _claims = locked(claims)?;
    for entry in fs::read_dir(claims)? {
        let path = entry?.path();
        let Some(taken) = subnet_of(&path) else { continue };
        match holder(&path)? {
            None => fs::remove_file(&path)?,
            Some(holder) if holder != root && taken.overlaps(subnet) => return Ok(Err((taken, holder))),
            Some(_) => {}
        }
    }
    let path = path_in(claims, subnet);
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    file.try_lock_shared()?;
    file.write_all(root.as_os_str().as_bytes())?;
    Ok(Ok(SubnetLock { path, file }))
}

/// Opens and locks the directory until the file is closed.
fn locked(claims: &Path) -> io::Result<File> {
    let directory = File::open(claims)?;
    directory.lock()?;
    Ok(directory)
}

/// The root of the codiusd that holds the network; none if it is free again.
fn holder(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut root = Vec::new();
            file.read_to_end(&mut root)?;
            Ok(Some(PathBuf::from(std::ffi::OsString::from_vec(root))))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn subnet_of(path: &Path) -> Option<Ipv4Cidr> {
    let (network, prefix) = path.file_name()?.to_str()?.split_once('-')?;
    Some(Ipv4Cidr { network: network.parse::<Ipv4Addr>().ok()?, prefix: prefix.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Cidr {
        subnet_of(Path::new(&text.replace('/', "-"))).unwrap()
    }

    #[test]
    fn a_network_is_one_roots_until_the_last_share_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let claims = dir.path().join("claims");
        let take = |root: &str, subnet| take_at(&claims, Path::new(root), net(subnet)).unwrap();
        let daemon = take("/a", "10.200.0.0/16").unwrap();
        for overlapping in ["10.200.0.0/16", "10.0.0.0/8", "10.200.7.0/24"] {
            assert_eq!(take("/b", overlapping).unwrap_err(), (net("10.200.0.0/16"), PathBuf::from("/a")), "{overlapping}");
        }
        take("/b", "10.201.0.0/16").unwrap();

        let shim = share(&daemon.path).unwrap();
        drop(daemon);
        assert!(take("/b", "10.200.7.0/24").is_err(), "a pod still has an address of it");
        let next = take("/a", "10.200.0.0/16").expect("the next daemon of its root");
        drop((shim, next));
        assert_eq!(fs::read_dir(&claims).unwrap().count(), 0, "nothing is left of what nobody has");
        take("/b", "10.200.7.0/24").unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path_in(dir.path(), net("10.0.0.0/8")), "/a/root/longer/than/the/next").unwrap();
        let claim = take_at(dir.path(), Path::new("/b"), net("10.0.0.0/8")).unwrap().unwrap();
        assert_eq!(holder(&claim.path).unwrap(), Some(PathBuf::from("/b")));
    }
}
