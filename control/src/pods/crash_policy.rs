//! Decides which pod crashes its machine, or the daemon that all pods run under. Pure.
//!
//! A crashing daemon takes down innocent pods, and a pod may crash it on purpose. Every loss is recorded as a mark in the
//! database: restarting this process clears nothing.
//!
//! | the pod's machine was lost | mark |
//! |---|---|
//! | while the daemon kept running | strike: no other pod can have caused it |
//! | in a daemon crash, as the only machine that did not survive, or for the fourth time as the only machine there was | strike |
//! | in a daemon crash during its trial, when no other lost pod has marks | strike |
//! | in a daemon crash, with at least two marks and more than any other lost pod | strike: the culprit is lost in every crash |
//! | never: the daemon crashed for the fourth time while the pod was starting | strike |
//! | in any other daemon crash, including one while another pod was starting | suspicion |
//!
//! A strike plus any other mark ends automatic restarts: the pod's remaining time is kept for another upload, which is a single new
//! start. At [`MARKS_MAX`] the pod is not started at all until its marks expire, a day after the last one. Suspicions alone never end
//! restarts: an innocent pod may be lost together with others any number of times. Pods lost in a daemon crash are restarted one at a
//! time, each on trial alone, and longer the more marks it has: a culprit then crashes the daemon with no other suspect.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Number of marks, at least one of them a strike, that ends automatic restarts.
const MARKS_THEN_STOPPED: u32 = 2;
/// Number of marks that a pod without neighbours may collect from daemon crashes before the next one is a strike.
const LONELY_MARKS: u32 = 3;
/// Number of marks, at least one of them a strike, at which a pod is not started any more, even for a paid upload.
pub(super) const MARKS_MAX: u32 = 8;
/// Time after the last mark at which all marks expire.
pub(super) const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// Length of the trial after the first mark, in units of the retry delay.
const TRIED_FOR: u32 = 10;
/// Longest trial, in the same unit.
const TRIED_FOR_MAX: u32 = 150;
/// Longest pause after daemon crashes, in the same unit.
const CALM_MAX: u32 = 30;

/// The crash history of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashHistory {
    /// Losses the pod caused itself.
    pub strikes: u32,
    /// Losses another pod may have caused.
    pub suspicions: u32,
    /// When the last mark was made.
    pub last: Timestamp,
    /// The incarnation that last crashed its machine: it is marked once, however often the watcher finds it crashed.
    pub crashed: Option<u64>,
}

impl CrashHistory {
    /// No marks.
    pub(super) fn none(now: Timestamp) -> Self {
        Self { strikes: 0, suspicions: 0, last: now, crashed: None }
    }

    pub(super) fn count(self) -> u32 {
        self.strikes.saturating_add(self.suspicions)
    }

    /// Whether the marks have expired.
    pub(super) fn are_forgotten(self, now: Timestamp) -> bool {
        self.last.duration_until(now) >= FORGOTTEN_AFTER
    }

    /// Whether automatic restarts have ended.
    pub(super) fn end_new_starts(self) -> bool {
        self.strikes > 0 && self.count() >= MARKS_THEN_STOPPED
    }

    /// Whether the pod must not be started at all.
    pub(super) fn are_too_many(self) -> bool {
        self.strikes > 0 && self.count() >= MARKS_MAX
    }

    pub(super) fn with(self, mark: Mark, now: Timestamp) -> Self {
        let (strikes, suspicions) = match mark {
            Mark::Strike => (1, 0),
            Mark::Suspicion => (0, 1),
        };
        Self { strikes: self.strikes.saturating_add(strikes), suspicions: self.suspicions.saturating_add(suspicions), last: now, ..self }
    }

    /// Adds a strike for the crash of this incarnation, unless it has been added already.
    pub(super) fn with_crash(self, incarnation: u64, now: Timestamp) -> Self {
        let crashed = Some(incarnation);
        if self.crashed == crashed { self } else { Self { crashed, ..self.with(Mark::Strike, now) } }
    }
}

/// What one loss counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Strike,
    Suspicion,
}

/// A pod lost in a daemon crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostOne {
    /// Number of marks before this crash.
    pub(super) marks: u32,
    /// Whether it was on trial.
    pub(super) on_trial: bool,
}

/// The mark for each pod lost in one daemon crash; `survived`: whether any other machine survived it.
pub(super) fn judge_crash(lost: &[LostOne], survived: bool) -> Vec<Mark> {
    let is_culprit = |at: usize, one: &LostOne| {
        let others = || lost.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other);
        let alone = lost.len() == 1 && (survived || one.marks >= LONELY_MARKS);
        let tried = one.on_trial && one.marks > 0 && others().all(|other| other.marks == 0);
        let always_there = lost.len() > 1 && one.marks >= 2 && others().all(|other| other.marks < one.marks);
        alone || tried || always_there
    };
    lost.iter().enumerate().map(|(at, one)| if is_culprit(at, one) { Mark::Strike } else { Mark::Suspicion }).collect()
}

/// The mark for a pod that was being started when the daemon crashed.
pub(super) fn judge_start(marks: u32) -> Mark {
    if marks >= LONELY_MARKS { Mark::Strike } else { Mark::Suspicion }
}

/// Length of the trial of a pod with that many marks; `unit` is the retry delay.
pub(super) fn trial(marks: u32, unit: Duration) -> Duration {
    let times = TRIED_FOR.saturating_mul(1_u32.checked_shl(marks.saturating_sub(1)).unwrap_or(u32::MAX));
    unit * times.min(TRIED_FOR_MAX)
}

