//! What can be said of an image before anything is paid: all that its manifest and config say. Registries are asked for nothing by whoever
//! asks us for nothing, so that it is bounded how long, how many at a time and how often; where a bound is reached the upload goes on,
//! and what is wrong with its image is found out when it is pulled.

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

/// How long an upload waits for what a registry says.
pub(super) const WITHIN: Duration = Duration::from_secs(2);
/// Registries asked at once.
const PLACES: usize = 8;
/// Images asked for one after the other. Registries ration what they tell (Docker Hub: 100 manifests in six hours): most of that is for
/// pods that are paid for.
const RATION: u32 = 40;
/// When there is one more.
const RATION_EVERY: Duration = Duration::from_secs(600);
/// How long it is believed that an image is what it is, that it can't be run, and that its registry doesn't answer.
const GOOD_LIFE: Duration = Duration::from_secs(600);
const BAD_LIFE: Duration = Duration::from_secs(60);
const SILENCE_LIFE: Duration = Duration::from_secs(30);
/// Images remembered at once, and how much each may take, in bytes.
const REMEMBERED_MAX: usize = 256;
const REMEMBERED_BYTES_MAX: usize = 64 * 1024;

/// What asking for an image has come to.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Described(Described),
    /// The registry doesn't have it.
    Missing(String),
    Refused(String),
    /// The registry didn't say.
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

    /// The same for whoever asked; nothing, if it isn't known.
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

/// Whether asking again wouldn't help: the registry has understood, and says no.
fn is_final(error: Option<&FetchError>) -> bool {
    const PASSING: [StatusCode; 3] = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    matches!(error, Some(FetchError::Status(status)) if status.is_client_error() && !PASSING.contains(status))
}

/// What was asked for, and how much more may be.
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

    /// What was found out about an image not long ago.
    pub(super) fn known(&self, image: &ImageRef) -> Option<Outcome> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(image.as_str()).filter(|(_, until)| *until > Instant::now()).map(|(outcome, _)| outcome.clone())
    }

    /// A place to ask a registry from, if there is one; `rationed` unless the registry is the operator's.
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
