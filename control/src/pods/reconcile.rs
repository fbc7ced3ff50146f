//! Decides at start what to do about the pods in the database and those in the runtime. Pure.

use std::collections::HashMap;

use codiusd_runtime::{PodId, PodState, PodStatus, RunningPod};
use jiff::Timestamp;

use super::state::{Pod, PodRecord, Term};

/// The action for one stored pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// It was starting and runs: its payment is consumed, and its time counts from its start.
    Complete { run: RunningPod, segment: String, seconds: u32 },
    /// It was starting and doesn't run: its payment is given back.
    GiveBack { segment: String, kept_seconds: u32 },
    /// It runs and has time left.
    Adopt { run: RunningPod, term: Term },
    /// It should run but doesn't (the machine or the runtime was restarted): it is restarted.
    Restart { term: Term },
    /// Its machine crashed while this process was down: it is marked, and restarted unless its crash history ends restarts.
    Crashed { term: Term, incarnation: u64 },
    /// Its containers exited while this process was down.
    Exited { expires_at: Timestamp },
    /// It had exited before; its remaining time is kept.
    Keep { seconds: u32, forget_at: Timestamp },
    /// It has expired.
    Forget,
}

/// One action for each stored pod.
pub(super) fn reconcile(stored: &[PodRecord], found: &[PodStatus], now: Timestamp) -> Vec<(PodId, Repair)> {
    let states: HashMap<&PodId, &PodState> = found.iter().map(|status| (&status.id, &status.state)).collect();
    stored
        .iter()
        .map(|record| {
            let id = &record.order.spec.id;
            (id.clone(), repair(&record.pod, states.get(id).copied(), now))
        })
        .collect()
}

fn repair(pod: &Pod, found: Option<&PodState>, now: Timestamp) -> Repair {
    match (pod.clone(), found) {
        (Pod::Starting { segment, seconds, .. }, Some(PodState::Running(run))) => Repair::Complete { run: *run, segment, seconds },
        (Pod::Starting { segment, kept_seconds, .. }, _) => Repair::GiveBack { segment, kept_seconds },
        (Pod::Running { term }, _) if term.expires_at <= now => Repair::Forget,
        (Pod::Running { term }, Some(PodState::Running(run))) => Repair::Adopt { run: *run, term },
        (Pod::Running { term }, Some(&PodState::Crashed { incarnation })) => Repair::Crashed { term, incarnation },
        (Pod::Running { term }, Some(PodState::Exited)) => Repair::Exited { expires_at: term.expires_at },
        (Pod::Running { term }, Some(PodState::Lost | PodState::Misplaced | PodState::Unstarted) | None) => Repair::Restart { term },
        (Pod::Exited { forget_at, .. }, _) if forget_at <= now => Repair::Forget,
        (Pod::Exited { seconds, forget_at }, _) => Repair::Keep { seconds, forget_at },
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        time::UNIX_EPOCH,
    };

    use super::*;

    const RUN: RunningPod = RunningPod { address: IpAddr::V4(Ipv4Addr::LOCALHOST), incarnation: 7, started_at: UNIX_EPOCH };

    #[test]
    fn every_pair_of_stored_and_found_has_one_repair() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (now, later) = (at(100), at(200));
        let until = |expires_at| Term { expires_at, bought_seconds: 60 };
        let starting = || Pod::Starting { segment: "s".to_owned(), seconds: 60, kept_seconds: 5 };
        let (running, crashed) = (PodState::Running(RUN), PodState::Crashed { incarnation: 7 });
        let table = [
            (starting(), Some(running), Repair::Complete { run: RUN, segment: "s".to_owned(), seconds: 60 }),
            (starting(), Some(PodState::Exited), Repair::GiveBack { segment: "s".to_owned(), kept_seconds: 5 }),
            (starting(), None, Repair::GiveBack { segment: "s".to_owned(), kept_seconds: 5 }),
            (Pod::Running { term: until(later) }, Some(running), Repair::Adopt { run: RUN, term: until(later) }),
            (Pod::Running { term: until(later) }, Some(PodState::Exited), Repair::Exited { expires_at: later }),
            (Pod::Running { term: until(later) }, Some(crashed), Repair::Crashed { term: until(later), incarnation: 7 }),
            (starting(), Some(crashed), Repair::GiveBack { segment: "s".to_owned(), kept_seconds: 5 }),
            (Pod::Running { term: until(later) }, None, Repair::Restart { term: until(later) }),
            (Pod::Running { term: until(later) }, Some(PodState::Lost), Repair::Restart { term: until(later) }),
            (Pod::Running { term: until(later) }, Some(PodState::Unstarted), Repair::Restart { term: until(later) }),
            (starting(), Some(PodState::Unstarted), Repair::GiveBack { segment: "s".to_owned(), kept_seconds: 5 }),
            (Pod::Running { term: until(later) }, Some(PodState::Misplaced), Repair::Restart { term: until(later) }),
            (starting(), Some(PodState::Misplaced), Repair::GiveBack { segment: "s".to_owned(), kept_seconds: 5 }),
            (starting(), Some(PodState::Lost), Repair::GiveBack { segment: "s".to_owned(), kept_seconds: 5 }),
            (Pod::Running { term: until(now) }, Some(running), Repair::Forget),
            (Pod::Running { term: until(now) }, None, Repair::Forget),
            (Pod::Exited { seconds: 9, forget_at: later }, None, Repair::Keep { seconds: 9, forget_at: later }),
            (Pod::Exited { seconds: 9, forget_at: now }, Some(PodState::Exited), Repair::Forget),
        ];
        for (pod, found, expected) in table {
            assert_eq!(repair(&pod, found.as_ref(), now), expected, "{pod:?} {found:?}");
        }
    }
}
