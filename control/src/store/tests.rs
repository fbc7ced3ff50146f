use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use codiusd_supervisor::{Panicked, StateLock, isolated};
use jiff::Timestamp;

use super::*;
use crate::{
    pay::Asset,
    pods::{Marks, Order, Pod, PodRecord, Term},
};

/// The tables as a model: what the file should hold after some writes.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    payments: BTreeMap<String, (PaymentRow, Vec<CreditRow>)>,
    totals: Vec<(Asset, Totals)>,
}

/// Payments with their credits, and the totals: what a book is restored from.
pub(crate) type Stored = (Vec<(PaymentRow, Vec<CreditRow>)>, Vec<(Asset, Totals)>);

impl Rows {
    pub(crate) fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Payment(row) => {
                    self.payments.entry(row.segment.clone()).or_insert_with(|| (row.clone(), Vec::new())).0 = row.clone();
                }
                Write::Credit { segment, credit } => self.payments.get_mut(segment).unwrap().1.push(*credit),
                Write::ForgetPayment(segment) => drop(self.payments.remove(segment)),
                Write::Totals(asset, added) => {
                    if !self.totals.iter().any(|(known, _)| known == asset) {
                        self.totals.push((asset.clone(), Totals::default()));
                    }
                    let (_, sums) = self.totals.iter_mut().find(|(known, _)| known == asset).unwrap();
                    sums.received += added.received;
                    sums.earned += added.earned;
                    sums.forfeited += added.forfeited;
                }
                Write::Ban { .. } | Write::Cost { .. } | Write::Draining(_) | Write::Unban(_) => {}
                Write::ForgetMarks(_) | Write::Marks(..) => {}
                Write::ForgetPeer(_) | Write::ForgetPod(_) | Write::Peer(_) | Write::Pod(_) | Write::PodProgress(..) => {}
            }
        }
    }

    pub(crate) fn payments(&self) -> Stored {
        (self.payments.values().cloned().collect(), self.totals.clone())
    }
}

fn asset() -> Asset {
    Asset { code: "XRP".to_owned(), scale: 9 }
}

fn payment(segment: &str, state: PaymentState) -> PaymentRow {
    let expires_at = Timestamp::from_millisecond(1_234_567).unwrap();
    let token = [u8::try_from(segment.len()).unwrap(); 32];
    PaymentRow { segment: segment.to_owned(), token, binding: [2; 32], asset: asset(), price: 1000, state, expires_at }
}

fn record(pod: Pod) -> PodRecord {
    let spec = serde_json::json!({
        "id": "a".repeat(52), "machine": { "vcpus": 1, "memory_bytes": 512 }, // as it was written before machines had a disk
        "containers": [{ "name": "app", "image": "i", "command": null, "workdir": null, "env": [["SECRET", "hush"]] }],
    });
    let spec = serde_json::from_value(spec).unwrap();
    let manifest = r#"{"z":1,"machine":"medium","a":2}"#.into();
    let order = Order { spec, machine: "medium".to_owned(), manifest, port: Some(8080), debug: true };
    PodRecord { order, pod }
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("codius.db");
    (directory, path)
}

async fn commit(store: &Store, writes: Vec<Write>) -> Result<(), StoreFailed> {
    store.reserve().await?.send(writes).await
}

