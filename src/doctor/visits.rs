//! The host that runs as strangers find it: by its own test, if it can be asked for one, and else as far as anybody may come.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use url::Url;

use super::Finding;
use crate::{
    causes::in_full,
    client::{Host, HostError, Operator, OperatorError},
    self_test::{self, Outcome},
};

/// How long a host may take for its test: longer than all steps of it, and one before.
const TEST_WITHIN: Duration = Duration::from_secs(300);
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Of the host that has its files in this directory.
pub(super) async fn examine(root: &Path, public_uri: &Url, tests_itself: bool) -> Vec<Finding> {
    let check = "self-test";
    let asked = async { Operator::of(root)?.tell_within("/self-test", &json!({}), TEST_WITHIN).await };
    let problem = if tests_itself { asked.await.map(|report| steps(check, &report)) } else { Ok(None) };
    let without = match problem {
        Ok(Some(steps)) => return steps,
        Ok(None) => Finding::note(check, "the host doesn't test itself", "self_test = on (CODIUS_SELF_TEST), unless this is a lab"),
        Err(OperatorError::NoListener) => {
            let remedy = "admin_api = true (CODIUS_ADMIN_API), and it is done once more each time you ask the doctor";
            Finding::note(check, "not done: the host has no listener for its operator", remedy)
        }
        Err(error) => Finding::bad(check, in_full(&error), "see the host's log: journalctl -u codiusd"),
    };
    let mut found = vec![without];
    found.extend(visits(public_uri).await);
    found
}

/// What the host has found itself.
fn steps(check: &'static str, report: &Value) -> Option<Vec<Finding>> {
    let steps = report.get("steps")?.as_array()?.iter().map(|step| {
        let text = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default();
        let what = format!("{}: {}", text("step"), text("what"));
        match text("result") {
            "ok" => Finding::good(check, what),
            "skipped" => Finding::note(check, what, "nothing, if it is meant so"),
            _ => Finding::bad(check, what, text("remedy")),
        }
    });
    Some(steps.collect())
}

/// The way to the host and to its pods, and whether it is this one that answers there.
async fn visits(public_uri: &Url) -> Vec<Finding> {
    let check = "visitors";
    let steps = self_test::arrive(public_uri).await;
    let arrived = steps.iter().all(|step| !matches!(step.outcome, Outcome::Failed(_)));
    let mut found: Vec<Finding> = steps
        .into_iter()
        .map(|step| match step.outcome {
            Outcome::Passed(what) => Finding::good(check, what),
            Outcome::Skipped(why) => Finding::note(check, why, "https, unless this is a lab"),
            Outcome::Failed(problem) => Finding::bad(check, problem.to_string(), problem.remedy()),
        })
        .collect();
    if arrived {
        let mut pods = public_uri.clone();
        let named = public_uri.host_str().is_some_and(|host| pods.set_host(Some(&format!("{}.{host}", super::NO_POD))).is_ok());
        found.push(leads_here("the host's name", public_uri, "/version", "Codiusd (Rust)").await);
        if named {
            found.push(leads_here("names of pods", &pods, "/", "no pod with this name").await);
        }
    }
    found
}

async fn leads_here(what: &str, url: &Url, path: &str, mark: &str) -> Finding {
    let check = "visitors";
    let fetched: Result<_, HostError> = async { Host::visited(url.clone())?.fetch(path, ANSWER_MAX).await }.await;
    match fetched {
        Ok((_, body)) if String::from_utf8_lossy(&body).contains(mark) => Finding::good(check, format!("{what}: a codiusd answers")),
        Ok(_) => Finding::bad(
            check,
            format!("{what}: another program answers"),
            "the DNS record, or the proxy in front, leads to another program: let it lead here, and pass on everything as it comes",
        ),
        Err(error) => Finding::bad(check, format!("{what}: {}", in_full(&error)), "see the host's log, and that of the proxy in front"),
    }
}
