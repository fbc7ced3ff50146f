use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::{super::uri::Reach, *};

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 3600;

fn limits() -> Limits {
    Limits {
        known_max: 5,
        candidates_max: 8,
        at_one_address_max: 3,
        looks_at_once: 4,
        of_submitter_max: 2,
        of_submitters_max: 5,
        of_peer_max: 4,
        of_peers_max: 10,
        look_every: Duration::from_secs(24 * 3600),
        retry_after: Duration::from_secs(60),
        failures_max: 4,
        refused_for: Duration::from_secs(600),
    }
}

fn uri(number: u8) -> PeerUri {
    PeerUri::parse(&format!("https://peer-{number}.example"), Reach::Public).unwrap()
}

fn peer(number: u8) -> Source {
    Source::Peer(uri(number))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

/// The host is number 0.
fn set() -> PeerSet {
    PeerSet::new(Some(uri(0)), Vec::new(), limits(), at(0))
}

fn step(set: &mut PeerSet, event: Event, second: i64) -> Vec<Effect> {
    set.step(event, at(second), &mut |_| 0)
}

fn looks(set: &mut PeerSet, second: i64) -> Vec<PeerUri> {
    let effects = step(set, Event::Tick, second);
    effects.into_iter().map(|effect| if let Effect::Look(peer) = effect { peer } else { panic!("{effect:?}") }).collect()
}

fn hear(set: &mut PeerSet, source: Source, numbers: impl IntoIterator<Item = u8>, second: i64) {
    let heard = Event::Heard(source, numbers.into_iter().map(uri).collect());
    assert_eq!(step(set, heard, second), []);
}

fn names(set: &PeerSet) -> BTreeSet<PeerUri> {
    set.sample(usize::MAX, &mut |_| 0).into_iter().collect()
}

#[test]
fn a_host_is_known_when_it_has_shown_who_it_is_and_dropped_when_it_has_not_several_times() {
    let mut set = set();
    hear(&mut set, peer(9), [1], 0);
    assert_eq!(set.count(), 0, "heard of is not known");
    assert_eq!((looks(&mut set, 0), looks(&mut set, 0)), (vec![uri(1)], vec![]), "one look at a time");
    assert_eq!(step(&mut set, Event::Looked(uri(1), Some(address(1))), 1), [Effect::Keep(uri(1))]);
    assert_eq!((set.count(), names(&set)), (1, [uri(1)].into()));

    assert_eq!(looks(&mut set, DAY), []);
    let mut now = 1 + DAY;
    for (failure, wait) in [(1, MINUTE), (2, 2 * MINUTE), (3, 4 * MINUTE)] {
        assert_eq!(looks(&mut set, now), [uri(1)]);
        assert_eq!(step(&mut set, Event::Looked(uri(1), None), now), []);
        assert_eq!((set.count(), set.to_ask(9, &mut |_| 0).len()), (1, 0), "known still, but not asked, after {failure}");
        assert_eq!(looks(&mut set, now + wait - 1), []);
        now += wait;
    }
    assert_eq!(looks(&mut set, now), [uri(1)]);
    assert_eq!(step(&mut set, Event::Looked(uri(1), None), now), [Effect::Forget(uri(1))]);
    assert_eq!(set.count(), 0);
    hear(&mut set, peer(9), [1], now + 599);
    assert_eq!(looks(&mut set, now + 599), [], "not again for a while, whoever names it");
    hear(&mut set, peer(9), [1], now + 600);
    assert_eq!(looks(&mut set, now + 600), [uri(1)]);
}

#[test]
fn one_success_ends_all_doubt() {
    let mut set = PeerSet::new(None, vec![uri(1)], limits(), at(0));
    for _ in 0..10 {
        assert_eq!(looks(&mut set, 0), [uri(1)]);
        for (second, look) in [(0, None), (60, None), (180, Some(address(1)))] {
            assert_eq!(step(&mut set, Event::Looked(uri(1), look), second), []);
            assert_eq!(looks(&mut set, second), []);
            looks(&mut set, second + 2 * MINUTE);
        }
        set = PeerSet::new(None, vec![uri(1)], limits(), at(0));
    }
    assert_eq!(looks(&mut set, 0), [uri(1)]);
    step(&mut set, Event::Looked(uri(1), Some(address(1))), 0);
    step(&mut set, Event::Silent(uri(1)), 5);
    assert_eq!(looks(&mut set, 5), [uri(1)], "a silent peer is looked at before its time");
}

#[test]
fn ourselves_and_liars_are_not_known() {
    let mut set = set();
    hear(&mut set, Source::Operator, [0], 0);
    hear(&mut set, peer(9), [0, 1], 0);
    assert_eq!(looks(&mut set, 0), [uri(1)], "never ourselves");
    assert_eq!(step(&mut set, Event::Looked(uri(1), None), 0), [], "it was never kept");
    hear(&mut set, Source::Submitter(address(9)), [1], 1);
    assert_eq!(looks(&mut set, 1), [], "a liar isn't looked at again at once");
}

#[test]
fn nobody_makes_us_look_at_much() {
    let mut set = PeerSet::new(None, Vec::new(), Limits { candidates_max: 100, looks_at_once: 100, ..limits() }, at(0));
    hear(&mut set, Source::Submitter(address(1)), 10..30, 0);
    assert_eq!(looks(&mut set, 0).len(), 2, "of one submitter");
    for submitter in 2..100 {
        hear(&mut set, Source::Submitter(address(submitter)), 30..50, 1);
    }
    assert_eq!(looks(&mut set, 1).len(), 3, "of all submitters, with the two before");
    hear(&mut set, peer(1), 100..150, 2);
    assert_eq!(looks(&mut set, 2).len(), 4, "peers have rations of their own");
    for other in 2..100 {
        hear(&mut set, peer(other), 100..150, 2);
    }
    assert_eq!(looks(&mut set, 2).len(), 6, "of all peers, with the four before");
    hear(&mut set, Source::Submitter(address(1)), 60..80, 59);
    assert_eq!(looks(&mut set, 59).len(), 0);
    hear(&mut set, Source::Submitter(address(1)), 60..80, 60);
    assert_eq!(looks(&mut set, 60).len(), 2, "a minute later");
    assert!(set.rations.of_submitter.len() <= 5 && set.rations.of_peer.len() <= 10);
}

#[test]
fn the_operators_hosts_are_not_given_up() {
    let mut set = set();
    hear(&mut set, Source::Operator, [1], 0);
    let mut now = 0;
    for _ in 0..40 {
        assert_eq!(looks(&mut set, now), [uri(1)], "at {now}");
        assert_eq!(step(&mut set, Event::Looked(uri(1), None), now), []);
        assert_eq!(looks(&mut set, now + MINUTE - 1), []);
        now += 3600;
    }
    assert_eq!(looks(&mut set, now), [uri(1)]);
    assert_eq!(step(&mut set, Event::Looked(uri(1), Some(address(1))), now), [Effect::Keep(uri(1))]);
}

#[test]
fn many_names_at_one_address_are_not_many_hosts() {
    let mut set = set();
    for number in 1..=4 {
        hear(&mut set, peer(9), [number], 0);
        looks(&mut set, 0);
        step(&mut set, Event::Looked(uri(number), Some(address(1))), 0);
    }
    assert_eq!(names(&set), [uri(1), uri(2), uri(3)].into());
}

#[test]
fn samples_are_of_different_hosts() {
    let set = PeerSet::new(None, (1..=5).map(uri).collect(), limits(), at(0));
    let mut turns = 0;
    let mut below = |limit: u64| {
        turns += 7;
        turns % limit
    };
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let sample = set.sample(2, &mut below);
        assert_eq!(sample.iter().collect::<HashSet<_>>().len(), 2);
        seen.extend(sample);
    }
    assert_eq!(seen.len(), 5, "each has its turn");
    assert_eq!(set.sample(9, &mut below).len(), 5);
}

