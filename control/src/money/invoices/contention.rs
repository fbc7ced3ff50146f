//! More payers than capacity, in any order: which of them get a pod, and what the others lose.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::capacity::Capacity;
use crate::money::invoices::tests::{asset, at};

const MAX: Machine = Machine { vcpus: 16, memory_bytes: 1024, disk_bytes: 0 };
const SIZES: [Machine; 4] = [
    Machine { vcpus: 1, memory_bytes: 64, disk_bytes: 0 },
    Machine { vcpus: 2, memory_bytes: 16, disk_bytes: 0 },
    Machine { vcpus: 1, memory_bytes: 400, disk_bytes: 0 },
    Machine { vcpus: 8, memory_bytes: 128, disk_bytes: 0 },
];
const PRICE: u64 = 600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payer {
    Pays,
    Paid,
    Runs,
    /// Turned away.
    Refused,
}

/// A host, and payers with a new token each: money paid by a payer who gets no pod is lost to that payer.
struct World {
    invoices: Invoices,
    capacity: Arc<CapacityLedger>,
    payers: Vec<(CapacityNeed, Payer)>,
    random: StdRng,
    now: i64,
}

fn segment(number: usize) -> String {
    format!("segment-{number}")
}

impl World {
    fn new(seed: u64) -> Self {
        let capacity = Capacity { vcpus: MAX.vcpus.into(), ..Capacity::of_memory(MAX.memory_bytes) };
        let capacity = Arc::new(CapacityLedger::new(capacity));
        let invoices = Invoices::restore_from(Vec::new(), Vec::new(), Limits::default(), capacity.clone()).unwrap();
        let mut world = Self { invoices, capacity, payers: Vec::new(), random: StdRng::seed_from_u64(seed), now: 0 };
        for number in 0..40_usize {
            let id = String::from_utf8(vec![b'a' + u8::try_from(number % 26).unwrap(); PodId::LENGTH - 1]).unwrap();
            let pod = format!("{id}{}", if number < 26 { 'a' } else { 'b' }).parse().unwrap();
            let machine = *SIZES.choose(&mut world.random).unwrap();
            world.payers.push((CapacityNeed { pod, machine, seconds: 60 }, Payer::Pays));
            world.ask(number);
        }
        world
    }

    fn ask(&mut self, number: usize) -> InvoiceStatus {
        let (token, need) = ([u8::try_from(number).unwrap(); 32], self.payers[number].0.clone());
        let claim = PaymentRequest {
            token: TokenHash(token),
            binding: Binding([0; 32]),
            price: PRICE,
            asset: asset(),
            segment: segment(number),
            need: Some(need),
        };
        self.invoices.present(claim, at(self.now)).unwrap()
    }

    fn fits(&self, number: usize) -> bool {
        let CapacityNeed { pod, machine, .. } = &self.payers[number].0;
        self.capacity.fits(pod, machine, at(self.now)).is_ok()
    }

    fn step(&mut self) {
        let number = self.random.random_range(0..self.payers.len());
        match self.payers[number].1 {
            Payer::Pays => self.pay(number),
            Payer::Paid => self.start(number),
            Payer::Runs | Payer::Refused => {}
        }
        let room = self.capacity.room(at(self.now));
        assert!(room.held.vcpus <= room.max.vcpus && room.held.memory_bytes <= room.max.memory_bytes, "{room:?}");
    }

    /// Pays all of the price, or a part: most payers pay in one packet.
    fn pay(&mut self, number: usize) {
        let left = match self.ask(number) {
            InvoiceStatus::Due { required, received, .. } => required - received,
            other => panic!("{number} pays, but is {other:?}"),
        };
        let amount = if self.random.random_bool(0.7) { left } else { self.random.random_range(left.div_ceil(2)..=left) };
        let credit = Credit {
            segment: segment(number),
            condition: self.random.random(),
            amount,
            slack: codiusd_ilp::stream::credit_sink::Slack::None,
        };
        let free = self.fits(number);
        self.payers[number].1 = match self.invoices.credit(&credit, &asset(), at(self.now)) {
            Ok((terms, _)) => {
                assert!(free, "{number} was credited for a place that isn't there");
                if terms.room() == 0 { Payer::Paid } else { Payer::Pays }
            }
            Err(terms) => {
                let terms = terms.unwrap();
                assert!(terms.is_over() && !free, "{number} was turned away from a place that is free: {terms:?}");
                assert_eq!(terms.received, 0, "{number} was turned away for good after it had paid");
                Payer::Refused
            }
        };
    }

    fn start(&mut self, number: usize) {
        assert!(matches!(self.ask(number), InvoiceStatus::Paid { received: PRICE, .. }));
        let CapacityNeed { pod, machine, .. } = self.payers[number].0.clone();
        self.capacity.claim(&pod, machine, at(self.now)).expect("who has paid has its place");
        self.invoices.begin(&segment(number)).unwrap();
        self.invoices.finish(&segment(number), "{}".to_owned(), at(self.now)).unwrap();
        self.payers[number].1 = Payer::Runs;
    }
}

#[test]
fn every_place_is_used_and_nobody_without_one_pays() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        for step in 0..4000 {
            // All payers finish within half a minute, the shortest time that the smallest first payment holds capacity.
            world.now = step / 140;
            world.step();
        }
        for (number, (place, payer)) in world.payers.iter().enumerate() {
            match payer {
                Payer::Runs => {}
                Payer::Refused => assert!(!world.fits(number), "seed {seed}: {number} was refused, but {:?} is free", place.machine),
                unfinished => panic!("seed {seed}: {number} is still {unfinished:?}"),
            }
        }
        let room = world.capacity.room(at(world.now));
        assert!(SIZES.iter().any(|size| room.short_of(size).is_some()), "seed {seed}: there were more payers than places");
        let running = world.payers.iter().filter(|(_, payer)| *payer == Payer::Runs).count() as u64;
        let sums = &world.invoices.sums[&asset()];
        assert_eq!((sums.totals.received, sums.totals.earned, sums.credit), (running * PRICE, running * PRICE, 0), "seed {seed}");
    }
}
