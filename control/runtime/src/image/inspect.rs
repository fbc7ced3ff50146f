//! Checks of an image before anything is paid: everything its manifest and config contain. Unpaid uploads must not load registries without
//! limit, so these requests are bounded in duration, concurrency and rate; where a limit is reached the upload continues, and errors in its
//! image are found when it is pulled.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::sync::Semaphore;

use super::{
    ImageRef,
    describe::Described,
    registry::FetchError,
    source::{refused, unavailable_here},
};
use crate::RuntimeError;

/// How long an upload waits for a registry's answer.
pub(super) const WITHIN: Duration = Duration::from_secs(2);
/// Concurrent requests to registries.
const PLACES: usize = 8;
/// Burst of images that are requested. Registries limit requests (Docker Hub: 100 manifests in six hours): most of that is reserved for
/// pods that are paid for.
const RATION: u32 = 40;
/// Interval at which the rate limit allows one more.
const RATION_EVERY: Duration = Duration::from_secs(600);
/// How long answers are cached: that an image is valid, that it can't be run, and that its registry doesn't answer.
const GOOD_LIFE: Duration = Duration::from_secs(600);
const BAD_LIFE: Duration = Duration::from_secs(60);
const SILENCE_LIFE: Duration = Duration::from_secs(30);
/// Images cached at once, and the maximum size of each, in bytes.
const REMEMBERED_MAX: usize = 256;
const REMEMBERED_BYTES_MAX: usize = 64 * 1024;

/// The outcome of requesting an image.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Described(Described),
    /// The registry doesn't have it.
    Missing(String),
    Refused(String),
    /// The registry didn't answer.
    Silence,
}

impl Outcome {
    pub(super) fn of(described: Result<Described, RuntimeError>) -> Self {
        match described {
            Ok(described) => Self::Described(described),
            Err(RuntimeError::ImageRefused { reason, .. }) => Self::Refused(reason),
            Err(RuntimeError::ImageUnavailable { reason, source: Some(source), .. }) if is_final(source.downcast_ref()) => {
                Self::Missing(reason)
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "an image isn't known before it is paid for");
                Self::Silence
            }
        }
    }

    /// The outcome as the uploader's result; none if it isn't known.
    pub(super) fn told(self, image: &ImageRef) -> Result<Option<Described>, RuntimeError> {
        match self {
            Self::Described(described) => Ok(Some(described)),
            Self::Missing(reason) => Err(unavailable_here(image, &reason)),
            Self::Refused(reason) => Err(refused(image, &reason)),
            Self::Silence => Ok(None),
        }
    }

    fn life(&self) -> Duration {
        match self {
            Self::Described(_) => GOOD_LIFE,
            Self::Missing(_) | Self::Refused(_) => BAD_LIFE,
            Self::Silence => SILENCE_LIFE,
        }
    }

    fn is_small(&self) -> bool {
        let Self::Described(described) = self else { return true };
        serde_json::to_vec(&described.settings).is_ok_and(|bytes| bytes.len() <= REMEMBERED_BYTES_MAX)
    }
}

/// Whether a retry wouldn't help: the registry understood the request, and refused it.
fn is_final(error: Option<&FetchError>) -> bool {
    const PASSING: [StatusCode; 3] = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    matches!(error, Some(FetchError::Status(status)) if status.is_client_error() && !PASSING.contains(status))
}

/// Cached outcomes, and the remaining rate limit.
#[derive(Debug)]
pub(super) struct Inspections {
    places: Semaphore,
    known: Mutex<HashMap<String, (Outcome, Instant)>>,
    ration: Mutex<Ration>,
}

#[derive(Debug)]
struct Ration {
    left: u32,
    since: Instant,
}

impl Inspections {
    pub(super) fn new() -> Self {
        let ration = Ration { left: RATION, since: Instant::now() };
        Self { places: Semaphore::new(PLACES), known: Mutex::default(), ration: Mutex::new(ration) }
    }

    /// A recent outcome for an image.
    pub(super) fn known(&self, image: &ImageRef) -> Option<Outcome> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(image.as_str()).filter(|(_, until)| *until > Instant::now()).map(|(outcome, _)| outcome.clone())
    }

    /// A permit to query a registry, if one is free; `rationed` unless the registry is the operator's.
    pub(super) fn place(&self, rationed: bool) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let place = self.places.try_acquire().ok()?;
        let mut ration = self.ration.lock().unwrap_or_else(PoisonError::into_inner);
        (!rationed || ration.take(Instant::now())).then_some(place)
    }

    pub(super) fn remember(&self, image: &ImageRef, outcome: &Outcome) {
        if !outcome.is_small() {
            return;
        }
        let (mut known, now) = (self.known.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (_, until)| *until > now);
        }
        while known.len() >= REMEMBERED_MAX {
            let Some(first) = known.iter().min_by_key(|(_, (_, until))| *until).map(|(image, _)| image.clone()) else { break };
            known.remove(&first);
        }
        known.insert(image.as_str().to_owned(), (outcome.clone(), now + outcome.life()));
    }
}

impl Ration {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.since).as_secs() / RATION_EVERY.as_secs();
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(RATION);
            self.since = now;
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or_default();
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: usize) -> ImageRef {
        ImageRef::parse(&format!("registry.example/a{number}@sha256:{}", "0".repeat(64))).unwrap()
    }

    #[test]
    fn registries_are_asked_for_strangers_only_so_often() {
        let inspections = Inspections::new();
        let rationed = (0..RATION + 10).filter(|_| inspections.place(true).is_some()).count();
        assert_eq!(rationed, RATION as usize);
        assert!(inspections.place(false).is_some(), "the operator's own registries aren't counted");
        let mut ration = Ration { left: 0, since: Instant::now() };
        assert!(!ration.take(ration.since + RATION_EVERY / 2));
        assert!(ration.take(ration.since + RATION_EVERY));
        assert!(!ration.take(ration.since + RATION_EVERY / 2));
    }

    #[test]
    fn only_so_many_are_asked_at_once() {
        let inspections = Inspections::new();
        let places: Vec<_> = (0..PLACES + 3).map_while(|_| inspections.place(false)).collect();
        assert_eq!(places.len(), PLACES);
    }

    #[test]
    fn only_so_much_is_remembered() {
        let inspections = Inspections::new();
        (0..REMEMBERED_MAX + 50).for_each(|number| inspections.remember(&image(number), &Outcome::Silence));
        assert_eq!(inspections.known.lock().unwrap().len(), REMEMBERED_MAX);
        assert!(inspections.known(&image(REMEMBERED_MAX + 49)).is_some());
        assert!(inspections.known(&image(0)).is_none());
    }

    #[test]
    fn what_a_registry_may_say_differently_soon_is_not_final() {
        for (status, right) in [(404, true), (400, true), (403, true), (429, false), (408, false), (500, false), (503, false)] {
            assert_eq!(is_final(Some(&FetchError::Status(StatusCode::from_u16(status).unwrap()))), right, "{status}");
        }
        assert!(!is_final(Some(&FetchError::Understood)) && !is_final(None));
    }
}