#[tokio::test]
async fn what_was_committed_is_read_back() {
    let (_directory, path) = fresh();
    let (store, empty) = Store::open(&path).unwrap();
    assert!(empty.payments.is_empty() && empty.pods.is_empty() && empty.totals.is_empty());
    let credit = CreditRow { condition: [7; 32], amount: 400 };
    let added = Totals { received: 400, earned: 300, forfeited: 1 };
    let pods = [
        Pod::Starting { segment: "open".to_owned(), seconds: 60, kept_seconds: 5 },
        Pod::Running { term: Term { expires_at: Timestamp::from_millisecond(99_999).unwrap(), bought_seconds: 42 } },
        Pod::Exited { seconds: 3, forget_at: Timestamp::from_millisecond(77_777).unwrap() },
    ];
    let rows = [
        payment("still open", PaymentState::Open),
        payment("in hand", PaymentState::Consuming),
        payment("used", PaymentState::Consumed { answer: "{}".to_owned() }),
    ];
    let mut writes: Vec<Write> = rows.iter().cloned().map(Write::Payment).collect();
    writes.push(Write::Credit { segment: "still open".to_owned(), credit });
    writes.extend([Write::Totals(asset(), added), Write::Totals(asset(), added)]);
    commit(&store, writes).await.unwrap();
    for pod in pods {
        commit(&store, vec![Write::Pod(Box::new(record(pod.clone())))]).await.unwrap();
        let (_second, snapshot) = Store::open(&path).unwrap();
        assert_eq!(snapshot.pods, [record(pod)]);
        assert_eq!(snapshot.totals, [(asset(), Totals { received: 800, earned: 600, forfeited: 2 })]);
        assert_eq!(snapshot.server_secret, empty.server_secret);
        for row in &rows {
            let credits = if row.segment == "still open" { vec![credit] } else { Vec::new() };
            assert!(snapshot.payments.contains(&(row.clone(), credits)), "{row:?}");
        }
    }
}

#[tokio::test]
async fn marks_outlive_their_pod_until_they_are_forgotten() {
    let (_directory, path) = fresh();
    let (store, _) = Store::open(&path).unwrap();
    let pod = record(Pod::Running { term: Term { expires_at: Timestamp::UNIX_EPOCH, bought_seconds: 42 } });
    let id = pod.order.spec.id.clone();
    let marks = |strikes| Marks { strikes, suspicions: 2, last: Timestamp::from_millisecond(77_777).unwrap(), crashed: Some(u64::MAX) };
    commit(&store, vec![Write::Pod(Box::new(pod)), Write::Marks(id.clone(), marks(0)), Write::Marks(id.clone(), marks(1))]).await.unwrap();
    commit(&store, vec![Write::ForgetPod(id.clone())]).await.unwrap();
    assert_eq!(Store::open(&path).unwrap().1.marks, [(id.clone(), marks(1))]);
    commit(&store, vec![Write::ForgetMarks(id)]).await.unwrap();
    assert!(Store::open(&path).unwrap().1.marks.is_empty());
}

