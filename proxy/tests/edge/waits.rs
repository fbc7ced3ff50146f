//! Waits for what a test can see, and past what the edge bounds; a pod that stops until a test lets it go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use crate::kit::{EdgeFixture, Pod, within};

/// Between two looks at what can't announce itself.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until it is so, or fails saying what did not come.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is_so().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}

/// Where a pod stops until the test lets it go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Halt {
    reached: Arc<Notify>,
    over: Arc<Notify>,
}

impl Halt {
    /// For the pod: says that it is here, and waits.
    pub(crate) async fn stop(&self) {
        self.reached.notify_one();
        self.over.notified().await;
    }

    /// Waits for the pod to be here.
    pub(crate) async fn reached(&self) {
        within("the pod to be where it stops", self.reached.notified()).await;
    }

    /// Lets it go on.
    pub(crate) fn let_go(&self) {
        self.over.notify_one();
    }
}

/// A time the edge allows, and what it does when that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// A client that says nothing is closed.
    HeaderDeadline,
    /// As is one that says no more after an answer.
    KeepAlive,
    /// A pod that says nothing has timed out.
    FirstByte,
    /// A client that sends none of its body is told so.
    BodyGrace,
}

impl EdgeFixture {
    /// Waits until the edge has lost its patience with somebody who comes only now. It has none left for whoever has waited since before for
    /// the same reason: a test that sees them go on knows that they are not bounded, and needs no time of its own.
    pub(crate) async fn outlast(&self, bound: Bound) {
        let mut other = self.connect().await;
        match bound {
            Bound::HeaderDeadline => assert_eq!(other.closed().await, ""),
            Bound::KeepAlive => {
                assert_eq!(other.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
                assert_eq!(other.closed().await, "");
            }
            Bound::FirstByte => {
                let name = self.publish_a_silent_pod().await;
                assert_eq!(other.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await.status, 504);
            }
            Bound::BodyGrace => {
                let name = self.publish_a_silent_pod().await;
                assert_eq!(other.ask(&format!("POST / HTTP/1.1\r\nHost: {name}\r\nContent-Length: 9\r\n\r\n")).await.status, 408);
            }
        }
    }

    /// One that takes what comes and says nothing.
    async fn publish_a_silent_pod(&self) -> String {
        let pod = Pod::raw(|_, mut stream| async move {
            let _gone = stream.read_to_end(&mut Vec::new()).await;
        });
        self.publish(u8::MAX, pod.await.address)
    }
}
