//! Images that end the guest when a container is created from them, remembered for a while: hyperd reports it only after it has booted a
//! machine, and provides no way to inspect an image before.
//!
//! An image is remembered by its digest, for all uploaders. One that has run here is never blamed, because a pod's description may be the
//! cause: then only the pod is remembered.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::names;
use crate::{ContainerSpec, PodSpec, RuntimeError};

/// How long no machine is booted for an image or pod that has ended a guest.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Maximum number of images and pods remembered; beyond that the oldest are forgotten.
const REMEMBERED_MAX: usize = 1000;
/// Maximum number of images remembered as having run.
const RAN_MAX: usize = 10_000;
/// The error message for such an image.
const REASON: &str = "the virtual machine of its pod ends when a container is made of it, before any program of it is run; known to do that is an \
                      image with an /etc/passwd and no /etc/group: add the file that is missing";

#[derive(Debug, Default)]
pub(super) struct Killers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    ran: HashSet<String>,
    /// Digests, and names of pods.
    refused: HashMap<String, Instant>,
}

impl Killers {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an error if this image recently ended a guest.
    pub(super) fn check_image(&self, image: &str) -> Result<(), RuntimeError> {
        if self.known().has(digest(image), Instant::now()) { Err(refused(image)) } else { Ok(()) }
    }

    /// The same for a pod and all its images.
    pub(super) fn check(&self, spec: &PodSpec) -> Result<(), RuntimeError> {
        spec.containers.iter().try_for_each(|container| self.check_image(&container.image))?;
        let is_known = self.known().has(spec.id.as_str(), Instant::now());
        if is_known { Err(refused(&images(spec.containers.iter()))) } else { Ok(()) }
    }

    /// Records that the pod runs.
    pub(super) fn ran(&self, spec: &PodSpec) {
        let mut known = self.known();
        for container in &spec.containers {
            if known.ran.len() < RAN_MAX {
                known.ran.insert(digest(&container.image).to_owned());
            }
        }
    }

    /// Records that the guest ended when the pod's containers were created; `text` is hyperd's message, and may name one of them.
    pub(super) fn killed(&self, spec: &PodSpec, text: &str) -> RuntimeError {
        let is_named = |container: &&ContainerSpec| text.contains(&names::of_pod(&spec.id, &container.name));
        let named: Vec<&ContainerSpec> = spec.containers.iter().filter(is_named).collect();
        let blamed: Vec<&ContainerSpec> = if named.is_empty() { spec.containers.iter().collect() } else { named };
        let now = Instant::now();
        let mut known = self.known();
        known.refuse(spec.id.as_str(), now);
        // If there are several, the culprit isn't known.
        let mut digests: Vec<&str> = blamed.iter().map(|container| digest(&container.image)).collect();
        digests.dedup();
        if let [digest] = digests[..]
            && !known.ran.contains(digest)
        {
            known.refuse(digest, now);
        }
        refused(&images(blamed.into_iter()))
    }
}

impl Known {
    fn has(&mut self, name: &str, now: Instant) -> bool {
        self.refused.retain(|_, since| now.duration_since(*since) < REMEMBERED);
        self.refused.contains_key(name)
    }

    fn refuse(&mut self, name: &str, now: Instant) {
        if self.refused.len() >= REMEMBERED_MAX {
            let oldest = self.refused.iter().min_by_key(|(_, since)| **since).map(|(name, _)| name.clone());
            oldest.map(|name| self.refused.remove(&name));
        }
        self.refused.insert(name.to_owned(), now);
    }
}

fn refused(image: &str) -> RuntimeError {
    RuntimeError::ImageRefused { image: image.to_owned(), reason: REASON.to_owned() }
}

/// The image's digest, regardless of its name.
fn digest(image: &str) -> &str {
    image.rsplit_once('@').map_or(image, |(_, digest)| digest)
}

fn images<'a>(containers: impl Iterator<Item = &'a ContainerSpec>) -> String {
    let mut images: Vec<&str> = containers.map(|container| container.image.as_str()).collect();
    images.dedup();
    images.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Machine, PodId};

    fn spec(letter: &str, images: &[&str]) -> PodSpec {
        let container = |(number, image): (usize, &&str)| ContainerSpec {
            name: format!("c{number}"),
            image: (*image).to_owned(),
            command: None,
            workdir: None,
            env: Vec::new(),
        };
        let id: PodId = letter.repeat(PodId::LENGTH).parse().unwrap();
        let machine = Machine { vcpus: 1, memory_bytes: 64 << 20, disk_bytes: 0 };
        PodSpec { id, machine, containers: images.iter().enumerate().map(container).collect() }
    }

    #[test]
    fn the_same_image_is_refused_and_no_other() {
        let text =
            |spec: &PodSpec| format!("finished with errors: map[{}__00: Create new container failed]", names::of_pod(&spec.id, "c1"));
        /// Images that ran before, those of the pod that ended its guest, whether hyperd names c1; what is refused after that.
        type Row = (&'static [&'static str], &'static [&'static str], bool, &'static [&'static str]);
        let table: [Row; 6] = [
            (&[], &["x/bad@1"], false, &["a: x/bad@1", "b: other/name@1"]),
            (&["x/bad@1"], &["x/bad@1"], false, &["a: x/bad@1"]),
            (&[], &["x/fine@2", "x/bad@1"], false, &["a: x/fine@2 x/bad@1"]),
            (&[], &["x/fine@2", "x/bad@1"], true, &["a: x/fine@2 x/bad@1", "b: other/name@1"]),
            (&[], &["x/bad@1", "x/bad@1"], false, &["a: x/bad@1 x/bad@1", "b: other/name@1"]),
            (&["x/fine@2"], &["x/bad@1"], false, &["a: x/bad@1", "b: other/name@1"]),
        ];
        for (ran, images, names_it, expected) in table {
            let killers = Killers::default();
            killers.ran(&spec("z", ran));
            let culprit = spec("a", images);
            let said = if names_it { text(&culprit) } else { String::new() };
            assert!(matches!(killers.killed(&culprit, &said), RuntimeError::ImageRefused { .. }));
            let pods = [("a", culprit), ("b", spec("b", &["other/name@1"])), ("c", spec("c", &["x/fine@2"]))];
            let refused = pods.iter().filter(|(_, pod)| killers.check(pod).is_err());
            let refused: Vec<String> = refused
                .map(|(name, pod)| {
                    let images: Vec<&str> = pod.containers.iter().map(|container| container.image.as_str()).collect();
                    format!("{name}: {}", images.join(" "))
                })
                .collect();
            assert_eq!(refused, expected, "{ran:?} {images:?} {names_it}");
        }
    }

    #[test]
    fn it_is_forgotten_in_time_and_the_memory_is_bounded() {
        let mut known = Known::default();
        let begin = Instant::now();
        known.refuse("first", begin);
        assert!(known.has("first", begin + REMEMBERED - Duration::from_secs(1)) && !known.has("first", begin + REMEMBERED));
        for number in 0..=REMEMBERED_MAX {
            known.refuse(&number.to_string(), begin + Duration::from_millis(number as u64));
        }
        assert_eq!((known.refused.len(), known.refused.contains_key("0"), known.refused.contains_key("1")), (REMEMBERED_MAX, false, true));
    }
}