#[tokio::test]
async fn forgetting_takes_everything_along() {
    let (_directory, path) = fresh();
    let (store, _) = Store::open(&path).unwrap();
    let credit = CreditRow { condition: [7; 32], amount: 400 };
    let pod = record(Pod::Running { term: Term { expires_at: Timestamp::UNIX_EPOCH, bought_seconds: 42 } });
    let id = pod.order.spec.id.clone();
    commit(
        &store,
        vec![
            Write::Payment(payment("x", PaymentState::Open)),
            Write::Credit { segment: "x".to_owned(), credit },
            Write::Pod(Box::new(pod)),
        ],
    )
    .await
    .unwrap();
    commit(&store, vec![Write::ForgetPayment("x".to_owned()), Write::ForgetPod(id)]).await.unwrap();
    drop(store);
    let connection = Connection::open(&path).unwrap();
    for table in ["payments", "credits", "pods", "manifests"] {
        let rows: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn nothing_is_written_once_a_panic_has_left_state_half_changed() {
    let (_directory, path) = fresh();
    let (store, _) = Store::open(&path).unwrap();
    commit(&store, vec![Write::Payment(payment("before", PaymentState::Open))]).await.unwrap();
    let state = StateLock::new("some state", store.supervisor(), ());
    let permit = store.reserve().await.unwrap();
    let whole = 1 + 1 == 2;
    let interrupted = isolated(async {
        let _locked = state.lock();
        assert!(!whole, "between two halves of a change");
    });
    assert_eq!(interrupted.await, Err(Panicked));
    assert!(!store.is_durable());
    let late = permit.send(vec![Write::Payment(payment("after", PaymentState::Open))]);
    assert_eq!(late.await, Err(StoreFailed), "a place in the queue is of no use");
    assert!(matches!(store.reserve().await, Err(StoreFailed)));
    drop(store);
    let rows = Store::open(&path).unwrap().1.payments;
    assert_eq!(rows.iter().map(|(row, _)| row.segment.as_str()).collect::<Vec<_>>(), ["before"]);
}

/// Which of the store's files hold the private value of `record`.
fn files_with_a_secret(directory: &Path) -> Vec<std::ffi::OsString> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let holds = |file: &fs::DirEntry| fs::read(file.path()).unwrap().windows(4).any(|bytes| bytes == b"hush");
    files.filter(holds).map(|file| file.file_name()).collect()
}

#[tokio::test]
async fn private_values_go_with_their_pod() {
    let (directory, path) = fresh();
    let (store, _) = Store::open(&path).unwrap();
    let pod = record(Pod::Running { term: Term { expires_at: Timestamp::UNIX_EPOCH, bought_seconds: 42 } });
    let forget = || vec![Write::ForgetPod(pod.order.spec.id.clone())];
    let gone = async |why: &str| {
        let until = Instant::now() + Duration::from_secs(10);
        while !files_with_a_secret(directory.path()).is_empty() {
            assert!(Instant::now() < until, "{why}: {:?}", files_with_a_secret(directory.path()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    commit(&store, vec![Write::Pod(Box::new(pod.clone()))]).await.unwrap();
    assert!(!files_with_a_secret(directory.path()).is_empty(), "it is looked for in the right place");
    commit(&store, forget()).await.unwrap();
    gone("soon").await;

    // Who reads the store delays it, and nothing else.
    commit(&store, vec![Write::Pod(Box::new(pod.clone()))]).await.unwrap();
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM pods").unwrap();
    commit(&store, forget()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let asked = Instant::now();
    store.barrier().await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(!files_with_a_secret(directory.path()).is_empty());
    reader.execute_batch("COMMIT").unwrap();
    gone("after the reader").await;

    // The writer's end doesn't wait; the other connection keeps SQLite from removing the log by itself.
    commit(&store, vec![Write::Pod(Box::new(pod.clone()))]).await.unwrap();
    commit(&store, forget()).await.unwrap();
    drop(store);
    gone("at the end").await;
}

#[test]
fn a_process_that_was_killed_leaves_no_private_values_to_the_next() {
    let (directory, path) = fresh();
    drop(Store::open(&path).unwrap());
    let killed = Connection::open(&path).unwrap();
    killed
        .execute_batch("PRAGMA secure_delete = ON; INSERT INTO manifests VALUES ('h', 'm', 'hush', 1, 1); DELETE FROM manifests")
        .unwrap();
    assert!(!files_with_a_secret(directory.path()).is_empty());
    let _store = Store::open(&path).unwrap();
    assert!(files_with_a_secret(directory.path()).is_empty());
}

#[tokio::test]
async fn a_commit_is_whole_or_not_at_all_and_its_failure_is_final() {
    let (_directory, path) = fresh();
    let (store, _) = Store::open(&path).unwrap();
    let mut failed = store.failure();
    // A credit of no payment breaks a foreign key.
    let stray = Write::Credit { segment: "nobody".to_owned(), credit: CreditRow { condition: [7; 32], amount: 1 } };
    let writes = vec![Write::Payment(payment("x", PaymentState::Open)), stray];
    assert_eq!(commit(&store, writes).await, Err(StoreFailed));
    assert!(*failed.wait_for(|failed| *failed).await.unwrap());
    assert_eq!(commit(&store, Vec::new()).await, Err(StoreFailed));
    assert!(Store::open(&path).unwrap().1.payments.is_empty());
}

#[test]
fn only_root_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, path) = fresh();
    let _store = Store::open(&path).unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let (_directory, path) = fresh();
    drop(Store::open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::Newer { .. })));
}
