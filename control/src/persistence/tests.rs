use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use codiusd_supervisor::{Panicked, StateLock, isolated};
use jiff::Timestamp;

use super::*;
use crate::{
    db::{Changes, DatabaseFailed},
    money::{InvoiceState, MoneyChange},
    pods::{Pod, PodChange, Term},
    workload::PodOrder,
};

fn asset() -> Asset {
    Asset { code: "XRP".to_owned(), scale: 9 }
}

fn payment(segment: &str, state: InvoiceState) -> InvoiceRow {
    let expires_at = Timestamp::from_millisecond(1_234_567).unwrap();
    let token = [u8::try_from(segment.len()).unwrap(); 32];
    InvoiceRow { segment: segment.to_owned(), token, binding: [2; 32], asset: asset(), price: 1000, state, expires_at }
}

fn record(pod: Pod) -> PodRecord {
    let spec = serde_json::json!({
        "id": "a".repeat(52), "machine": { "vcpus": 1, "memory_bytes": 512 }, // as it was written before machines had a disk
        "containers": [{ "name": "app", "image": "i", "command": null, "workdir": null, "env": [["SECRET", "hush"]] }],
    });
    let spec = serde_json::from_value(spec).unwrap();
    let manifest = r#"{"z":1,"machine":"medium","a":2}"#.into();
    let order = PodOrder { spec, machine: "medium".to_owned(), manifest, port: Some(8080), debug: true };
    PodRecord { order, pod }
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("codius.db");
    (directory, path)
}

fn open(path: &Path) -> Result<(Database, Snapshot), OpenError> {
    super::open(path, Supervisor::default())
}

async fn commit(database: &Database, changes: impl Into<Changes>) -> Result<(), DatabaseFailed> {
    database.reserve().await?.send(changes).await
}

#[tokio::test]
async fn what_was_committed_is_read_back() {
    let (_directory, path) = fresh();
    let (database, empty) = open(&path).unwrap();
    assert!(empty.invoices.is_empty() && empty.pods.is_empty() && empty.totals.is_empty());
    let credit = CreditRow { condition: [7; 32], amount: 400 };
    let added = Totals { received: 400, earned: 300, forfeited: 1 };
    let pods = [
        Pod::Starting { segment: "open".to_owned(), seconds: 60, kept_seconds: 5 },
        Pod::Running { term: Term { expires_at: Timestamp::from_millisecond(99_999).unwrap(), bought_seconds: 42 } },
        Pod::Exited { seconds: 3, forget_at: Timestamp::from_millisecond(77_777).unwrap() },
    ];
    let rows = [
        payment("still open", InvoiceState::Open),
        payment("in hand", InvoiceState::Consuming),
        payment("used", InvoiceState::Consumed { answer: "{}".to_owned() }),
    ];
    let mut writes: Vec<MoneyChange> = rows.iter().cloned().map(MoneyChange::Invoice).collect();
    writes.push(MoneyChange::Credit { segment: "still open".to_owned(), credit });
    writes.extend([MoneyChange::Totals(asset(), added), MoneyChange::Totals(asset(), added)]);
    commit(&database, writes).await.unwrap();
    for pod in pods {
        commit(&database, vec![PodChange::Put(Box::new(record(pod.clone())))]).await.unwrap();
        let (_second, snapshot) = open(&path).unwrap();
        assert_eq!(snapshot.pods, [record(pod)]);
        assert_eq!(snapshot.totals, [(asset(), Totals { received: 800, earned: 600, forfeited: 2 })]);
        assert_eq!(snapshot.server_secret, empty.server_secret);
        for row in &rows {
            let credits = if row.segment == "still open" { vec![credit] } else { Vec::new() };
            assert!(snapshot.invoices.contains(&(row.clone(), credits)), "{row:?}");
        }
    }
}

