//! The test, step by step, in the role of an uploader and a visitor. A step that depends on a failed one isn't started.
//!
//! ```text
//! name, wildcard -> connect -> certificate -> quote -> payer -> upload -> page, WebSocket, log -> stop
//! ```

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use codiusd_api_types::pods::Quote;
use codiusd_control::{
    api::{SelfTestGate, SelfTestToken},
    paid_requests::PaidRequests,
    pods::{PodManager, Refusal},
};
use codiusd_ilp::btp::client::BtpUrl;
use codiusd_runtime::{Machine, PodId};
use futures::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{self, Instant};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use url::Url;

use super::{
    problem::Problem,
    reach::Reach,
    report::{Finding, Outcome, Report, Step},
};
use crate::client::{self, ClientError, Host, HostError, PaidAction, Payer, most_for};

/// Run time that is bought: enough for the test, and little is lost if the pod can't be stopped.
const DURATION: NonZeroU32 = NonZeroU32::new(60).unwrap();
/// How long a step may take, in seconds; `UPLOAD_SECONDS` is for the step that pays and starts a pod.
const STEP_SECONDS: u64 = 20;
const UPLOAD_SECONDS: u64 = 80;
/// How long a pod that has just been started may take to answer, and to write its log.
const POD_WITHIN: Duration = Duration::from_secs(10);
/// Interval between requests to a page that doesn't answer yet.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest page and log that is read, in bytes.
const TEXT_MAX: usize = 256 * 1024;
/// The image in the quote if there is none to run.
const SOME_IMAGE: &str = "codius.invalid/self-test@sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// The steps that are skipped without an image.
const WITHOUT_IMAGE: [Step; 6] = [Step::Payer, Step::Upload, Step::Page, Step::WebSocket, Step::Log, Step::Stop];
const NO_IMAGE: &str = "skipped: hyperd runs images of registries only, and self_test.image is not set";
const FREE: &str = "not needed: this host asks for no money";

/// The host under test, and what the test uses.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) public_uri: Url,
    pub(crate) gate: SelfTestGate,
    pub(crate) token: SelfTestToken,
    pub(crate) paid_requests: PaidRequests,
    /// The size of the pod.
    pub(crate) machine: Machine,
    /// The image that the pod runs; none: this runtime can't run the built-in one.
    pub(crate) image: Option<String>,
    /// The account that pays.
    pub(crate) payer: BtpUrl,
}

/// The value of a step, and its description in the report.
type StepResult<T> = Result<(T, String), Problem>;

/// The findings so far.
#[derive(Default)]
struct SelfTestRun(Vec<Finding>);

/// Tests a host.
pub(crate) async fn walk(subject: &Subject) -> Report {
    let (begun, mut walk) = (Instant::now(), SelfTestRun::default());
    // The findings show how far the test got.
    let _ = walk.all(subject).await;
    Report::of(begun, walk.0)
}

/// Runs only the steps up to the certificate, which need neither token nor payment.
pub(crate) async fn arrive(public_uri: &Url) -> Vec<Finding> {
    let mut walk = SelfTestRun::default();
    let _ = walk.arrive(public_uri).await;
    walk.0
}

impl SelfTestRun {
    async fn all(&mut self, subject: &Subject) -> Option<()> {
        let reach = self.arrive(&subject.public_uri).await?;
        let body = body(subject.image.as_deref().unwrap_or(SOME_IMAGE));
        let (host, quote) = self.step(Step::Quote, subject.quote(&reach, &body)).await?;
        if subject.image.is_none() {
            WITHOUT_IMAGE.iter().for_each(|step| self.skip(*step, NO_IMAGE));
            return Some(());
        }
        let payer = if quote.price == "0" {
            self.skip(Step::Payer, FREE);
            None
        } else {
            Some(self.step(Step::Payer, subject.payer(&quote)).await?)
        };
        let bought = self.step(Step::Upload, subject.buy(&host, payer.as_ref(), body)).await;
        if let Some(pod) = bought {
            self.visit(&reach, &host, &pod, &quote.manifest_hash).await;
        }
        self.stop(subject.paid_requests.pods(), &quote.manifest_hash).await
    }