/// Operations on a set.
fn events() -> impl Strategy<Value = Vec<(Event, i64)>> {
    let peer = || (0_u8..20).prop_map(uri);
    let some = || prop::collection::vec(peer(), 0..12);
    let event = prop_oneof![
        (0_u8..6, some()).prop_map(|(from, peers)| Event::Heard(Source::Peer(uri(from)), peers)),
        (0_u8..6, some()).prop_map(|(from, peers)| Event::Heard(Source::Submitter(address(from)), peers)),
        peer().prop_map(|peer| Event::Heard(Source::Operator, vec![peer])),
        (peer(), prop::option::of((0_u8..4).prop_map(address))).prop_map(|(peer, look)| Event::Looked(peer, look)),
        peer().prop_map(Event::Silent),
        Just(Event::Tick),
        Just(Event::Tick),
    ];
    prop::collection::vec((event, prop_oneof![Just(0), Just(1), 0..100_i64, 0..2 * DAY]), 1..200)
}

proptest! {
    #[test]
    fn whatever_happens_the_set_is_bounded_and_what_is_kept_is_what_is_known(events in events()) {
        let (mut set, limits, mut now) = (set(), limits(), 0);
        let (mut kept, mut operators): (BTreeSet<PeerUri>, BTreeSet<PeerUri>) = Default::default();
        let mut under_way = BTreeSet::new();
        for (event, wait) in events {
            now += wait;
            if let Event::Heard(Source::Operator, peers) = &event {
                operators.extend(peers.iter().filter(|peer| **peer != uri(0)).cloned());
            }
            if let Event::Looked(peer, _) = &event {
                // Only a verification in progress can end.
                if !under_way.remove(peer) {
                    continue;
                }
            }
            for effect in step(&mut set, event, now) {
                match effect {
                    Effect::Look(peer) => {
                        prop_assert_ne!(&peer, &uri(0));
                        prop_assert!(under_way.insert(peer), "one look at a time");
                    }
                    Effect::Keep(peer) => prop_assert!(kept.insert(peer)),
                    Effect::Forget(peer) => prop_assert!(kept.remove(&peer)),
                }
            }
            prop_assert_eq!(&names(&set), &kept);
            prop_assert!(set.count() <= limits.known_max && under_way.len() <= limits.looks_at_once);
            prop_assert!(set.peers.len() - set.count() <= limits.candidates_max + operators.len());
            prop_assert!(operators.iter().all(|peer| set.peers.contains_key(peer)));
            prop_assert!(set.rations.of_submitters <= limits.of_submitters_max && set.rations.of_peers <= limits.of_peers_max);
            prop_assert!(set.rations.of_submitter.len() <= 5 && set.rations.of_peer.len() <= 10 && set.refused.len() <= 20);
        }
    }
}