#[tokio::test]
async fn marks_outlive_their_pod_until_they_are_forgotten() {
    let (_directory, path) = fresh();
    let (database, _) = open(&path).unwrap();
    let pod = record(Pod::Running { term: Term { expires_at: Timestamp::UNIX_EPOCH, bought_seconds: 42 } });
    let id = pod.order.spec.id.clone();
    let marks =
        |strikes| CrashHistory { strikes, suspicions: 2, last: Timestamp::from_millisecond(77_777).unwrap(), crashed: Some(u64::MAX) };
    commit(
        &database,
        vec![PodChange::Put(Box::new(pod)), PodChange::CrashHistory(id.clone(), marks(0)), PodChange::CrashHistory(id.clone(), marks(1))],
    )
    .await
    .unwrap();
    commit(&database, vec![PodChange::Remove(id.clone())]).await.unwrap();
    assert_eq!(open(&path).unwrap().1.crash_histories, [(id.clone(), marks(1))]);
    commit(&database, vec![PodChange::RemoveCrashHistory(id)]).await.unwrap();
    assert!(open(&path).unwrap().1.crash_histories.is_empty());
}

#[tokio::test]
async fn forgetting_takes_everything_along() {
    let (_directory, path) = fresh();
    let (database, _) = open(&path).unwrap();
    let credit = CreditRow { condition: [7; 32], amount: 400 };
    let pod = record(Pod::Running { term: Term { expires_at: Timestamp::UNIX_EPOCH, bought_seconds: 42 } });
    let id = pod.order.spec.id.clone();
    commit(
        &database,
        Changes::from(vec![
            MoneyChange::Invoice(payment("x", InvoiceState::Open)),
            MoneyChange::Credit { segment: "x".to_owned(), credit },
        ])
        .and(PodChange::Put(Box::new(pod))),
    )
    .await
    .unwrap();
    commit(&database, Changes::from(MoneyChange::Remove("x".to_owned())).and(PodChange::Remove(id))).await.unwrap();
    drop(database);
    let connection = Connection::open(&path).unwrap();
    for table in ["invoices", "credits", "pods", "manifests"] {
        let rows: i64 = connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn nothing_is_written_once_a_panic_has_left_state_half_changed() {
    let (_directory, path) = fresh();
    let (database, _) = open(&path).unwrap();
    commit(&database, vec![MoneyChange::Invoice(payment("before", InvoiceState::Open))]).await.unwrap();
    let state = StateLock::new("some state", database.supervisor(), ());
    let permit = database.reserve().await.unwrap();
    let whole = 1 + 1 == 2;
    let interrupted = isolated(async {
        let _locked = state.lock();
        assert!(!whole, "between two halves of a change");
    });
    assert_eq!(interrupted.await, Err(Panicked));
    assert!(!database.is_durable());
    let late = permit.send(vec![MoneyChange::Invoice(payment("after", InvoiceState::Open))]);
    assert_eq!(late.await, Err(DatabaseFailed), "a place in the queue is of no use");
    assert!(matches!(database.reserve().await, Err(DatabaseFailed)));
    drop(database);
    let rows = open(&path).unwrap().1.invoices;
    assert_eq!(rows.iter().map(|(row, _)| row.segment.as_str()).collect::<Vec<_>>(), ["before"]);
}

/// The database files that contain the private value of `record`.
fn files_with_a_secret(directory: &Path) -> Vec<std::ffi::OsString> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let holds = |file: &fs::DirEntry| fs::read(file.path()).unwrap().windows(4).any(|bytes| bytes == b"hush");
    files.filter(holds).map(|file| file.file_name()).collect()
}

#[tokio::test]
async fn private_values_go_with_their_pod() {
    let (directory, path) = fresh();
    let (database, _) = open(&path).unwrap();
    let pod = record(Pod::Running { term: Term { expires_at: Timestamp::UNIX_EPOCH, bought_seconds: 42 } });
    let forget = || vec![PodChange::Remove(pod.order.spec.id.clone())];
    let gone = async |why: &str| {
        let until = Instant::now() + Duration::from_secs(10);
        while !files_with_a_secret(directory.path()).is_empty() {
            assert!(Instant::now() < until, "{why}: {:?}", files_with_a_secret(directory.path()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    commit(&database, vec![PodChange::Put(Box::new(pod.clone()))]).await.unwrap();
    assert!(!files_with_a_secret(directory.path()).is_empty(), "it is looked for in the right place");
    commit(&database, forget()).await.unwrap();
    gone("soon").await;

    // A reader of the database delays it, and nothing else does.
    let mut large = pod.clone();
    large.order.spec.id = "b".repeat(52).parse().unwrap();
    large.order.spec.containers[0].env.clear();
    large.order.manifest = format!(r#"{{"fill":"{}"}}"#, "x".repeat(1 << 16)).into();
    commit(&database, vec![PodChange::Put(Box::new(pod.clone())), PodChange::Put(Box::new(large))]).await.unwrap();
    let length = || fs::metadata(&path).unwrap().len();
    let before = length();
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM pods").unwrap();
    commit(&database, forget()).await.unwrap();
    // Once the writer has tried, the database has what the reader sees and nobody has changed since: the large pod.
    let until = Instant::now() + Duration::from_secs(10);
    while length() == before {
        assert!(Instant::now() < until, "waited for the writer to try to empty the log");
        let asked = Instant::now();
        database.barrier().await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
    assert!(!files_with_a_secret(directory.path()).is_empty());
    reader.execute_batch("COMMIT").unwrap();
    gone("after the reader").await;

    // The writer doesn't wait when it ends; the other connection keeps SQLite from removing the log when the writer's connection closes.
    commit(&database, vec![PodChange::Put(Box::new(pod.clone()))]).await.unwrap();
    commit(&database, forget()).await.unwrap();
    drop(database);
    gone("at the end").await;
}

#[test]
fn a_process_that_was_killed_leaves_no_private_values_to_the_next() {
    let (directory, path) = fresh();
    drop(open(&path).unwrap());
    let killed = Connection::open(&path).unwrap();
    killed
        .execute_batch("PRAGMA secure_delete = ON; INSERT INTO manifests VALUES ('h', 'm', 'hush', 1, 1); DELETE FROM manifests")
        .unwrap();
    assert!(!files_with_a_secret(directory.path()).is_empty());
    let _store = open(&path).unwrap();
    assert!(files_with_a_secret(directory.path()).is_empty());
}

#[tokio::test]
async fn a_commit_is_whole_or_not_at_all_and_its_failure_is_final() {
    let (_directory, path) = fresh();
    let (database, _) = open(&path).unwrap();
    let mut failed = database.failure();
    // A credit without an invoice violates a foreign key.
    let stray = MoneyChange::Credit { segment: "nobody".to_owned(), credit: CreditRow { condition: [7; 32], amount: 1 } };
    let writes = vec![MoneyChange::Invoice(payment("x", InvoiceState::Open)), stray];
    assert_eq!(commit(&database, writes).await, Err(DatabaseFailed));
    assert!(*failed.wait_for(|failed| *failed).await.unwrap());
    assert_eq!(commit(&database, Changes::default()).await, Err(DatabaseFailed));
    assert!(open(&path).unwrap().1.invoices.is_empty());
}

#[test]
fn only_root_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, path) = fresh();
    let _store = open(&path).unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let (_directory, path) = fresh();
    drop(open(&path).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 1000).unwrap();
    assert!(matches!(open(&path), Err(OpenError::Newer { .. })));
}

/// Tables of earlier versions had other names.
#[test]
fn a_database_of_an_earlier_version_keeps_what_it_holds() {
    let (_directory, path) = fresh();
    let old = Connection::open(&path).unwrap();
    for migration in &schema::MIGRATIONS[..5] {
        old.execute_batch(migration).unwrap();
    }
    old.pragma_update(None, "user_version", 5).unwrap();
    old.execute_batch(
        "INSERT INTO payments VALUES ('x', zeroblob(32), zeroblob(32), 'XRP', 9, 10, 'open', NULL, 99);
         INSERT INTO credits VALUES ('x', zeroblob(32), 4);
         INSERT INTO marks VALUES ('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 1, 2, 3, NULL);
         INSERT INTO house VALUES ('draining', 'true');",
    )
    .unwrap();
    drop(old);
    let (database, snapshot) = open(&path).unwrap();
    assert_eq!((snapshot.invoices[0].0.segment.as_str(), snapshot.invoices[0].1[0].amount), ("x", 4));
    assert_eq!((snapshot.crash_histories[0].1.strikes, snapshot.operator.draining), (1, true));
    drop(database);
    let renamed = Connection::open(&path).unwrap();
    renamed.execute_batch("PRAGMA foreign_keys = ON; DELETE FROM invoices").unwrap();
    let credits: i64 = renamed.query_row("SELECT count(*) FROM credits", [], |row| row.get(0)).unwrap();
    assert_eq!(credits, 0, "credits go with their invoice");
}
