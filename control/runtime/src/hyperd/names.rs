//! Names of containers: `<pod>__<container>__<attempt>`.
//!
//! hyperd's container names are global, and a create that fails can leave one taken for good, where nothing lists or removes
//! it. So each attempt has names of its own. The attempt also says under which run of the daemon the pod was made: all that
//! must be known of a pod is in hyperd itself, and no second record can disagree with it.

use super::generation::Generation;
use crate::PodId;

const SEPARATOR: &str = "__";

/// One try to create a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attempt(u64);

impl Attempt {
    /// A new one, under the daemon that runs now.
    pub(super) fn new(generation: Generation) -> Self {
        Self(u64::from(generation.0) << 32 | u64::from(rand::random::<u32>()))
    }

    /// The run of the daemon it was made under.
    pub(super) fn generation(self) -> Generation {
        let bytes = self.0.to_be_bytes();
        Generation(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Differs between any two starts.
    pub(super) fn incarnation(self) -> u64 {
        self.0
    }

    /// A container's name at hyperd.
    pub(super) fn name_of(self, pod: &PodId, container: &str) -> String {
        format!("{}{SEPARATOR}{:016x}", of_pod(pod, container), self.0)
    }
}

/// What the names of a container have in common in all attempts.
pub(super) fn of_pod(pod: &PodId, container: &str) -> String {
    format!("{pod}{SEPARATOR}{container}")
}

/// Pod, container and attempt of a name, with or without the slash hyperd shows in some places.
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
