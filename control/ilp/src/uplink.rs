//! The connection to the parent connector (moneyd or any other): keeps it up, authenticates, and asks for our address.
//!
//! ```text
//! connecting --> authenticated --> IL-DCP answered (account known) --> closed --> waiting (1 s .. 30 s, jitter) --+
//!      ^-------------------------------------------------------------------------------------------------------------+
//! ```

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::{
    btp::{
        client::{AccountError, BtpUrl, ConnectError, account_over, open},
        session::{Ended, Handler, Session, drive},
    },
    ildcp::Account,
    packet::{ErrorCode, Prepare, Reject, Reply},
    stream::receiver::Receiver,
};

/// First delay after a failure, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Duration after which a connection counts as stable: the next delay starts over.
const GOOD_AFTER: Duration = Duration::from_secs(30);

/// Keeps the uplink up until `stop` is cancelled; then completes the answers in progress. `account` is our current
/// account.
pub(crate) async fn keep_up(url: BtpUrl, receiver: Arc<Receiver>, account: Arc<watch::Sender<Option<Account>>>, stop: CancellationToken) {
    let mut uplink = Uplink { url, receiver, account, last: None };
    let mut wait = BACK_OFF.0;
    while !stop.is_cancelled() {
        let since = time::Instant::now();
        match uplink.connect_once(&stop).await {
            Ok(Ended::Stopped) => {}
            Ok(ended) => {
                if since.elapsed() >= GOOD_AFTER {
                    wait = BACK_OFF.0;
                }
                tracing::warn!(uplink = %uplink.url, reason = &ended as &dyn std::error::Error, "uplink lost");
            }
            Err(error) => tracing::warn!(uplink = %uplink.url, error = &error as &dyn std::error::Error, "uplink connection failed"),
        }
        uplink.account.send_replace(None);
        stop.run_until_cancelled(time::sleep(wait.mul_f64(rand::random_range(0.5..1.0)))).await;
        wait = (wait * 2).min(BACK_OFF.1);
    }
}

#[derive(Debug, thiserror::Error)]
enum UplinkError {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

struct Uplink {
    url: BtpUrl,
    receiver: Arc<Receiver>,
    account: Arc<watch::Sender<Option<Account>>>,
    /// The account the parent assigned last.
    last: Option<Account>,
}

impl Uplink {
    async fn connect_once(&mut self, stop: &CancellationToken) -> Result<Ended, UplinkError> {
        let Some(socket) = stop.run_until_cancelled(open(&self.url)).await else { return Ok(Ended::Stopped) };
        let (session, outbox) = Session::new(stop);
        let handler = Arc::new(Incoming { receiver: self.receiver.clone(), account: self.account.clone() });
        let mut driver = std::pin::pin!(drive(socket?, session.clone(), outbox, handler));
        let found = tokio::select! {
            ended = &mut driver => return Ok(ended),
            found = account_over(&session) => found?,
        };
        tracing::info!(uplink = %self.url, address = %found.address, asset = found.asset_code, scale = found.asset_scale, "uplink connected");
        if let Some(last) = self.last.replace(found.clone()).filter(|last| *last != found) {
            tracing::warn!(
                uplink = %self.url, address = %last.address, asset = last.asset_code, scale = last.asset_scale,
                "the uplink gave us another account before; what was to be paid there can't be paid any more"
            );
        }
        self.account.send_replace(Some(found));
        Ok(driver.await)
    }
}

/// Packets from the parent are payments.
#[derive(Debug)]
struct Incoming {
    receiver: Arc<Receiver>,
    account: Arc<watch::Sender<Option<Account>>>,
}

#[async_trait]
impl Handler for Incoming {
    async fn answer(&self, prepare: Prepare) -> Reply {
        let account = self.account.borrow().clone();
        match account {
            Some(account) => self.receiver.handle(&account, prepare, Timestamp::now()).await,
            None => {
                Err(Reject { code: ErrorCode::T01_PEER_UNREACHABLE, triggered_by: None, message: "not ready".to_owned(), data: Vec::new() })
            }
        }
    }
}
