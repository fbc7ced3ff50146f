//! A host and its hyperd, what has been paid, and what may happen to them.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use codiusd_control::{
    manifest::{Rules, Upload},
    money::{Binding, InvoiceStatus, PayToken, PaymentsError},
    pods::{PodSummary, Refusal},
    workload::PodOrder,
};
use codiusd_ilp::stream::credit_sink::{Credit, CreditSink, Slack};
use codiusd_kit::hyperd::{self, Hyperd, Unkind};
use codiusd_runtime::PodId;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::{
    laws,
    life::{Life, asset},
};

/// Manifests that are uploaded.
pub(crate) const PODS: u64 = 3;
/// What each upload buys: much longer than any run takes.
pub(crate) const SECONDS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
const PATIENCE: Duration = Duration::from_secs(30);
const CALLS: [(&str, &str); 7] = [
    ("POST", "/pod/create"),
    ("POST", "/pod/start"),
    ("DELETE", "/pod"),
    ("GET", "/pod/info"),
    ("GET", "/list"),
    ("POST", "/image/create"),
    ("POST", "/pod/stop"),
];
const FAULTS: [&str; 7] = ["drop-before", "drop-after", "error-500", "slow-ms:150", "crash-before", "crash-after", "crash-in-ms:40"];

/// A paid request.
#[derive(Clone)]
pub(crate) struct Paid {
    pub(crate) token: PayToken,
    binding: Binding,
    pub(crate) price: u64,
    pub(crate) order: Arc<PodOrder>,
}

pub(crate) struct World {
    random: Random,
    pub(crate) root: TempDir,
    pub(crate) hyperd: Hyperd,
    /// None only in between.
    life: Option<Life>,
    paid_requests: Vec<Arc<PodOrder>>,
    pub(crate) paid: Vec<Paid>,
}

impl World {
    /// A storm's: a daemon as unkind as hyperd.
    pub(crate) async fn new(seed: u64) -> Self {
        Self::with(seed, None, Unkind { dying_crashes: 50, chatty_lost: 50, seed }).await
    }

    /// Pods that run this, or their image's command.
    pub(crate) async fn with(seed: u64, script: Option<&str>, unkind: Unkind) -> Self {
        let mut random = Random(seed);
        let boot_ms = random.below(3) * 60;
        let binary = hyperd::binary().display().to_string();
        let hyperd = Hyperd::builder(&binary).boot_ms(boot_ms).time_scale(0.02).pulled().unkind(unkind).start().await;
        let root = tempfile::tempdir().unwrap();
        let paid_requests = (0..PODS).map(|number| Arc::new(order(&format!("storm-{seed}-{number}"), hyperd.image(), script))).collect();
        let life = Some(Life::begin(root.path(), &hyperd).await);
        Self { random, root, hyperd, life, paid_requests, paid: Vec::new() }
    }

    pub(crate) fn life(&self) -> &Life {
        self.life.as_ref().unwrap()
    }

    pub(crate) async fn end(&mut self) {
        if let Some(life) = self.life.take() {
            life.kill().await;
        }
    }

    /// Another life of the control plane.
    pub(crate) async fn begin_again(&mut self) {
        self.life = Some(Life::begin(self.root.path(), &self.hyperd).await);
    }

    /// What a pod does, and since when it runs.
    pub(crate) fn facts(&self, pod: usize) -> Option<PodSummary> {
        self.life().manager.facts(&self.paid_requests[pod].spec.id)
    }

    /// Something happens.
    pub(crate) async fn step(&mut self) {
        let pod = usize::try_from(self.random.below(PODS)).unwrap();
        match self.random.below(16) {
            0..5 => self.pay_and_upload(pod).await,
            5..8 => self.plan_a_fault().await,
            8 => self.exit_one(pod).await,
            9 => {
                self.end().await;
                self.begin_again().await;
            }
            10 => self.restart_hyperd(|hyperd| hyperd.kill9()).await,
            11 => self.restart_hyperd(Hyperd::power_loss).await,
            12 if self.hyperd.runs() => {
                self.hyperd.terminate().await;
                self.hyperd.start_again().await;
            }
            13 if self.hyperd.runs() => {
                self.hyperd.hangup().await;
                self.hyperd.start_again().await;
            }
            14 => self.kill_a_machine(pod),
            _ => {}
        }
        // How soon the next thing happens is up to chance, as is what it is: in the middle of what this one has begun, or behind it.
        sleep(Duration::from_millis(self.random.below(4) * 40)).await;
        laws::nobody_is_served_as_another(self).await;
    }

    /// No more faults, and a daemon that runs. A crash that has begun may still come.
    pub(crate) async fn calm(&mut self) {
        if !self.hyperd.runs() {
            self.hyperd.start_again().await;
        }
        self.ask(Method::DELETE, "/double/fault", String::new()).await;
    }

    async fn restart_hyperd(&mut self, end: impl FnOnce(&mut Hyperd)) {
        end(&mut self.hyperd);
        // Up to chance: the daemon is away for a moment, or long enough to be missed.
        sleep(Duration::from_millis(self.random.below(3) * 50)).await;
        self.hyperd.start_again().await;
    }

    async fn plan_a_fault(&mut self) {
        let (method, call) = CALLS[usize::try_from(self.random.below(CALLS.len() as u64)).unwrap()];
        let fault = FAULTS[usize::try_from(self.random.below(FAULTS.len() as u64)).unwrap()];
        let nth = 1 + self.random.below(2);
        let plan = json!({ "method": method, "call": call, "nth": nth, "do": fault }).to_string();
        self.ask(Method::POST, "/double/fault", plan).await;
    }

