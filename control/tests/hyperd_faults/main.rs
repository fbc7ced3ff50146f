//! Random paid requests, faults and restarts, on a manager and a hyperd double with real pods. Whatever happens: every payment is accounted
//! for, every route leads to a pod that runs, and every pod that runs is paid for.
//!
//! | module | what is in it |
//! |---|---|
//! | `life` | one life of the control plane: manager, payments and store on a runtime that can be killed |
//! | `world` | a host and its hyperd, what has been paid, and what may happen |
//! | `laws` | what must be so when the storm is over |
//! | `culprit` | a pod that takes its machine and the daemon down on purpose |
//!
//! `CODIUS_SEED=17` runs one seed, `CODIUS_SEEDS=1000` more than usual; `RUST_LOG=debug` shows what happens.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "all of this is test code")]

mod culprit;
mod laws;
mod life;
mod world;

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use futures::FutureExt;
use tracing_subscriber::EnvFilter;
use world::World;

/// Seeds of an ordinary run.
const SEEDS: u64 = 200;
/// The same of those with a culprit.
const CULPRIT_SEEDS: u64 = 30;
/// Things that happen in one run.
const STEPS: usize = 14;
/// Runs at once: they mostly wait for processes.
const WORKERS: usize = 6;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number")))
}

#[test]
fn storms_lose_nothing() {
    each_seed(SEEDS, storm);
}

#[test]
fn a_culprit_is_found_and_innocents_get_their_time() {
    each_seed(CULPRIT_SEEDS, culprit::is_found);
}

fn each_seed<F: Future<Output = ()>>(usual: u64, run: impl Fn(u64) -> F + Sync) {
    let logged = std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned());
    // The other test may have done it.
    let _ = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(logged)).with_writer(std::io::stderr).try_init();
    let seeds = match number("CODIUS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CODIUS_SEEDS").unwrap_or(usual),
    };
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if tokio.block_on(AssertUnwindSafe(run(seed)).catch_unwind()).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("seed {seed} failed: CODIUS_SEED={seed} runs it alone");
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert_eq!(failed, 0, "{failed} of {} seeds failed", seeds.end - seeds.start);
}

async fn storm(seed: u64) {
    let mut world = World::new(seed).await;
    for _ in 0..STEPS {
        world.step().await;
    }
    world.calm().await;
    laws::hold(&mut world).await;
}
