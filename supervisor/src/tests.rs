use std::{future::pending, time::Duration};

use tokio::{sync::oneshot, time::timeout};

use super::*;

const WITHIN: Duration = Duration::from_secs(20);

async fn failed(supervisor: &Supervisor) -> Failure {
    timeout(WITHIN, supervisor.failed()).await.expect("waited for a failure")
}

#[tokio::test]
async fn a_service_that_ends_or_panics_is_what_the_process_ends_for() {
    for fault in [Fault::End, Fault::Panic] {
        let cause = if fault == Fault::End { Cause::Ended } else { Cause::Panicked };
        let supervisor = Supervisor::default();
        let (service, other) = (supervisor.spawn_service("service", pending()), supervisor.spawn_service("other", pending()));
        assert_eq!(supervisor.running(), ["other", "service"]);
        assert!(!supervisor.inject("unknown", fault) && supervisor.inject("service", fault));
        assert_eq!(failed(&supervisor).await, Failure { name: "service", cause });
        timeout(WITHIN, service).await.expect("waited for the service").unwrap();
        assert_eq!(supervisor.running(), ["other"]);
        assert!(!supervisor.is_sealed(), "what is in memory is as it should be");

        supervisor.inject("other", Fault::Panic);
        timeout(WITHIN, other).await.expect("waited for the other").unwrap();
        assert_eq!(failed(&supervisor).await.name, "service", "the first one counts");
    }
}

#[tokio::test]
async fn a_thread_may_end_but_not_panic() {
    let supervisor = Supervisor::default();
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let job = move |running: &Running| {
        while told.recv().is_ok() {
            running.fault_point();
        }
    };
    let thread = supervisor.thread("a thread", job).unwrap();
    tell.send(()).unwrap();
    supervisor.thread("another", |_| {}).unwrap().join().unwrap();
    assert_eq!((supervisor.failure(), supervisor.running()), (None, vec!["a thread"]));
    supervisor.inject("a thread", Fault::Panic);
    tell.send(()).unwrap();
    assert_eq!(failed(&supervisor).await, Failure { name: "a thread", cause: Cause::Panicked });
    thread.join().unwrap();
}

#[tokio::test]
async fn who_is_told_to_stop_or_is_aborted_has_not_failed() {
    let supervisor = Supervisor::default();
    let aborted = supervisor.spawn_service("aborted", pending());
    aborted.abort();
    assert!(timeout(WITHIN, aborted).await.expect("waited for it").is_err());
    drop(supervisor.service("never run", pending()));
    assert!(supervisor.running().is_empty());
    supervisor.stopping();
    timeout(WITHIN, supervisor.spawn_service("stopped", async {})).await.expect("waited for it").unwrap();
    assert_eq!(supervisor.failure(), None);
    supervisor.spawn_service("panics", async { panic!("while the host stops") });
    assert_eq!(failed(&supervisor).await.name, "panics", "a bug is one also then");
}

#[tokio::test]
async fn a_job_may_end_but_not_panic() {
    let supervisor = Supervisor::default();
    assert_eq!(timeout(WITHIN, supervisor.spawn_job("sum", async { 1 + 1 })).await.expect("waited for it").unwrap(), 2);
    assert_eq!((supervisor.failure(), supervisor.running()), (None, Vec::new()));
    let (begun, has_begun) = oneshot::channel();
    let job = supervisor.spawn_job("order", async move {
        begun.send(()).unwrap();
        pending::<()>().await;
    });
    timeout(WITHIN, has_begun).await.expect("waited for the job").unwrap();
    supervisor.inject("order", Fault::Panic);
    assert!(timeout(WITHIN, job).await.expect("waited for it").unwrap_err().is_panic(), "who waits is told");
    assert_eq!(failed(&supervisor).await, Failure { name: "order", cause: Cause::Panicked });
}

#[tokio::test]
async fn state_that_a_panic_leaves_half_changed_ends_the_process_whoever_changes_it() {
    let supervisor = Supervisor::default();
    let book = Arc::new(StateLock::new("book", &supervisor, (1, 1)));
    let outside = isolated(async { panic!("of one client") }).await;
    assert_eq!(outside, Err(Panicked));
    assert_eq!((supervisor.failure(), supervisor.is_sealed()), (None, false), "no state was being changed");

    let changing = book.clone();
    let inside: Result<(), Panicked> = isolated(async move {
        let mut book = changing.lock();
        book.0 = 2;
        assert_eq!(book.0, book.1, "sums agree");
    })
    .await;
    assert_eq!(inside, Err(Panicked));
    assert_eq!(supervisor.failure(), Some(Failure { name: "book", cause: Cause::HalfChanged }));
    assert!(supervisor.is_sealed());
    assert_eq!(*book.lock(), (2, 1), "nobody is kept waiting");
}