    /// A container comes to its end.
    async fn exit_one(&mut self, pod: usize) {
        let list = self.rows("container", "cData").await;
        let id = self.paid_requests[pod].spec.id.as_str();
        if let Some(row) = list.iter().find(|row| row.contains(id) && row.ends_with(":running")) {
            let container = row.split(':').next().unwrap();
            self.ask(Method::POST, &format!("/container/kill?container={container}&signal=9"), String::new()).await;
        }
    }

    /// A machine dies.
    pub(crate) fn kill_a_machine(&self, pod: usize) {
        self.hyperd.kill_machine_if_any(self.paid_requests[pod].spec.id.as_str());
    }

    /// The rows of one of hyperd's lists; none while it is away.
    pub(crate) async fn rows(&self, item: &str, key: &str) -> Vec<String> {
        let body = self.ask(Method::GET, &format!("/list?item={item}"), String::new()).await;
        let list: Value = serde_json::from_slice(&body).unwrap_or_default();
        list[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Asks the daemon, which may be making a planned crash.
    async fn ask(&self, method: Method, target: &str, body: String) -> Bytes {
        let request = Request::builder().method(method).uri(target).header(header::HOST, "localhost");
        let Ok(answer) = hyperd::send(&self.hyperd.socket(), request.body(Full::from(body)).unwrap()).await else { return Bytes::new() };
        answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default()
    }

    pub(crate) async fn pay_and_upload(&mut self, pod: usize) {
        let paid = Paid {
            token: PayToken::parse(&token_text(&mut self.random)).unwrap(),
            binding: Binding::of("POST", "/pods", self.paid.len().to_string().as_bytes()),
            price: 1000 + self.random.below(1000),
            order: self.paid_requests[pod].clone(),
        };
        let life = self.life();
        let standing = life.payments.present(&paid.token, paid.binding, paid.price, &asset(), None).await.expect("a new token");
        let InvoiceStatus::Due { segment, .. } = standing else { panic!("a new token owes its price, but is {standing:?}") };
        let condition: [u8; 32] = std::array::from_fn(|_| self.random.byte());
        let credit = Credit { segment: segment.clone(), condition, amount: paid.price, slack: Slack::None };
        self.life().payments.credit(credit).await.expect("it is credited");
        self.send(&paid, segment);
        self.paid.push(paid);
    }

    /// The request of a client that doesn't wait.
    fn send(&self, paid: &Paid, segment: String) {
        let (manager, order) = (self.life().manager.clone(), paid.order.clone());
        self.life().tokio.spawn(async move { manager.upload(order, SECONDS.get(), &segment).await });
    }

    /// Sends the request of every payment that isn't used yet once more, as a patient client does; whether none was left.
    pub(crate) async fn send_again(&mut self) -> bool {
        let mut all_answered = true;
        for paid in self.paid.clone() {
            let asset = asset();
            let asked = self.life().payments.present(&paid.token, paid.binding, paid.price, &asset, None);
            let standing: Result<InvoiceStatus, PaymentsError> =
                timeout(PATIENCE, asked).await.expect("a request that is carried out comes to its end");
            match standing.expect("the token is known") {
                InvoiceStatus::Answered(_) => {}
                InvoiceStatus::Paid { segment, .. } => {
                    all_answered = false;
                    self.send(&paid, segment);
                }
                other => panic!("what was paid is gone: {other:?}"),
            }
        }
        all_answered
    }

    /// One more upload of every manifest that was ever uploaded.
    pub(crate) async fn upload_all_once_more(&mut self) {
        for pod in 0..self.paid_requests.len() {
            if self.paid.iter().any(|paid| Arc::ptr_eq(&paid.order, &self.paid_requests[pod])) {
                self.pay_and_upload(pod).await;
            }
        }
    }

    /// One more upload of every manifest whose pod has come to its end; whether there was one.
    pub(crate) async fn upload_what_has_stopped(&mut self) -> bool {
        let stopped =
            |order: &Arc<PodOrder>| matches!(self.life().manager.running(&order.spec.id), Err(Refusal::Stopped(_) | Refusal::TakenDown(_)));
        let again: Vec<usize> = (0..self.paid_requests.len()).filter(|pod| stopped(&self.paid_requests[*pod])).collect();
        for pod in &again {
            self.pay_and_upload(*pod).await;
        }
        !again.is_empty()
    }

    /// What was bought for a pod, in seconds.
    pub(crate) fn bought(&self, id: &PodId) -> i64 {
        let times = self.paid.iter().filter(|paid| paid.order.spec.id == *id).count();
        i64::try_from(times).unwrap() * i64::from(SECONDS.get())
    }
}

fn order(name: &str, image: &str, script: Option<&str>) -> PodOrder {
    let page = format!("echo {name} > /www/index.html && {}", script.unwrap_or("exec /bin/httpd -f -p 8080 -h /www"));
    let manifest = json!({ "manifest": {
        "name": name, "version": "1", "port": "8080",
        "containers": [{ "id": "app", "image": image, "command": ["/bin/sh", "-c", page] }],
    }});
    let upload = Upload::parse(manifest.to_string().as_bytes(), &Rules::default()).expect("it is valid");
    upload.order(&Rules::default(), "http://codius.example")
}

/// 16 bytes in base64.
fn token_text(random: &mut Random) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let text: String = (0..21).map(|_| char::from(ALPHABET[usize::from(random.byte() % 64)])).collect();
    text + "A"
}

/// SplitMix64: the same storm for the same seed.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}
