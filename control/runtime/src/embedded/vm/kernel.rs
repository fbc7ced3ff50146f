//! The guest's kernel: one the host's distribution installed (and keeps free of known holes), extracted so that a virtual machine starts
//! it without decompressing it, and the archive it starts from.
//!
//! Both lie in a directory whose name contains a digest of what they were made of. A newer kernel gets a directory of its own; an older one
//! stays as long as virtual machines use it.

mod bzimage;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{decompress, initramfs, modules};

/// The package that brings a kernel for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64 (Ubuntu: linux-image-virtual)";
/// End of the release of a kernel made for virtual machines.
const CLOUD: &str = "-cloud-amd64";
/// Maximum size of a compressed kernel, in bytes.
const COMPRESSED_BYTES_MAX: usize = 128 << 20;
/// Maximum number of kernels that are looked at.
const CANDIDATES_MAX: usize = 16;
/// Changes whenever the same input makes another directory.
const FORMAT: &[u8] = b"1";

/// The release of the running kernel.
const OSRELEASE: &str = "/proc/sys/kernel/osrelease";

const VMLINUX: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";
const LOCK: &str = "lock";

/// Where kernels are: a directory with `boot/vmlinuz-*`, and `lib/modules/*` or `usr/lib/modules/*`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KernelSource {
    /// The directory.
    pub(crate) root: PathBuf,
}

impl Default for KernelSource {
    /// This machine's own.
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

/// A kernel, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kernel {
    /// As in `uname -r`.
    pub(crate) release: String,
    /// The extracted kernel (ELF).
    pub(crate) vmlinux: PathBuf,
    /// The archive it starts from.
    pub(crate) initramfs: PathBuf,
    /// Digest of everything they were made of: two guests with the same one start alike.
    pub(crate) fingerprint: String,
}

impl Kernel {
    /// Keeps the files until the returned one is closed, in every process.
    pub(crate) fn use_lock(&self) -> io::Result<File> {
        let path = self.vmlinux.with_file_name(LOCK);
        let file = File::open(&path)?;
        let gone = || io::Error::new(io::ErrorKind::NotFound, format!("{} has been removed", path.display()));
        file.try_lock_shared().map_err(|error| if matches!(error, TryLockError::WouldBlock) { gone() } else { error.into() })?;
        // Between opening and locking, another process may have removed it.
        match fs::metadata(&path) {
            Ok(found) if found.ino() == file.metadata()?.ino() => Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Err(gone()),
        }
    }
}

/// Finds the best kernel with all that a guest needs and makes it ready below `state`, with `init` as its first process. Removes earlier
/// ones that nobody uses.
pub(crate) fn prepare(source: &KernelSource, state: &Path, init: &[u8]) -> io::Result<Kernel> {
    let dir = state.join("vm");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let mut causes = Vec::new();
    for candidate in candidates(&source.root)?.into_iter().take(CANDIDATES_MAX) {
        match prepare_candidate(&candidate, &dir, init) {
            Ok(kernel) => {
                if let Err(error) = remove_unused(&dir, &kernel) {
                    tracing::warn!(%error, "an earlier guest kernel wasn't removed");
                }
                return Ok(kernel);
            }
            Err(error) => causes.push(format!("{}: {error}", candidate.release)),
        }
    }
    if causes.is_empty() {
        return Err(none_in(&source.root));
    }
    let cause = format!("no kernel in {} suits a guest ({}); install {PACKAGE}", source.root.display(), causes.join("; "));
    Err(io::Error::new(io::ErrorKind::NotFound, cause))
}

/// The release of the kernel that is tried first; whether it suits, only [`prepare`] finds out.
pub(crate) fn find(source: &KernelSource) -> io::Result<String> {
    let first = candidates(&source.root)?.into_iter().next();
    first.map(|candidate| candidate.release).ok_or_else(|| none_in(&source.root))
}

fn none_in(root: &Path) -> io::Error {
    let cause = format!("no kernel with its modules in {} (boot/vmlinuz-*, lib/modules/*); install {PACKAGE}", root.display());
    io::Error::new(io::ErrorKind::NotFound, cause)
}

