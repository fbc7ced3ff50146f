//! Names of containers: `<pod>__<container>__<attempt>`.
//!
//! hyperd's container names are global, and a failed create can leave one taken permanently, where nothing lists or removes it. So each
//! attempt has names of its own. The attempt also encodes the run of the daemon under which the pod was created: everything that must be
//! known of a pod is in hyperd itself, and no second record can disagree with it.

use super::generation::Generation;
use crate::PodId;

const SEPARATOR: &str = "__";

/// One attempt to create a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt(u64);

impl Attempt {
    /// A new attempt, under the current run of the daemon.
    pub(super) fn new(generation: Generation) -> Self {
        Self(u64::from(generation.0) << 32 | u64::from(rand::random::<u32>()))
    }

    /// The run of the daemon under which it was made.
    pub(super) fn generation(self) -> Generation {
        let bytes = self.0.to_be_bytes();
        Generation(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Differs between any two starts.
    pub(super) fn incarnation(self) -> u64 {
        self.0
    }

    /// A container's name in hyperd.
    pub(super) fn name_of(self, pod: &PodId, container: &str) -> String {
        format!("{}{SEPARATOR}{:016x}", of_pod(pod, container), self.0)
    }
}

/// The common prefix of a container's names in all attempts.
pub(super) fn of_pod(pod: &PodId, container: &str) -> String {
    format!("{pod}{SEPARATOR}{container}")
}

/// Parses a name into pod, container and attempt, with or without the slash hyperd adds in some places.
pub(super) fn parse(name: &str) -> Option<(PodId, &str, Attempt)> {
    let name = name.strip_prefix('/').unwrap_or(name);
    let (rest, attempt) = name.rsplit_once(SEPARATOR)?;
    let (pod, container) = rest.split_once(SEPARATOR)?;
    let attempt = (attempt.len() == 16).then(|| u64::from_str_radix(attempt, 16).ok()).flatten()?;
    Some((pod.parse().ok()?, container, Attempt(attempt)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_again() {
        let pod: PodId = "a".repeat(52).parse().unwrap();
        let attempt = Attempt::new(Generation(0xfedc_ba98));
        for container in ["app", "a__b", "x_", "_", "a.b-c"] {
            let name = attempt.name_of(&pod, container);
            assert_eq!(parse(&name), Some((pod.clone(), container, attempt)), "{name}");
            assert_eq!(parse(&format!("/{name}")), Some((pod.clone(), container, attempt)));
        }
        assert_eq!(attempt.generation(), Generation(0xfedc_ba98));
        for other in ["", "app", &format!("{pod}__app"), &format!("{pod}__app__123"), &format!("{pod}_moneyd"), "a__b__0123456789abcdef"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