/// Pause after the latest of `ends` recent daemon crashes, during which nothing is started on it automatically.
pub(super) fn calm(ends: usize, unit: Duration) -> Duration {
    let doublings = u32::try_from(ends).unwrap_or(u32::MAX).saturating_sub(1);
    if doublings == 0 { Duration::ZERO } else { unit * 1_u32.checked_shl(doublings).unwrap_or(u32::MAX).min(CALM_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crash_has_its_marks() {
        use Mark::{Strike, Suspicion};
        let lost = |marks, on_trial| LostOne { marks, on_trial };
        let table = [
            // The only one that didn't survive; with no other machine, that proves nothing.
            (vec![lost(0, false)], true, vec![Strike]),
            (vec![lost(0, false)], false, vec![Suspicion]),
            (vec![lost(2, false)], false, vec![Suspicion]),
            (vec![lost(3, false)], false, vec![Strike]),
            // All were lost: a power failure, or one of them is the culprit.
            (vec![lost(0, false), lost(0, false)], false, vec![Suspicion, Suspicion]),
            // On trial.
            (vec![lost(1, true)], false, vec![Strike]),
            (vec![lost(0, true)], false, vec![Suspicion]),
            (vec![lost(1, true), lost(0, false)], true, vec![Strike, Suspicion]),
            (vec![lost(1, true), lost(1, false)], true, vec![Suspicion, Suspicion]),
            // Lost in every crash.
            (vec![lost(2, false), lost(1, false), lost(0, false)], true, vec![Strike, Suspicion, Suspicion]),
            (vec![lost(1, false), lost(0, false)], true, vec![Suspicion, Suspicion]),
            (vec![lost(2, false), lost(2, true)], true, vec![Suspicion, Suspicion]),
            (vec![], true, vec![]),
        ];
        for (lost, survived, marks) in table {
            assert_eq!(judge_crash(&lost, survived), marks, "{lost:?} {survived}");
        }
    }

    #[test]
    fn marks_end_new_starts_and_are_forgotten() {
        let at = |hour: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hour);
        for (strikes, suspicions, stopped, refused) in [
            (0, 0, false, false),
            (1, 0, false, false),
            (2, 0, true, false),
            (1, 1, true, false),
            (0, 2, false, false),
            (0, 7, false, false),
            (0, 8, false, false),
            (1, 7, true, true),
            (4, 4, true, true),
        ] {
            let marks = CrashHistory { strikes, suspicions, ..CrashHistory::none(at(0)) };
            assert_eq!((marks.end_new_starts(), marks.are_too_many()), (stopped, refused), "{strikes} {suspicions}");
        }
        let marks = CrashHistory::none(at(0)).with(Mark::Strike, at(1)).with(Mark::Suspicion, at(2));
        assert_eq!(marks, CrashHistory { strikes: 1, suspicions: 1, last: at(2), crashed: None });
        let crashed = CrashHistory::none(at(0)).with_crash(7, at(1)).with(Mark::Suspicion, at(2));
        assert_eq!(crashed.with_crash(7, at(3)), crashed, "it is found again");
        assert_eq!(crashed.with_crash(8, at(3)), CrashHistory { strikes: 2, suspicions: 1, last: at(3), crashed: Some(8) });
        assert!(!marks.are_forgotten(at(25)) && marks.are_forgotten(at(26)));
    }

    #[test]
    fn waits_grow_and_are_bounded() {
        let unit = Duration::from_secs(2);
        for (marks, seconds) in [(0, 20), (1, 20), (2, 40), (3, 80), (4, 160), (5, 300), (100, 300)] {
            assert_eq!(trial(marks, unit).as_secs(), seconds, "{marks}");
        }
        for (ends, seconds) in [(0, 0), (1, 0), (2, 4), (3, 8), (4, 16), (5, 32), (6, 60), (100, 60)] {
            assert_eq!(calm(ends, unit).as_secs(), seconds, "{ends}");
        }
    }

    /// One pod crashes the daemon whenever it is started, as soon as it likes; others are lost with it by chance.
    #[test]
    fn the_culprit_is_found_and_no_innocent_is_stopped() {
        let mut random = 1_u64;
        let mut chance = move |of: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33).is_multiple_of(of)
        };
        let now = Timestamp::UNIX_EPOCH;
        for case in 0..2000 {
            let patient = case % 2 == 0;
            let mut marks = [CrashHistory::none(now); 5];
            let mut starts = 1;
            while !marks[0].end_new_starts() {
                // The first is the culprit. A patient one waits until its trial is over.
                let lost: Vec<usize> = (0..marks.len()).filter(|pod| *pod == 0 || chance(2)).collect();
                let facts = |pod: &usize| LostOne { marks: marks[*pod].count(), on_trial: *pod == 0 && starts > 1 && !patient };
                let facts: Vec<LostOne> = lost.iter().map(facts).collect();
                for (pod, mark) in lost.iter().zip(judge_crash(&facts, lost.len() < marks.len())) {
                    marks[*pod] = marks[*pod].with(mark, now);
                }
                starts += 1;
                assert!(marks[1..].iter().all(|innocent| !innocent.end_new_starts()), "case {case}: {marks:?}");
            }
            assert!(starts < 40, "case {case}: each further crash halves the chance that somebody else was always lost, too");
        }
    }
}
