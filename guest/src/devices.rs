//! Ports and disks, by the names the host gave them.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::wait;

/// How long a device may take to appear after its module has been loaded: an emulated machine on a busy host is slow.
const DEVICE_WAIT: Duration = Duration::from_secs(10);
const PORTS: &str = "/sys/class/virtio-ports";
const DISKS: &str = "/sys/block";

/// Opens the port of this name in non-blocking mode, and waits until the host is there.
pub(crate) fn port(name: &str) -> io::Result<OwnedFd> {
    let device = wait::until(name, DEVICE_WAIT, || found(Path::new(PORTS), "name", name))?;
    let port: OwnedFd = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(device)?.into();
    // Until then reading it looks like its end.
    wait::until(name, DEVICE_WAIT, || {
        let mut polled = [PollFd::new(port.as_fd(), PollFlags::POLLOUT)];
        poll(&mut polled, PollTimeout::ZERO)?;
        let hung_up = polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
        Ok((!hung_up).then_some(()))
    })?;
    Ok(port)
}

/// The device file of the disk with this serial number.
pub(crate) fn disk(serial: &str) -> io::Result<PathBuf> {
    wait::until(&format!("block device {serial}"), DEVICE_WAIT, || found(Path::new(DISKS), "serial", serial))
}

/// The device file of the device in this class whose attribute has that value.
fn found(class: &Path, attribute: &str, value: &str) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(class) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // A device that is being added may have no attributes yet, or no device file.
        let told = fs::read_to_string(entry.path().join(attribute)).unwrap_or_default();
        let device = Path::new("/dev").join(entry.file_name());
        if told.trim_end_matches(['\n', '\0']) == value && device.exists() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_whole_name_and_only_with_its_file() {
        let class = tempfile::tempdir().unwrap();
        // `null` and `zero` have files in /dev, and `nothing` has none.
        for (device, name) in [("null", "image1\n"), ("zero", "image11"), ("nothing", "disk\n")] {
            fs::create_dir(class.path().join(device)).unwrap();
            fs::write(class.path().join(device).join("serial"), name).unwrap();
        }
        fs::create_dir(class.path().join("bare")).unwrap();
        let device = |serial| found(class.path(), "serial", serial).unwrap();
        assert_eq!(device("image1"), Some("/dev/null".into()));
        assert_eq!(device("image11"), Some("/dev/zero".into()));
        assert_eq!((device("disk"), device("image")), (None, None));
        assert_eq!(found(&class.path().join("missing"), "serial", "disk").unwrap(), None);
    }
}
