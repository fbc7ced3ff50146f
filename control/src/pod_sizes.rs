//! The sizes of pods this host sells: a table by name, with the resources and price of each size.
//!
//! `small` always exists: a manifest that names no machine gets it, and `cost_per_month` is its price.

use std::{fmt, ops::RangeInclusive, str::FromStr, sync::Arc};

use codiusd_runtime::Machine;

use crate::factor::Factor;

/// The size every host has.
pub const SMALL: &str = "small";

const MIB: u64 = 1 << 20;
/// Most sizes of one host.
const SIZES_MAX: usize = 32;
/// Longest name, in characters.
const NAME_MAX: usize = 32;
/// Most virtual processors of one pod.
const VCPUS_MAX: u32 = 1024;
/// The least memory a container starts in.
const MEMORY_MIN: u64 = 16 * MIB;
/// Disks below the minimum aren't worth a file system of their own; larger ones than the maximum aren't made.
const DISK: RangeInclusive<u64> = 16 * MIB..=1 << 40;
/// Units of sizes, in bytes.
const UNITS: [(&str, u64); 3] = [("MiB", MIB), ("GiB", MIB << 10), ("TiB", MIB << 20)];

/// One size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSize {
    /// Its name in manifests.
    pub name: String,
    /// The resources of a pod.
    pub machine: Machine,
    /// Its price, as a multiple of the price of `small`.
    pub price: Factor,
}

/// All sizes; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSizes(Arc<[PodSize]>);

/// The text isn't a valid table of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sizes such as medium cpus=2 memory=1GiB disk=2GiB price=1.9, separated by commas, each name once; the price of small is 1")]
pub struct BadPodSizes;

impl PodSize {
    fn small() -> Self {
        let machine = Machine { vcpus: 1, memory_bytes: 512 * MIB, disk_bytes: Machine::DISK_DEFAULT };
        Self { name: SMALL.to_owned(), machine, price: Factor::ONE }
    }
}

impl PodSizes {
    /// The size called `name` in manifests.
    pub fn get(&self, name: &str) -> Option<&PodSize> {
        self.0.iter().find(|size| size.name == name)
    }

    /// The size of a manifest that names none.
    pub fn small(&self) -> &PodSize {
        self.0.first().unwrap_or_else(|| unreachable!("a table of sizes begins with small"))
    }

    /// All sizes, `small` first, the others in the configured order.
    pub fn iter(&self) -> impl Iterator<Item = &PodSize> {
        self.0.iter()
    }

    /// Splits the table into the sizes for which `against` returns no reason, and the others with their reasons.
    pub fn partition<A>(&self, against: impl Fn(&PodSize) -> Option<A>) -> (Self, Vec<(PodSize, A)>) {
        let (mut fit, mut others) = (Vec::new(), Vec::new());
        for size in self.iter().cloned() {
            match against(&size) {
                None => fit.push(size),
                Some(reason) => others.push((size, reason)),
            }
        }
        (Self(fit.into()), others)
    }

    /// All names, for error messages.
    pub(crate) fn names(&self) -> String {
        let names: Vec<String> = self.iter().map(|size| format!("\"{}\"", size.name)).collect();
        names.join(" or ")
    }
}

impl Default for PodSizes {
    fn default() -> Self {
        Self([PodSize::small()].into())
    }
}

impl FromStr for PodSizes {
    type Err = BadPodSizes;

    /// Reads sizes separated by commas; `small` is added if it isn't among them.
    fn from_str(text: &str) -> Result<Self, BadPodSizes> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let sizes = parts.map(str::parse).collect::<Result<Vec<PodSize>, _>>()?;
        let (mut table, others): (Vec<PodSize>, Vec<PodSize>) = sizes.into_iter().partition(|size| size.name == SMALL);
        if table.is_empty() {
            table.push(PodSize::small());
        }
        let small_is_fine = matches!(table.as_slice(), [small] if small.price == Factor::ONE);
        table.extend(others);
        let mut names: Vec<&str> = table.iter().map(|size| size.name.as_str()).collect();
        names.sort_unstable();
        let doubled = names.windows(2).any(|pair| matches!(pair, [one, other] if one == other));
        if small_is_fine && !doubled && table.len() <= SIZES_MAX { Ok(Self(table.into())) } else { Err(BadPodSizes) }
    }
}

impl FromStr for PodSize {
    type Err = BadPodSizes;

    /// Reads `NAME cpus=N memory=SIZE disk=SIZE price=FACTOR`, the fields in any order.
    fn from_str(text: &str) -> Result<Self, BadPodSizes> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().filter(|name| is_name(name)).ok_or(BadPodSizes)?;
        let fields = words.map(|word| word.split_once('=')).collect::<Option<Vec<_>>>().ok_or(BadPodSizes)?;
        let field = |wanted: &str| match fields.iter().filter(|(field, _)| *field == wanted).collect::<Vec<_>>().as_slice() {
            [(_, value)] => Ok(*value),
            _ => Err(BadPodSizes),
        };
        let (cpus, memory, disk, price) = (field("cpus")?, field("memory")?, field("disk")?, field("price")?);
        if fields.len() != 4 {
            return Err(BadPodSizes);
        }
        let vcpus = cpus.parse().ok().filter(|vcpus| (1..=VCPUS_MAX).contains(vcpus)).ok_or(BadPodSizes)?;
        let memory_bytes = bytes(memory).filter(|bytes| *bytes >= MEMORY_MIN).ok_or(BadPodSizes)?;
        let disk_bytes = bytes(disk).filter(|bytes| DISK.contains(bytes)).ok_or(BadPodSizes)?;
        let price = price.parse().map_err(|_| BadPodSizes)?;
        Ok(Self { name: name.to_owned(), machine: Machine { vcpus, memory_bytes, disk_bytes }, price })
    }
}

impl fmt::Display for PodSize {
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
            let machines: PodSizes = text.parse().unwrap();
            assert_eq!(machines.iter().map(PodSize::to_string).collect::<Vec<_>>(), expected, "{text}");
            assert_eq!(machines.small(), machines.get("small").unwrap());
        }
        assert_eq!(PodSizes::default(), "".parse().unwrap());
        assert_eq!(
            format!("{medium},large{}", medium.trim_start_matches("medium")).parse::<PodSizes>().unwrap().names(),
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
            assert_eq!(text.parse::<PodSizes>(), Err(BadPodSizes), "{text}");
        }
    }
}
