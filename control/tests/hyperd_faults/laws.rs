//! What must be so when the storm is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use codiusd_control::{persistence, pods::Refusal};
use codiusd_runtime::PodId;
use codiusd_supervisor::Supervisor;
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    life::{asset, store_file},
    world::World,
};

/// How long the host may take to be as it should.
const WITHIN: Duration = Duration::from_secs(40);
/// What a run may take, and so what of bought time may have passed or been waited for, in seconds.
const RUN_MAX: i64 = 600;

pub(crate) async fn hold(world: &mut World) {
    everything_paid_is_used(world).await;
    // An exit that nobody has noticed yet would be taken for a pod that can be extended.
    within("exits to be noticed", world, async |world| unsettled(world).await).await;
    world.upload_all_once_more().await;
    everything_paid_is_used(world).await;
    all_is_as_it_should(world).await;
    time_is_what_was_bought(world).await;
    money_is_what_was_paid(world).await;
}

/// Waits until nothing is wrong any more.
async fn within(what: &str, world: &mut World, wrong: impl AsyncFn(&World) -> Vec<String>) {
    let deadline = Instant::now() + WITHIN;
    loop {
        world.calm().await;
        let wrong = wrong(world).await;
        if wrong.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            let containers = world.rows("container", "cData").await;
            panic!("waited for {what}:\n{}\ncontainers: {containers:?}\n{}", wrong.join("\n"), world.hyperd.log());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until all that was paid for runs. Whoever finds a pod stopped uploads it again: what it had left is kept.
async fn all_is_as_it_should(world: &mut World) {
    let deadline = Instant::now() + WITHIN;
    loop {
        world.calm().await;
        let wrong = what_is_wrong(world).await;
        if wrong.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "all should be well by now:\n{}\n{}", wrong.join("\n"), world.hyperd.log());
        if world.upload_what_has_stopped().await {
            everything_paid_is_used(world).await;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A client that repeats its request gets its answer, and pays nothing more.
async fn everything_paid_is_used(world: &mut World) {
    let deadline = Instant::now() + WITHIN;
    while !world.send_again().await {
        world.calm().await;
        assert!(Instant::now() < deadline, "paid requests are still not answered\n{}", world.hyperd.log());
        sleep(Duration::from_millis(50)).await;
    }
}

/// Every pod that was paid for runs, is routed to, and answers; hyperd holds these and no others.
async fn what_is_wrong(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    let paid: BTreeSet<PodId> = world.paid.iter().map(|paid| paid.order.spec.id.clone()).collect();
    let routes: BTreeMap<PodId, SocketAddr> = world.life().board.routes().into_iter().collect();
    if !routes.keys().eq(paid.iter()) {
        wrong.push(format!("routes {:?} but paid {paid:?}", routes.keys()));
    }
    wrong.extend(dead_routes(world).await);
    let rows = world.rows("pod", "podData").await;
    let held: BTreeSet<&str> = rows.iter().filter(|row| !row.ends_with(":failed")).filter_map(|row| row.split(':').next()).collect();
    let expected: BTreeSet<&str> = paid.iter().map(PodId::as_str).collect();
    // Not its machines: one that boots while hyperd is killed is left to itself by hyperd, and nobody else can know it.
    if held != expected {
        wrong.push(format!("hyperd holds {rows:?}, and paid are {expected:?}"));
    }
    wrong
}

/// What may still turn out to have ended.
async fn unsettled(world: &World) -> Vec<String> {
    let mut unsettled = dead_routes(world).await;
    for paid in &world.paid {
        let id = &paid.order.spec.id;
        if let Err(Refusal::Changing(_)) = world.life().manager.running(id) {
            unsettled.push(format!("{id} is being changed"));
        }
    }
    unsettled
}

/// Routes to what doesn't run or doesn't answer.
async fn dead_routes(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, address) in world.life().board.routes() {
        if world.life().manager.running(&id).is_err() {
            wrong.push(format!("{id} has a route and doesn't run"));
        }
        if page(address).await.as_deref() != Some(name_of(world, &id).as_str()) {
            wrong.push(format!("{id} is routed to {address}, where its page isn't"));
        }
    }
    wrong
}

/// A pod's URL never reaches another's pod, whatever happens: it is its own page, or none.
pub(crate) async fn nobody_is_served_as_another(world: &World) {
    for (id, address) in world.life().board.routes() {
        let Some(found) = page(address).await else { continue };
        // Its route may have gone since.
        if world.life().board.routes().get(&id) == Some(&address) {
            assert_eq!(found, name_of(world, &id), "{id} is routed to {address}");
        }
    }
}

fn name_of(world: &World, id: &PodId) -> String {
    let order = world.paid.iter().map(|paid| &paid.order).find(|order| order.spec.id == *id).expect("it was paid for");
    let manifest: serde_json::Value = serde_json::from_str(&order.manifest).expect("a manifest");
    manifest["name"].as_str().or_else(|| manifest["manifest"]["name"].as_str()).expect("a name").to_owned()
}

/// What is answered there, if anything is.
async fn page(address: SocketAddr) -> Option<String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(Duration::from_secs(5), asked).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split("\r\n").next()?.ends_with(" 200 OK").then(|| body.trim().to_owned())
}

/// Time is neither lost nor given away, however often a pod had to be started.
async fn time_is_what_was_bought(world: &mut World) {
    let ids: BTreeSet<PodId> = world.paid.iter().map(|paid| paid.order.spec.id.clone()).collect();
    for id in ids {
        let judged = async |world: &World| {
            let view = match world.life().manager.running(&id) {
                // It is being started anew at this moment, and has no receipt.
                Err(Refusal::Changing(_)) => return vec![format!("{id} is being started or stopped")],
                view => view.expect("it runs"),
            };
            let expiry: Timestamp = view.receipt.expiry.parse().expect("a time");
            let left = Timestamp::now().duration_until(expiry).as_secs();
            let bought = world.bought(&id);
            assert!((bought - RUN_MAX..=bought + RUN_MAX).contains(&left), "{id}: {left} s left of {bought} s bought");
            Vec::new()
        };
        within("every pod to run", world, judged).await;
    }
}

async fn money_is_what_was_paid(world: &mut World) {
    let sum: u64 = world.paid.iter().map(|paid| paid.price).sum();
    world.end().await;
    let (_store, snapshot) = persistence::open(&store_file(world.root.path()), Supervisor::default()).expect("the store opens");
    let totals = snapshot.totals.iter().find(|(known, _)| *known == asset()).map(|(_, totals)| *totals).unwrap_or_default();
    assert_eq!((totals.received, totals.earned, totals.forfeited), (sum, sum, 0), "received, earned, forfeited");
}
