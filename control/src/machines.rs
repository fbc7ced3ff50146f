//! The sizes of pods this host sells: a table by name, each with what a pod of that size gets and what it costs.
//!
//! `small` is always there: it is what a manifest gets that names no machine, and what `cost_per_month` is the price of.

use std::{fmt, ops::RangeInclusive, str::FromStr, sync::Arc};

use codiusd_runtime::Machine;

use crate::factor::Factor;

/// The size every host has.
pub const SMALL: &str = "small";

const MIB: u64 = 1 << 20;
/// Sizes of one host, at most.
const SIZES_MAX: usize = 32;
/// Characters of a name, at most.
const NAME_MAX: usize = 32;
/// Virtual processors of one pod, at most.
const VCPUS_MAX: u32 = 1024;
/// Less than this no container starts in.
const MEMORY_MIN: u64 = 16 * MIB;
/// Less than this isn't worth a file system of its own, and more than that isn't made.
const DISK: RangeInclusive<u64> = 16 * MIB..=1 << 40;
/// Units of sizes, and their bytes.
const UNITS: [(&str, u64); 3] = [("MiB", MIB), ("GiB", MIB << 10), ("TiB", MIB << 20)];

/// One size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// What manifests call it.
    pub name: String,
    /// What a pod gets.
    pub machine: Machine,
    /// What it costs, as a multiple of what `small` does.
    pub price: Factor,
}

/// All sizes; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machines(Arc<[Size]>);

/// The text is no table of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sizes such as medium cpus=2 memory=1GiB disk=2GiB price=1.9, separated by commas, each name once; the price of small is 1")]
pub struct BadMachines;

impl Size {
    fn small() -> Self {
        let machine = Machine { vcpus: 1, memory_bytes: 512 * MIB, disk_bytes: Machine::DISK_DEFAULT };
        Self { name: SMALL.to_owned(), machine, price: Factor::ONE }
    }
}

impl Machines {
    /// The size manifests call `name`.
    pub fn get(&self, name: &str) -> Option<&Size> {
        self.0.iter().find(|size| size.name == name)
    }

    /// What a manifest gets that names no size.
    pub fn small(&self) -> &Size {
        self.0.first().unwrap_or_else(|| unreachable!("a table of sizes begins with small"))
    }

    /// Each size, `small` first, the others as they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Size> {
        self.0.iter()
    }

    /// Those that nothing is `against`, and the others with what is.
    pub fn partition<A>(&self, against: impl Fn(&Size) -> Option<A>) -> (Self, Vec<(Size, A)>) {
        let (mut fit, mut others) = (Vec::new(), Vec::new());
        for size in self.iter().cloned() {
            match against(&size) {
                None => fit.push(size),
                Some(reason) => others.push((size, reason)),
            }
        }
        (Self(fit.into()), others)
    }

    /// All names, for people.
    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self.iter().map(|size| format!("\"{}\"", size.name)).collect();
        names.join(" or ")
    }
}

impl Default for Machines {
    fn default() -> Self {
        Self([Size::small()].into())
    }
}

impl FromStr for Machines {
    type Err = BadMachines;

    /// Reads sizes separated by commas; `small` is added if it isn't among them.
    fn from_str(text: &str) -> Result<Self, BadMachines> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let sizes = parts.map(str::parse).collect::<Result<Vec<Size>, _>>()?;
        let (mut table, others): (Vec<Size>, Vec<Size>) = sizes.into_iter().partition(|size| size.name == SMALL);
        if table.is_empty() {
            table.push(Size::small());
        }
        let small_is_fine = matches!(table.as_slice(), [small] if small.price == Factor::ONE);
        table.extend(others);
        let mut names: Vec<&str> = table.iter().map(|size| size.name.as_str()).collect();
        names.sort_unstable();
        let doubled = names.windows(2).any(|pair| matches!(pair, [one, other] if one == other));
        if small_is_fine && !doubled && table.len() <= SIZES_MAX { Ok(Self(table.into())) } else { Err(BadMachines) }
    }
}

impl FromStr for Size {
    type Err = BadMachines;