    /// Resolves, connects and checks the certificate, for the host's name and one below it.
    async fn arrive(&mut self, public_uri: &Url) -> Option<Reach> {
        let (reach, label) = (Reach::of(public_uri), label());
        let found = self.step(Step::Name, async { reach.host_addresses().await.map(|found| told(found, reach.host().to_owned())) }).await;
        let below =
            self.step(Step::Wildcard, async { reach.pod_addresses(&label).await.map(|found| told(found, format!("*.{}", reach.host()))) });
        let below = below.await;
        let (found, below) = (found?, below?);
        self.step(Step::Connect, async {
            let (_, address) = reach.connect(&found).await?;
            reach.connect(&below).await?;
            Ok(((), format!("{address} takes connections")))
        })
        .await?;
        if !reach.is_secure() {
            self.skip(Step::Certificate, "skipped: public_uri is http://, so Pay-Tokens travel in clear text");
            return Some(reach);
        }
        self.step(Step::Certificate, async {
            for (name, addresses) in [(reach.host().to_owned(), &found), (reach.below(&label), &below)] {
                reach.secure(&name, reach.connect(addresses).await?.0).await?;
            }
            Ok(((), format!("good for {0} and *.{0}", reach.host())))
        })
        .await?;
        Some(reach)
    }

    /// Checks page and WebSocket independently, and the log if the page passed.
    async fn visit(&mut self, reach: &Reach, host: &Host, pod: &Url, hash: &str) {
        let path = format!("/self-test-{}", label());
        let seen = self.step(Step::Page, page(pod, hash, &path)).await;
        self.step(Step::WebSocket, echo(reach, pod, hash)).await;
        if seen.is_some() {
            self.step(Step::Log, logged(host, hash, &path)).await;
        }
    }

    async fn stop(&mut self, manager: &PodManager, hash: &str) -> Option<()> {
        let id = hash.parse::<PodId>().ok().filter(|id| manager.facts(id).is_some())?;
        self.step(Step::Stop, async { manager.stop(&id).await.map(|()| ((), "the pod is gone".to_owned())).map_err(Problem::Stop) }).await
    }

    async fn step<T>(&mut self, step: Step, work: impl Future<Output = StepResult<T>>) -> Option<T> {
        let begun = Instant::now();
        let seconds = if step == Step::Upload { UPLOAD_SECONDS } else { STEP_SECONDS };
        let done = time::timeout(Duration::from_secs(seconds), work).await.unwrap_or(Err(Problem::Slow(seconds)));
        let (outcome, value) = match done {
            Ok((value, what)) => (Outcome::Passed(what), Some(value)),
            Err(problem) => (Outcome::Failed(problem), None),
        };
        self.0.push(Finding { step, outcome, took: begun.elapsed() });
        value
    }

    fn skip(&mut self, step: Step, why: &'static str) {
        self.0.push(Finding { step, outcome: Outcome::Skipped(why), took: Duration::ZERO });
    }
}

impl Subject {
    /// Requests a quote, which other clients don't get yet, and checks that this process received the request.
    async fn quote(&self, reach: &Reach, body: &[u8]) -> StepResult<(Host, Quote)> {
        let host = Host::tested(self.public_uri.clone(), self.token.as_str()).map_err(Problem::Host)?;
        let before = self.gate.shown();
        let quote = host.quote(body, DURATION).await;
        if self.gate.shown() == before && !matches!(quote, Err(HostError::Unreachable { .. })) {
            return Err(Problem::Elsewhere(reach.host().to_owned()));
        }
        match quote {
            Ok(_) if self.paid_requests.pods().capabilities().isolation == codiusd_runtime::Isolation::None => Err(Problem::Noop),
            Ok(quote) => {
                let what = format!("{} units of {} for {DURATION} s", quote.price, quote.asset_code.as_deref().unwrap_or("?"));
                Ok(((host, quote), what))
            }
            Err(error) => Err(self.refused(error).await),
        }
    }

    async fn payer(&self, quote: &Quote) -> StepResult<Payer> {
        let mut payer = Payer::open(Some(self.payer.clone())).await.map_err(|error| Problem::NoPayer(Box::new(error)))?;
        let max = most_for(quote, payer.account()).map_err(Problem::Price)?;
        payer.limit(max);
        let what = format!("pays as {}", payer.account().address);
        Ok((payer, what))
    }

    /// Uploads and pays, and returns the pod's URL from the receipt.
    async fn buy(&self, host: &Host, payer: Option<&Payer>, body: Vec<u8>) -> StepResult<Url> {
        let action = PaidAction::Upload(body, DURATION);
        match client::pay_for(host, payer, &action, None, &mut |_| {}).await {
            Ok(receipt) => {
                let what = format!("paid for, and runs at {}", receipt.url);
                Ok((receipt.url.parse().map_err(|_| Problem::OtherPage)?, what))
            }
            Err(ClientError::Payer(error)) => Err(Problem::Payment(Box::new(error))),
            Err(ClientError::Underpaid { required, received, .. }) => Err(Problem::StillDue { required, received }),
            Err(ClientError::PaidInVain { refusal, .. }) => Err(Problem::Start(refusal)),
            Err(ClientError::Host(error)) => Err(self.refused(error).await),
        }
    }

