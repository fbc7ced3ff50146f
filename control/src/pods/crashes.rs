//! Which pod takes its machine down, or the daemon that all run under. Pure.
//!
//! A daemon that crashes takes innocents along, and a pod may crash it on purpose. What is known of each loss is kept as marks, in the
//! store: a restart of this process forgives nothing.
//!
//! | the pod's machine was lost | mark |
//! |---|---|
//! | while the daemon lived | strike: nobody else did it |
//! | in a crash that it was the only one not to survive, or for the fourth time as the only one there was | strike |
//! | in a crash while it alone was tried out, and no other that was lost has marks | strike |
//! | in a crash, after at least two marks, with more of them than any other that was lost | strike: who crashes it is always among them |
//! | never: it was only being started when the daemon crashed, for the fourth time | strike |
//! | in any other crash, and in one that came while another pod was being started | suspicion |
//!
//! A strike with any other mark ends automatic new starts: the time left is kept for another upload, which is one start again. With
//! [`MARKS_MAX`] there is none until all is forgotten, a day after the last mark. Suspicions alone end nothing: an innocent may be lost
//! with others as often as they like. Pods that were lost in a crash are tried out one after the other, each for longer the more marks it
//! has: who crashes the daemon then does it alone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Marks with which a strike ends automatic new starts.
const MARKS_THEN_STOPPED: u32 = 2;
/// Marks that a pod without neighbours may have from crashes of the daemon.
const LONELY_MARKS: u32 = 3;
/// Marks with which a pod isn't started any more, whoever asks.
pub(super) const MARKS_MAX: u32 = 8;
/// How long after the last one marks are forgotten.
pub(super) const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_hours(24);
/// How long a suspect is tried out alone after its first mark, in waits before a new try.
const TRIED_FOR: u32 = 10;
/// The longest such time.
const TRIED_FOR_MAX: u32 = 150;
/// The longest wait after crashes.
const CALM_MAX: u32 = 30;

/// What is known of a pod's losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Losses that are its own doing.
    pub strikes: u32,
    /// Losses that may be another's.
    pub suspicions: u32,
    /// When the last mark was made.
    pub last: Timestamp,
    /// The run of the pod that was last seen to take its machine down: it is marked for that once, however often it is found.
    pub crashed: Option<u64>,
}

impl Marks {
    /// None yet.
    pub(super) fn none(now: Timestamp) -> Self {
        Self { strikes: 0, suspicions: 0, last: now, crashed: None }
    }

    pub(super) fn count(self) -> u32 {
        self.strikes.saturating_add(self.suspicions)
    }

    /// Whether they count no more.
    pub(super) fn are_forgotten(self, now: Timestamp) -> bool {
        self.last.duration_until(now) >= FORGOTTEN_AFTER
    }

    /// Whether the pod isn't started anew by itself.
    pub(super) fn end_new_starts(self) -> bool {
        self.strikes > 0 && self.count() >= MARKS_THEN_STOPPED
    }

    /// Whether it isn't started at all.
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

    /// With a strike for the crash of this run, unless it has that already.
    pub(super) fn with_crash(self, incarnation: u64, now: Timestamp) -> Self {
        let crashed = Some(incarnation);
        if self.crashed == crashed { self } else { Self { crashed, ..self.with(Mark::Strike, now) } }
    }
}

/// What one loss tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Strike,
    Suspicion,
}

/// A pod that was lost in a crash of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostOne {
    /// Marks from before.
    pub(super) marks: u32,
    /// It was being tried out alone.
    pub(super) on_trial: bool,
}

/// The mark for each of those that were lost in one crash; `survived`: whether any other machine did.
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

/// How long a pod with that many marks is tried out alone, if a new try waits for `unit`.
pub(super) fn trial(marks: u32, unit: Duration) -> Duration {
    let times = TRIED_FOR.saturating_mul(1_u32.checked_shl(marks.saturating_sub(1)).unwrap_or(u32::MAX));
    unit * times.min(TRIED_FOR_MAX)
}

/// How long after the last of so many recent ends of the daemon nothing is loaded on it by itself.
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
            // The only one that didn't survive; nobody can say so if there is no other.
            (vec![lost(0, false)], true, vec![Strike]),
            (vec![lost(0, false)], false, vec![Suspicion]),
            (vec![lost(2, false)], false, vec![Suspicion]),
            (vec![lost(3, false)], false, vec![Strike]),
            // All went: a machine that lost its power, or one of them.
            (vec![lost(0, false), lost(0, false)], false, vec![Suspicion, Suspicion]),
            // Tried out alone.
            (vec![lost(1, true)], false, vec![Strike]),
            (vec![lost(0, true)], false, vec![Suspicion]),
            (vec![lost(1, true), lost(0, false)], true, vec![Strike, Suspicion]),
            (vec![lost(1, true), lost(1, false)], true, vec![Suspicion, Suspicion]),
            // Always among them.
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
            let marks = Marks { strikes, suspicions, ..Marks::none(at(0)) };
            assert_eq!((marks.end_new_starts(), marks.are_too_many()), (stopped, refused), "{strikes} {suspicions}");
        }
        let marks = Marks::none(at(0)).with(Mark::Strike, at(1)).with(Mark::Suspicion, at(2));
        assert_eq!(marks, Marks { strikes: 1, suspicions: 1, last: at(2), crashed: None });
        let crashed = Marks::none(at(0)).with_crash(7, at(1)).with(Mark::Suspicion, at(2));
        assert_eq!(crashed.with_crash(7, at(3)), crashed, "it is found again");
        assert_eq!(crashed.with_crash(8, at(3)), Marks { strikes: 2, suspicions: 1, last: at(3), crashed: Some(8) });
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
            let mut marks = [Marks::none(now); 5];
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