/// A kernel with modules.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    release: String,
    vmlinuz: PathBuf,
    modules: PathBuf,
}

/// The kernels in `root`, the best one first.
fn candidates(root: &Path) -> io::Result<Vec<Candidate>> {
    let entries = match fs::read_dir(root.join("boot")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let running = fs::read_to_string(OSRELEASE).unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(release) = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-")) else { continue };
        let modules = ["lib/modules", "usr/lib/modules"].map(|below| root.join(below).join(release));
        if let Some(modules) = modules.into_iter().find(|modules| modules.join("kernel").is_dir()) {
            found.push(Candidate { release: release.to_owned(), vmlinuz: entry.path(), modules });
        }
    }
    found.sort_by_cached_key(|candidate| Reverse(rank(&candidate.release, running.trim())));
    Ok(found)
}

/// Higher is better: made for virtual machines, newer, the one that runs here.
fn rank(release: &str, running: &str) -> (bool, Vec<u64>, bool, String) {
    // `6.1.0-57-cloud-amd64`: the numbers before the first word.
    let numbers = release.split(['.', '-', '+', '~', '_']).map_while(|part| part.parse().ok()).collect();
    (release.ends_with(CLOUD), numbers, release == running, release.to_owned())
}

fn prepare_candidate(candidate: &Candidate, dir: &Path, init: &[u8]) -> io::Result<Kernel> {
    let initramfs = initramfs::archive(init, &modules::needed(&candidate.modules)?)?;
    let vmlinuz = decompress::read(&candidate.vmlinuz, COMPRESSED_BYTES_MAX)?;
    let fingerprint = fingerprint(&candidate.release, &vmlinuz, &initramfs);
    let short = fingerprint.get(..16).unwrap_or(&fingerprint);
    let ready = dir.join(format!("{}-{short}", candidate.release));
    let kernel = Kernel {
        release: candidate.release.clone(),
        vmlinux: ready.join(VMLINUX),
        initramfs: ready.join(INITRAMFS),
        fingerprint: fingerprint.clone(),
    };
    // The directory gets this name only when it is complete.
    if ready.is_dir() {
        return Ok(kernel);
    }
    let vmlinux = bzimage::vmlinux(&vmlinuz)?;
    let unfinished = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(dir)?;
    fs::set_permissions(unfinished.path(), Permissions::from_mode(0o755))?;
    let lock = write(&unfinished.path().join(LOCK), &[])?;
    lock.try_lock_shared()?; // or a concurrent preparation would take it for an abandoned one
    write(&unfinished.path().join(VMLINUX), &vmlinux)?.sync_all()?;
    write(&unfinished.path().join(INITRAMFS), &initramfs)?.sync_all()?;
    match fs::rename(unfinished.path(), &ready) {
        Ok(()) => drop(unfinished.keep()),
        // Another preparation was faster, with the same content.
        Err(_) if ready.is_dir() => {}
        Err(error) => return Err(error),
    }
    File::open(dir)?.sync_all()?;
    Ok(kernel)
}

/// Digest of what a guest starts from: the kernel as installed, and the archive with modules and first process.
fn fingerprint(release: &str, vmlinuz: &[u8], initramfs: &[u8]) -> String {
    let mut hasher = Sha256::new();
    for part in [FORMAT, release.as_bytes(), vmlinuz, initramfs] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

/// A new file that everybody may read: QEMU does, as the pod's user.
fn write(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(content)?;
    Ok(file)
}

/// Removes every directory in `dir` but this kernel's, unless it is in use.
fn remove_unused(dir: &Path, kernel: &Kernel) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !path.is_dir() || kernel.vmlinux.parent() == Some(&*path) {
            continue;
        }
        let removed = match File::open(path.join(LOCK)) {
            // Its preparation ended early, or is about to write the lock and fails then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir(&path),
            Err(error) => Err(error),
            Ok(lock) => match lock.try_lock() {
                Ok(()) => fs::remove_dir_all(&path),
                Err(TryLockError::WouldBlock) => Ok(()),
                Err(TryLockError::Error(error)) => Err(error),
            },
        };
        removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    }
    Ok(())
}
