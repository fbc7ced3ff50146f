//! kill -9 with pods running and money on the way.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use codiusd_kit::{Host, Payer, Upload, payer::pay_token, until, web};
use http::{Method, StatusCode};
use jiff::Timestamp;
use tokio::{task::JoinSet, time::sleep};

use crate::{expiry, host, quote};

const PROBE_EVERY: Duration = Duration::from_millis(20);

/// Asks pods for a page, over and over, past the edge.
struct Probes {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<u32, String>>,
}

impl Probes {
    fn start(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for address in addresses {
            let stop = stop.clone();
            tasks.spawn(async move {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answer = web::send(SocketAddr::from((address, 8080)), web::get("pod", "/")).await;
                    match answer {
                        Ok(answer) if answer.status == StatusCode::OK => answers += 1,
                        other => return Err(format!("{address} after {answers} answers: {other:?}")),
                    }
                    sleep(PROBE_EVERY).await;
                }
                Ok(answers)
            });
        }
        Self { stop, tasks }
    }

    /// How often each pod has answered. None has ever failed to.
    async fn finish(self) -> Vec<u32> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().map(|answers| answers.expect("a pod that always answers")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_stops_no_pod_and_loses_no_money() {
    let mut host = host().keep_pods().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let mut pods = Vec::new();
    for _ in 0..3 {
        let hash = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
        pods.push((hash.clone(), expiry(&host, &hash).await));
    }
    let before = host.traces();
    assert_eq!(before.addresses.len(), 3, "one address per pod: {before:?}");

    let (upload, token) = (Upload::of(host.image()), pay_token());
    let price = quote(&host, upload.json(), 60).await;
    let half = price / 2;
    let paid = payer.buy(&host, Method::POST, "/pods?duration=60", Some(upload.json()), &token, half).await.paid;
    let books = host.books();
    assert_eq!((paid, books.credit), (half, half));

    let probes = Probes::start(before.addresses.clone());
    host.kill9();
    assert_eq!(host.traces().processes, before.processes, "codiusd alone was killed");
    host.start_again().await;
    for (hash, expires) in &pods {
        assert_eq!(host.pod(hash, "/").await.status, StatusCode::OK, "a pod is served again as soon as the host is ready");
        assert_eq!(expiry(&host, hash).await, *expires, "its time goes on");
    }
    let answers = probes.finish().await;
    assert!(answers.len() == 3 && answers.iter().all(|answers| *answers >= 1), "{answers:?}");
    assert_eq!(host.traces().processes, before.processes, "the same pods, never started again");

    assert_eq!(host.books(), books, "the credit is there, and nothing was charged twice");
    let bought = top_up(&host, &upload, &token).await;
    assert_eq!(bought, price - half, "only the rest is paid");
    let after = host.books();
    assert_eq!((after.received, after.earned, after.credit), (books.received + bought, books.received + bought, 0));
}

async fn top_up(host: &Host, upload: &Upload, token: &str) -> u64 {
    let payer = Payer::connect(host.ilp()).await;
    let bought = payer.buy(host, Method::POST, "/pods?duration=60", Some(upload.json()), token, u64::MAX).await;
    assert_eq!(bought.answer.status, StatusCode::OK, "{}", bought.answer.text());
    bought.paid
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_expired_while_codiusd_was_down_are_gone_when_it_is_back() {
    let mut host = host().keep_pods().start().await;
    let payer = Payer::connect(host.ilp()).await;
    let short = payer.run_pod(&host, &Upload::of(host.image()), 2).await;
    let long = payer.run_pod(&host, &Upload::of(host.image()), 600).await;
    let ends = expiry(&host, &short).await;
    host.kill9();
    until("the first pod's time to end", Duration::from_secs(5), async || (Timestamp::now() > ends).then_some(())).await;
    host.start_again().await;
    assert_eq!(host.pod(&short, "/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(host.pod(&long, "/").await.status, StatusCode::OK);
    until("one pod to be left", Duration::from_secs(10), async || (host.traces().addresses.len() == 1).then_some(())).await;
}
