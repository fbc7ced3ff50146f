//! What to do at start about the pods the store knows and those the runtime has. Pure.

use std::collections::HashMap;

use codiusd_runtime::{PodId, PodState, PodStatus, RunningPod};
use jiff::Timestamp;

use super::state::{Pod, PodRecord, Term};

/// What has to be done about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// It was being started and runs: its payment is used, its time began when it did.
    Complete { run: RunningPod, segment: String, seconds: u32 },
    /// It was being started and doesn't run: its payment is free again.
    GiveBack { segment: String, kept_seconds: u32 },
    /// It runs and has time left.
    Adopt { run: RunningPod, term: Term },
    /// It should run and is gone (the machine or the runtime was restarted): it is started again.
    Revive { term: Term },
    /// Its machine has ended while nobody looked: it is marked, and started again unless it was too often.
    Crashed { term: Term, incarnation: u64 },
    /// It has exited while nobody looked.
    Exited { expires_at: Timestamp },
    /// It had exited before; what it has left is kept.
    Keep { seconds: u32, forget_at: Timestamp },
    /// Its time is over.
    Forget,
}

/// The repairs, one for each stored pod.
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
        (Pod::Running { term }, Some(PodState::Lost | PodState::Misplaced | PodState::Unstarted) | None) => Repair::Revive { term },
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
            (Pod::Running { term: until(later) }, None, Repair::Revive { term: until(later) }),
            (Pod::Running { term: until(later) }, Some(PodState::Lost), Repair::Revive { term: until(later) }),
            (Pod::Running { term: until(later) }, Some(PodState::Unstarted), Repair::Revive { term: until(later) }),
            (starting(), Some(PodState::Unstarted), Repair::GiveBack { segment: "s".to_owned(), kept_seconds: 5 }),
            (Pod::Running { term: until(later) }, Some(PodState::Misplaced), Repair::Revive { term: until(later) }),
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
