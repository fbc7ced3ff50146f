//! Checks the running host from a visitor's view: by its self-test if it can run one, otherwise by the steps that need no payment.

use std::{path::Path, time::Duration};

use serde_json::json;
use url::Url;

use codiusd_api_types::admin::{SelfTest, SelfTestStep};

use super::Finding;
use crate::{
    client::{Host, HostError, Operator, OperatorError},
    error_chain::in_full,
    self_test::{self, Outcome},
};

/// How long the self-test may take: longer than all its steps, and those of a test that is already running.
const TEST_WITHIN: Duration = Duration::from_secs(300);
/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Checks the host that has its files in this directory.
pub(super) async fn examine(root: &Path, public_uri: &Url, tests_itself: bool) -> Vec<Finding> {
    let check = "self-test";
    let asked = async { Operator::of(root)?.tell_within("/self-test", &json!({}), TEST_WITHIN).await };
    let found = if tests_itself { asked.await.map(Some) } else { Ok(None) };
    let without = match found {
        Ok(Some(report)) => return steps(check, &report),
        Ok(None) => Finding::note(check, "the self-test is off", "set self_test.enabled = true (CODIUS_SELF_TEST), unless this is a lab"),
        Err(OperatorError::NoListener) => {
            let remedy = "set admin.enabled = true (CODIUS_ADMIN_API): the doctor then repeats it";
            Finding::note(check, "not run: the admin listener is off", remedy)
        }
        Err(error) => Finding::bad(check, in_full(&error), "check the host's log: journalctl -u codiusd"),
    };
    let mut found = vec![without];
    found.extend(visits(public_uri).await);
    found
}

/// The findings of the host's self-test.
fn steps(check: &'static str, report: &SelfTest) -> Vec<Finding> {
    let finding = |step: &SelfTestStep| {
        let what = format!("{}: {}", step.step, step.what);
        match step.result.as_str() {
            "ok" => Finding::good(check, what),
            "skipped" => Finding::note(check, what, "nothing, if intended"),
            _ => Finding::bad(check, what, step.remedy.clone().unwrap_or_default()),
        }
    };
    report.steps.iter().map(finding).collect()
}

/// Checks names, connections and certificates of the host and its pods, and whether a codiusd answers there.
async fn visits(public_uri: &Url) -> Vec<Finding> {
    let check = "visitors";
    let steps = self_test::arrive(public_uri).await;
    let arrived = steps.iter().all(|step| !matches!(step.outcome, Outcome::Failed(_)));
    let mut found: Vec<Finding> = steps
        .into_iter()
        .map(|step| match step.outcome {
            Outcome::Passed(what) => Finding::good(check, what),
            Outcome::Skipped(why) => Finding::note(check, why, "use https, unless this is a lab"),
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
            "the DNS record or the proxy in front points to another program: point it here, and pass requests unchanged",
        ),
        Err(error) => Finding::bad(check, format!("{what}: {}", in_full(&error)), "check the host's log, and that of the proxy in front"),
    }
}
