//! Which modules of its kernel a guest loads, in which order.
//!
//! An unpacked kernel package has no list of dependencies (depmod writes it when the package is installed), so they are read from the
//! modules themselves. The host decompresses them: not every kernel can.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{decompress, elf};

/// What a guest needs: the bus and its devices, then file systems. What these depend on comes before them, and a kernel has some built in.
const NEEDED: &[&str] = &["virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "virtio_balloon", "erofs", "overlay", "ext4"];
/// Maximum number of modules.
const MODULES_MAX: usize = 64;
/// Maximum size of a module, in bytes; the largest needed one has less than 2 MiB.
const MODULE_BYTES_MAX: usize = 32 << 20;
/// Maximum size of the list of built-in modules, in bytes.
const LIST_BYTES_MAX: usize = 4 << 20;
/// Directories of modules may be nested this deep.
const DEPTH_MAX: usize = 16;
/// Maximum number of modules of a kernel.
const TREE_MAX: usize = 1 << 16;
const ENDINGS: &[&str] = &[".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

/// A module to load.
#[derive(Debug)]
pub(super) struct Module {
    /// Its name, with underscores.
    pub(super) name: String,
    /// The ELF file.
    pub(super) bytes: Vec<u8>,
}

/// The modules to load, in order; `dir` has the modules of one kernel (`/lib/modules/RELEASE`).
pub(super) fn needed(dir: &Path) -> io::Result<Vec<Module>> {
    let mut plan = Plan { tree: Tree::read(dir)?, seen: HashSet::new(), modules: Vec::new() };
    NEEDED.iter().try_for_each(|name| plan.add(name))?;
    Ok(plan.modules)
}

/// The modules a kernel has.
struct Tree {
    built_in: HashSet<String>,
    files: HashMap<String, PathBuf>,
}

impl Tree {
    fn read(dir: &Path) -> io::Result<Tree> {
        let list = match decompress::read(&dir.join("modules.builtin"), LIST_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let built_in = String::from_utf8_lossy(&list).lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect();
        let mut tree = Tree { built_in, files: HashMap::new() };
        tree.walk(&dir.join("kernel"), DEPTH_MAX)?;
        Ok(tree)
    }

    fn walk(&mut self, dir: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && depth > 0 {
                self.walk(&entry.path(), depth - 1)?;
            } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
                self.files.insert(name, entry.path());
            }
            if self.files.len() > TREE_MAX {
                return Err(io::Error::other(format!("{} has more than {TREE_MAX} modules", dir.display())));
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.built_in.contains(name) || self.files.contains_key(name)
    }
}

/// A module's name from that of its file: the kernel makes no difference between `-` and `_`.
fn module_name(file: &str) -> Option<String> {
    ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)).map(|stem| stem.replace('-', "_"))
}

struct Plan {
    tree: Tree,
    seen: HashSet<String>,
    modules: Vec<Module>,
}

impl Plan {
    /// Adds a module after those it depends on.
    fn add(&mut self, name: &str) -> io::Result<()> {
        if !self.seen.insert(name.to_owned()) || self.tree.built_in.contains(name) {
            return Ok(());
        }
        if self.seen.len() > MODULES_MAX {
            return Err(io::Error::other(format!("more than {MODULES_MAX} modules are needed")));
        }
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the module {name} is missing"));
        let file = self.tree.files.get(name).ok_or_else(missing)?;
        let of_module = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
        let bytes = decompress::read(file, MODULE_BYTES_MAX).and_then(|bytes| decompress::decompress(&bytes, MODULE_BYTES_MAX));
        let bytes = bytes.map_err(of_module)?;
        let not_a_module = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: not a module", file.display()));
        let before = self.before(elf::section(&bytes, b".modinfo").ok_or_else(not_a_module)?);
        before.iter().try_for_each(|other| self.add(other))?;
        self.modules.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }

    /// What a module depends on, from its `.modinfo`: strings `key=value`, each ended by NUL.
    fn before(&self, modinfo: &[u8]) -> Vec<String> {
        let fields = modinfo.split(|byte| *byte == 0).filter_map(|field| str::from_utf8(field).ok()?.split_once('='));
        let names = fields.flat_map(|(key, value)| match key {
            "depends" => value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect(),
            "softdep" => self.wished(value),
            _ => Vec::new(),
        });
        names.collect()
    }

    /// The modules of `pre: A B post: C` to load before it. They may be algorithms, such as crc32c: the portable implementation has a name
    /// of its own. Those that the kernel lacks aren't needed.
    fn wished(&self, softdep: &str) -> Vec<String> {
        let words = softdep.split_whitespace().skip_while(|word| *word != "pre:").skip(1).take_while(|word| !word.ends_with(':'));
        let known = words.filter_map(|word| {
            let name = word.replace('-', "_");
            [name.clone(), format!("{name}_generic")].into_iter().find(|name| self.tree.has(name))
        });
        known.collect()
    }
}
