//! What a test may ask of the double that hyperd doesn't do, and what it can ask about afterwards.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};

/// File with the calls, one event per line.
pub(super) fn calls_file(dir: &Path) -> PathBuf {
    dir.join("calls")
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing happens, and there is never an answer.
    Hang,
    /// It is done, but there is never an answer.
    HangAfter,
    /// Nothing happens; the connection is closed.
    DropBefore,
    /// It is done; then the connection is closed.
    DropAfter,
    /// Nothing happens; 500.
    Error500,
    /// It takes longer.
    Slow(Duration),
    /// The daemon dies instead.
    CrashBefore,
    /// It is done; then the daemon dies.
    CrashAfter,
    /// The daemon dies in the middle of it, some time after it has begun.
    CrashIn(Duration),
}

/// A fault, and the call that it waits for.
#[derive(Clone, Debug, Deserialize)]
struct Planned {
    call: String,
    method: Option<String>,
    #[serde(default = "first")]
    nth: u64,
    r#do: String,
}

fn first() -> u64 {
    1
}

impl Planned {
    fn fault(&self) -> Result<Fault, String> {
        let (name, ms) = self.r#do.split_once(':').unwrap_or((&self.r#do, "0"));
        let ms = Duration::from_millis(ms.parse().map_err(|error| format!("{}: {error}", self.r#do))?);
        Ok(match name {
            "hang" => Fault::Hang,
            "hang-after" => Fault::HangAfter,
            "drop-before" => Fault::DropBefore,
            "drop-after" => Fault::DropAfter,
            "error-500" => Fault::Error500,
            "slow-ms" => Fault::Slow(ms),
            "crash-before" => Fault::CrashBefore,
            "crash-after" => Fault::CrashAfter,
            "crash-in-ms" => Fault::CrashIn(ms),
            _ => return Err(format!("there is no fault {name}")),
        })
    }
}

/// What is planned, and what has been called.
#[derive(Debug)]
pub(super) struct Faults {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    planned: Vec<Planned>,
    delete_of_stalled_crashes: bool,
    boot: Duration,
    calls: Vec<Value>,
    /// Number of the first of `calls`; those before were made to earlier daemons.
    first: usize,
    file: PathBuf,
}

impl Faults {
    /// None planned yet.
    pub(super) fn new(dir: &Path, boot: Duration) -> Self {
        let file = calls_file(dir);
        let first = std::fs::read_to_string(&file).map(|text| calls(&text).len()).unwrap_or_default();
        Self { state: Mutex::new(State { planned: Vec::new(), delete_of_stalled_crashes: false, boot, calls: Vec::new(), first, file }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a fault, or turns a switch.
    pub(super) fn plan(&self, wish: Value) -> Result<(), String> {
        if let Some(on) = wish.get("delete-of-stalled-crashes").and_then(Value::as_bool) {
            self.state().delete_of_stalled_crashes = on;
            return Ok(());
        }
        if let Some(ms) = wish.get("boot-ms").and_then(Value::as_u64) {
            self.state().boot = Duration::from_millis(ms);
            return Ok(());
        }
        let planned: Planned = serde_json::from_value(wish).map_err(|error| error.to_string())?;
        planned.fault()?;
        self.state().planned.push(planned);
        Ok(())
    }

    /// Forgets all that is planned.
    pub(super) fn clear(&self) {
        self.state().planned.clear();
    }

    /// How long machines take to boot.
    pub(super) fn boot(&self) -> Duration {
        self.state().boot
    }

    /// Whether hyperd dies when a pod is deleted whose output nobody reads.
    pub(super) fn delete_of_stalled_crashes(&self) -> bool {
        self.state().delete_of_stalled_crashes
    }

    /// A call has come: its number, and what is to go wrong with it.
    pub(super) fn called(&self, method: &str, target: &str, path: &str) -> (usize, Option<Fault>) {
        let mut state = self.state();
        let number = state.first + state.calls.len();
        state.calls.push(json!({ "method": method, "target": target, "status": null }));
        state.write(&json!({ "call": number, "method": method, "target": target }));
        let mut due = None;
        for planned in &mut state.planned {
            if planned.call == path && planned.method.as_ref().is_none_or(|wanted| wanted == method) {
                planned.nth -= 1;
                if planned.nth == 0 {
                    due = due.or_else(|| planned.fault().ok());
                }
            }
        }
        state.planned.retain(|planned| planned.nth > 0);
        (number, due)
    }

    /// A call has been answered.
    pub(super) fn answered(&self, number: usize, status: u16) {
        let mut state = self.state();
        let index = number - state.first;
        state.calls[index]["status"] = json!(status);
        state.write(&json!({ "answer": number, "status": status }));
    }

    /// All calls to this daemon.
    pub(super) fn calls(&self) -> Value {
        json!(self.state().calls)
    }
}

impl State {
    fn write(&self, event: &Value) {
        let written = File::options().create(true).append(true).open(&self.file).and_then(|mut file| writeln!(file, "{event}"));
        if let Err(error) = written {
            eprintln!("hyperd: {}: {error}", self.file.display());
        }
    }
}

/// Method, target and status, if it was answered, of each call in a file.
pub(super) fn calls(text: &str) -> Vec<(String, String, Option<u16>)> {
    let mut calls = Vec::new();
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let word = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |key: &str| event.get(key).and_then(Value::as_u64);
        match number("answer").and_then(|number| calls.get_mut(usize::try_from(number).ok()?)) {
            Some((_, _, status)) => *status = number("status").and_then(|status| u16::try_from(status).ok()),
            None => calls.push((word("method"), word("target"), None)),
        }
    }
    calls
}