    /// Reads `NAME cpus=N memory=SIZE disk=SIZE price=FACTOR`, the fields in any order.
    fn from_str(text: &str) -> Result<Self, BadMachines> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().filter(|name| is_name(name)).ok_or(BadMachines)?;
        let fields = words.map(|word| word.split_once('=')).collect::<Option<Vec<_>>>().ok_or(BadMachines)?;
        let field = |wanted: &str| match fields.iter().filter(|(field, _)| *field == wanted).collect::<Vec<_>>().as_slice() {
            [(_, value)] => Ok(*value),
            _ => Err(BadMachines),
        };
        let (cpus, memory, disk, price) = (field("cpus")?, field("memory")?, field("disk")?, field("price")?);
        if fields.len() != 4 {
            return Err(BadMachines);
        }
        let vcpus = cpus.parse().ok().filter(|vcpus| (1..=VCPUS_MAX).contains(vcpus)).ok_or(BadMachines)?;
        let memory_bytes = bytes(memory).filter(|bytes| *bytes >= MEMORY_MIN).ok_or(BadMachines)?;
        let disk_bytes = bytes(disk).filter(|bytes| DISK.contains(bytes)).ok_or(BadMachines)?;
        let price = price.parse().map_err(|_| BadMachines)?;
        Ok(Self { name: name.to_owned(), machine: Machine { vcpus, memory_bytes, disk_bytes }, price })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { vcpus, memory_bytes, disk_bytes } = self.machine;
        let (memory, disk) = (memory_bytes / MIB, disk_bytes / MIB);
        write!(f, "{} cpus={vcpus} memory={memory}MiB disk={disk}MiB price={}", self.name, self.price)
    }
}

fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    first && name.len() <= NAME_MAX && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A size as `512MiB`, in bytes.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| plain)?.checked_mul(*unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_is_always_there_and_first() {
        let medium = "medium cpus=2 memory=1GiB disk=2GiB price=1.9";
        let own_small = "small price=1 disk=64MiB cpus=2 memory=128MiB";
        let table = [
            ("", vec!["small cpus=1 memory=512MiB disk=1024MiB price=1"]),
            (medium, vec!["small cpus=1 memory=512MiB disk=1024MiB price=1", "medium cpus=2 memory=1024MiB disk=2048MiB price=1.9"]),
            (
                &format!("{medium}, {own_small},"),
                vec!["small cpus=2 memory=128MiB disk=64MiB price=1", "medium cpus=2 memory=1024MiB disk=2048MiB price=1.9"],
            ),
        ];
        for (text, expected) in table {
            let machines: Machines = text.parse().unwrap();
            assert_eq!(machines.iter().map(Size::to_string).collect::<Vec<_>>(), expected, "{text}");
            assert_eq!(machines.small(), machines.get("small").unwrap());
        }
        assert_eq!(Machines::default(), "".parse().unwrap());
        assert_eq!(
            format!("{medium},large{}", medium.trim_start_matches("medium")).parse::<Machines>().unwrap().names(),
            "\"small\" or \"medium\" or \"large\""
        );
    }

    #[test]
    fn a_table_that_makes_no_sense_is_refused() {
        for text in [
            "medium",
            "medium cpus=2 memory=1GiB disk=2GiB",
            "medium cpus=2 memory=1GiB disk=2GiB price=1 price=2",
            "medium cpus=2 memory=1GiB disk=2GiB price=1 gpus=1",
            "medium cpus=2 memory=1GiB disk=2GiB price=0",
            "medium cpus=0 memory=1GiB disk=2GiB price=1",
            "medium cpus=0.5 memory=1GiB disk=2GiB price=1",
            "medium cpus=2 memory=1GB disk=2GiB price=1",
            "medium cpus=2 memory=1MiB disk=2GiB price=1",
            "medium cpus=2 memory=99999999999999TiB disk=2GiB price=1",
            "medium cpus=2 memory=+1GiB disk=2GiB price=1",
            "medium cpus=2 memory=1GiB disk=0GiB price=1",
            "medium cpus=2 memory=1GiB disk=2TiB price=1",
            "Medium cpus=2 memory=1GiB disk=2GiB price=1",
            "small cpus=1 memory=512MiB disk=1GiB price=2",
            "m cpus=1 memory=1GiB disk=1GiB price=1,m cpus=2 memory=1GiB disk=1GiB price=1",
            "small cpus=1 memory=1GiB disk=1GiB price=1,small cpus=1 memory=1GiB disk=1GiB price=1",
        ] {
            assert_eq!(text.parse::<Machines>(), Err(BadMachines), "{text}");
        }
    }
}
