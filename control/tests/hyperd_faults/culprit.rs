//! A pod that ends its own machine, and with that the daemon as often as chance has it; and innocents that write a lot, whose machines a
//! daemon may lose when it finds them again. Innocents get their time, the culprit is started at most so often.

use std::time::{Duration, Instant};

use codiusd_control::pods::PodPhase;
use codiusd_kit::hyperd::Unkind;
use tokio::time::sleep;

use crate::world::{PODS, SECONDS, World};

/// Starts of a culprit until it is known, if it crashes the daemon: chance may have to decide several times who it was.
const STARTS_MAX: usize = 8;
/// How long that may take, and until the others run again.
const WITHIN: Duration = Duration::from_secs(60);
/// What a run may take of the time that was bought.
const RUN_MAX: Duration = Duration::from_secs(600);
/// The culprit's place among the pods.
const CULPRIT: usize = 0;
/// A page, and a line every moment.
const TALKS: &str = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done & exec /bin/httpd -f -p 8080 -h /www";

pub(crate) async fn is_found(seed: u64) {
    // A daemon that always crashes, one that sometimes does, and one that never does.
    let (dying_crashes, starts_max) = [(100, STARTS_MAX), (50, STARTS_MAX), (0, 2)][usize::try_from(seed % 3).unwrap()];
    let mut world = World::with(seed, Some(TALKS), Unkind { dying_crashes, chatty_lost: 50, seed }).await;
    for pod in 0..usize::try_from(PODS).unwrap() {
        world.pay_and_upload(pod).await;
    }
    let starts = until_it_is_known(&mut world, seed).await;
    assert!((1..=starts_max).contains(&starts), "seed {seed}: the culprit was started {starts} times");

    // Another life of the control plane knows it, too; and another upload of it is one start, if it doesn't take the daemon along.
    world.end().await;
    world.begin_again().await;
    assert_eq!(world.facts(CULPRIT).map(|pod| pod.phase), Some(PodPhase::Crashed), "seed {seed}");
    world.pay_and_upload(CULPRIT).await;
    let starts = until_it_is_known(&mut world, seed).await;
    assert!(starts >= 1 && (dying_crashes > 0 || starts == 1), "seed {seed}: one more upload was {starts} starts");
    world.end().await;
}

/// Ends the culprit's machine whenever it runs, until it isn't started any more and all others run. How often it ran.
async fn until_it_is_known(world: &mut World, seed: u64) -> usize {
    let (deadline, mut starts, mut last) = (Instant::now() + WITHIN, 0, None);
    loop {
        world.calm().await;
        world.send_again().await;
        let culprit = world.facts(CULPRIT);
        if let Some(run) = culprit.as_ref().and_then(|pod| pod.run).map(|run| run.incarnation)
            && last != Some(run)
        {
            (starts, last) = (starts + 1, Some(run));
            world.kill_a_machine(CULPRIT);
        }
        let innocents: Vec<_> = (CULPRIT + 1..usize::try_from(PODS).unwrap()).map(|pod| world.facts(pod)).collect();
        let well = innocents.iter().all(|pod| {
            let Some(pod) = pod else { return false };
            assert!(pod.phase != PodPhase::Crashed && pod.phase != PodPhase::Exited, "seed {seed}: an innocent is {:?}", pod.phase);
            let left = pod.remaining.unwrap_or_default();
            let bought = Duration::from_secs(SECONDS.get().into());
            assert!(pod.remaining.is_none() || (bought - RUN_MAX..=bought).contains(&left), "seed {seed}: {left:?} are left of {bought:?}");
            pod.phase == PodPhase::Running
        });
        if starts > 0 && well && culprit.as_ref().is_some_and(|pod| pod.phase == PodPhase::Crashed) {
            return starts;
        }
        let phase = culprit.map(|pod| pod.phase);
        assert!(Instant::now() < deadline, "seed {seed}: {phase:?}, {innocents:?}, {starts} starts\n{}", world.hyperd.log());
        sleep(Duration::from_millis(20)).await;
    }
}