    /// Why the host refuses. It is this process, so its state is available.
    async fn refused(&self, error: HostError) -> Problem {
        if !matches!(error, HostError::Refused { .. }) {
            return Problem::Host(error);
        }
        if self.paid_requests.asset().is_none() {
            return Problem::NoAccount;
        }
        let manager = self.paid_requests.pods();
        match (manager.open().await, manager.room().short_of(&self.machine)) {
            (Err(Refusal::Draining), _) => Problem::Draining,
            (Err(refusal), _) => Problem::Runtime(refusal),
            (Ok(()), Some(resource)) => Problem::Full(resource),
            (Ok(()), None) if matches!(&error, HostError::Refused { status, .. } if *status == StatusCode::FORBIDDEN) => Problem::Banned,
            (Ok(()), None) => Problem::Refused(error),
        }
    }
}

/// Fetches the pod's page. A new pod needs a moment, so it retries.
async fn page(pod: &Url, hash: &str, path: &str) -> StepResult<()> {
    let pod = Host::visited(pod.clone()).map_err(Problem::Host)?;
    let deadline = Instant::now() + POD_WITHIN;
    loop {
        let (status, page) = pod.fetch(path, TEXT_MAX).await.map_err(Problem::Host)?;
        match status {
            StatusCode::OK if String::from_utf8_lossy(&page).contains(hash) => {
                return Ok(((), format!("its page: {} bytes", page.len())));
            }
            StatusCode::OK => return Err(Problem::OtherPage),
            _ if Instant::now() > deadline => return Err(Problem::Page(status)),
            _ => time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Sends a message over a WebSocket, and checks that the pod echoes it.
async fn echo(reach: &Reach, pod: &Url, hash: &str) -> StepResult<()> {
    let addresses = reach.pod_addresses(hash).await?;
    let stream = reach.secure(&reach.below(hash), reach.connect(&addresses).await?.0).await?;
    let mut uri = pod.clone();
    // `set_scheme` allows this change because all these schemes are special; the host stays the same.
    let scheme = if reach.is_secure() { "wss" } else { "ws" };
    uri.set_scheme(scheme).map_err(|()| Problem::NoEcho)?;
    uri.set_path("/ws");
    let failed = |error| Problem::WebSocket(Box::new(error));
    let config = WebSocketConfig::default().max_message_size(Some(TEXT_MAX)).max_frame_size(Some(TEXT_MAX));
    let talk = async {
        let (mut socket, _) = client_async_with_config(uri.as_str(), stream, Some(config)).await.map_err(failed)?;
        let said = label();
        socket.send(Message::text(said.clone())).await.map_err(failed)?;
        let heard = loop {
            match socket.next().await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => break message.to_text().is_ok_and(|text| text == said),
                Some(Err(error)) => return Err(failed(error)),
                None => break false,
            }
        };
        // The result is known; a failed close doesn't change it.
        let _ = socket.close(None).await;
        if heard { Ok(((), "echoes over a WebSocket".to_owned())) } else { Err(Problem::NoEcho) }
    };
    time::timeout(POD_WITHIN, talk).await.unwrap_or(Err(Problem::NoEcho))
}

/// Follows the log until it contains the request for `path`.
async fn logged(host: &Host, hash: &str, path: &str) -> StepResult<()> {
    let look = async {
        let mut chunks = std::pin::pin!(client::logs(host, hash, true).await.map_err(Problem::Host)?);
        let mut log = Vec::new();
        while log.len() < TEXT_MAX
            && let Some(chunk) = chunks.next().await
        {
            log.extend_from_slice(&chunk.map_err(Problem::Host)?);
            if String::from_utf8_lossy(&log).contains(path) {
                return Ok(((), "its log tells of our request".to_owned()));
            }
        }
        Err(Problem::NotLogged)
    };
    time::timeout(POD_WITHIN, look).await.unwrap_or(Err(Problem::NotLogged))
}

fn told(found: Vec<SocketAddr>, name: String) -> (Vec<SocketAddr>, String) {
    let addresses: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
    let what = format!("{name} is {}", addresses.join(", "));
    (found, what)
}

/// The upload of a unique pod, so that a pod left from an earlier test isn't extended.
fn body(image: &str) -> Vec<u8> {
    let manifest = json!({
        "name": format!("self-test-{}", label()), "version": "1.0.0", "port": "8080", "machine": "small", "debug": true,
        "containers": [{ "id": "page", "image": image }],
    });
    json!({ "manifest": manifest }).to_string().into_bytes()
}

/// A random label as long as a pod's, so that no resolver has a cached answer.
fn label() -> String {
    (0..52).map(|_| char::from(b'a' + rand::random_range(0..26_u8))).collect()
}
