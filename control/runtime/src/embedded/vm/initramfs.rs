//! The archive a guest starts from: its first process, and the kernel's modules. Uncompressed: it is small, and decompressing takes longer
//! than reading.
//!
//! ```text
//! /init                    the guest's first process
//! /modules/order           names of the files beside it, one a line, in the order to load them
//! /modules/NN-NAME.ko
//! /dev /mnt /proc /run /sys /tmp   mount points
//! /dev/console             for messages before the first process mounts /dev
//! ```
//!
//! The same input makes the same bytes.

use std::io;

use super::modules::Module;

const DIRECTORIES: &[&str] = &["dev", "mnt", "modules", "proc", "run", "sys", "tmp"];
const S_IFDIR: u32 = 0o04_0000;
const S_IFREG: u32 = 0o10_0000;
const S_IFCHR: u32 = 0o02_0000;
/// Major and minor number of `/dev/console`.
const CONSOLE: (u32, u32) = (5, 1);
/// The name that ends an archive.
const END: &str = "TRAILER!!!";

/// The archive with `init` and the modules, which the guest loads in this order.
pub(super) fn archive(init: &[u8], modules: &[Module]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for name in DIRECTORIES {
        archive.entry(name, S_IFDIR | 0o755, (0, 0), &[])?;
    }
    archive.entry("dev/console", S_IFCHR | 0o600, CONSOLE, &[])?;
    archive.entry("init", S_IFREG | 0o755, (0, 0), init)?;
    let mut order = String::new();
    for (number, module) in modules.iter().enumerate() {
        let file = format!("{number:02}-{}.ko", module.name);
        archive.entry(&format!("modules/{file}"), S_IFREG | 0o644, (0, 0), &module.bytes)?;
        order.push_str(&file);
        order.push('\n');
    }
    archive.entry("modules/order", S_IFREG | 0o644, (0, 0), order.as_bytes())?;
    archive.entry(END, 0, (0, 0), &[])?;
    Ok(archive.bytes)
}

/// A cpio archive in the format `newc`.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        // Inode, mode, owner, group, links, time, size, device of the file, device it is, size of the name, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.bytes.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    fn modules() -> [Module; 2] {
        [("virtio_ring", &b"first"[..]), ("virtio", b"second!")]
            .map(|(name, bytes)| Module { name: name.to_owned(), bytes: bytes.to_vec() })
    }

    #[test]
    fn bsdtar_unpacks_what_was_put_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("archive");
        fs::write(&file, archive(b"#!/init", &modules()).unwrap()).unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let bsdtar = |arguments: &[&str]| {
            let output = Command::new("bsdtar").args(arguments).arg("-f").arg(&file).arg("-C").arg(&root).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        bsdtar(&["-x", "--exclude", "dev/console"]);
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(read("init"), "#!/init");
        assert_eq!(read("modules/order"), "00-virtio_ring.ko\n01-virtio.ko\n");
        assert_eq!((read("modules/00-virtio_ring.ko"), read("modules/01-virtio.ko")), ("first".to_owned(), "second!".to_owned()));
        let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode();
        assert_eq!((mode("init"), mode("modules/order"), mode("proc")), (0o100_755, 0o100_644, 0o40_755));
        let listed = bsdtar(&["-tv"]);
        let console = listed.lines().find(|line| line.ends_with("dev/console")).unwrap();
        assert!(console.starts_with("crw-------") && console.contains("5,1"), "{console}");
        assert_eq!(listed.lines().count(), DIRECTORIES.len() + 5, "{listed}");
    }

    #[test]
    fn the_same_input_makes_the_same_bytes() {
        let bytes = archive(b"init", &modules()).unwrap();
        assert_eq!(bytes, archive(b"init", &modules()).unwrap());
        assert_eq!(bytes.len() % 4, 0);
    }
}
