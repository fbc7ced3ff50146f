//! Why a pod that was here is not: what visitors are told for a while. Pure: time is an argument.

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::pod_key::PodKey;

/// Pods that are remembered; the longest gone are forgotten first.
const REMEMBERED: usize = 4_096;
/// How long one is.
const REMEMBERED_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What has become of a pod, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithdrawReason {
    /// The time it was paid for was over then.
    Expired(Timestamp),
    /// It has ended by itself.
    Exited(Timestamp),
    /// It is being started anew, and will be back.
    Restarting(Timestamp),
}

impl WithdrawReason {
    fn at(self) -> Timestamp {
        match self {
            WithdrawReason::Expired(at) | WithdrawReason::Exited(at) | WithdrawReason::Restarting(at) => at,
        }
    }
}

/// The pods that were withdrawn last.
#[derive(Debug, Default)]
pub(crate) struct Departed {
    pods: HashMap<PodKey, (WithdrawReason, u64)>,
    /// In the order they have gone; one that came back, or has gone again since, is in it all the same.
    order: VecDeque<(PodKey, u64)>,
    number: u64,
}

impl Departed {
    pub(crate) fn add(&mut self, pod: PodKey, gone: WithdrawReason) {
        self.number += 1;
        self.pods.insert(pod, (gone, self.number));
        self.order.push_back((pod, self.number));
        while self.order.len() > REMEMBERED {
            let Some((oldest, number)) = self.order.pop_front() else { return };
            if self.pods.get(&oldest).is_some_and(|(_, last)| *last == number) {
                self.pods.remove(&oldest);
            }
        }
    }

    pub(crate) fn remove(&mut self, pod: &PodKey) {
        self.pods.remove(pod);
    }

    pub(crate) fn find(&self, pod: &PodKey, now: Timestamp) -> Option<WithdrawReason> {
        let (gone, _) = self.pods.get(pod)?;
        (now.duration_since(gone.at()) <= REMEMBERED_FOR).then_some(*gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> PodKey {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        PodKey::from_digest(digest)
    }

    #[test]
    fn the_last_ones_are_remembered_for_a_while() {
        let at = Timestamp::UNIX_EPOCH;
        let mut departed = Departed::default();
        for number in 0..REMEMBERED {
            departed.add(key(number), WithdrawReason::Expired(at));
        }
        departed.add(key(0), WithdrawReason::Exited(at));
        assert_eq!(departed.find(&key(0), at), Some(WithdrawReason::Exited(at)), "it has gone again");
        departed.add(key(REMEMBERED), WithdrawReason::Expired(at));
        assert_eq!(departed.find(&key(0), at), Some(WithdrawReason::Exited(at)), "what it was before made room");
        assert_eq!(departed.find(&key(1), at), None, "the longest gone made room");
        assert_eq!(departed.find(&key(2), at + REMEMBERED_FOR), Some(WithdrawReason::Expired(at)));
        assert_eq!(departed.find(&key(2), at + REMEMBERED_FOR + SignedDuration::from_secs(1)), None);
        departed.remove(&key(2));
        assert_eq!(departed.find(&key(2), at), None);
        for _ in 0..10 * REMEMBERED {
            departed.add(key(3), WithdrawReason::Restarting(at));
            departed.remove(&key(3));
        }
        assert_eq!((departed.pods.len(), departed.order.len()), (0, REMEMBERED));
    }
}
