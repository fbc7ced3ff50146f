//! The report of a self-test.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use codiusd_api_types::admin::{SelfTest, SelfTestStep};
use codiusd_control::api::SelfTestStats;
use tokio::time::Instant;

use super::problem::Problem;

/// The steps, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Name,
    Wildcard,
    Connect,
    Certificate,
    Quote,
    Payer,
    Upload,
    Page,
    WebSocket,
    Log,
    Stop,
}

impl Step {
    pub(crate) const ALL: [Self; 11] = [
        Self::Name,
        Self::Wildcard,
        Self::Connect,
        Self::Certificate,
        Self::Quote,
        Self::Payer,
        Self::Upload,
        Self::Page,
        Self::WebSocket,
        Self::Log,
        Self::Stop,
    ];

    /// Its name, also in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Wildcard => "wildcard",
            Self::Connect => "connect",
            Self::Certificate => "certificate",
            Self::Quote => "quote",
            Self::Payer => "payer",
            Self::Upload => "upload",
            Self::Page => "page",
            Self::WebSocket => "websocket",
            Self::Log => "log",
            Self::Stop => "stop",
        }
    }
}

/// How a step went.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed(String),
    /// Skipped, with the reason why that isn't a failure.
    Skipped(&'static str),
    Failed(Problem),
}

/// One step.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) step: Step,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

/// The result of a test. Steps that depend on a failed one are left out.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) begun: Instant,
    /// When the test ended, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) took: Duration,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn of(begun: Instant, findings: Vec<Finding>) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { begun, at, took: begun.elapsed(), findings }
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    pub(crate) fn failures(&self) -> impl Iterator<Item = (Step, &Problem)> {
        self.findings.iter().filter_map(|finding| match &finding.outcome {
            Outcome::Failed(problem) => Some((finding.step, problem)),
            Outcome::Passed(_) | Outcome::Skipped(_) => None,
        })
    }

    pub(super) fn stats(&self, running: bool) -> SelfTestStats {
        let did = |step: Step| self.findings.iter().any(|finding| finding.step == step && matches!(finding.outcome, Outcome::Passed(_)));
        SelfTestStats {
            self_test_success: self.passed(),
            upload_success: did(Step::Upload),
            http_success: did(Step::Page),
            ws_success: did(Step::WebSocket),
            running,
        }
    }

    /// The report in the format of the operator's API.
    pub(crate) fn status(&self, running: bool) -> SelfTest {
        let milliseconds = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let steps = self.findings.iter().map(|finding| {
            let (result, what) = match &finding.outcome {
                Outcome::Passed(what) => ("ok", what.clone()),
                Outcome::Skipped(why) => ("skipped", (*why).to_owned()),
                Outcome::Failed(problem) => ("failed", problem.to_string()),
            };
            let problem = if let Outcome::Failed(problem) = &finding.outcome { Some(problem) } else { None };
            SelfTestStep {
                step: finding.step.word().to_owned(),
                result: result.to_owned(),
                problem: problem.map(|problem| problem.kind().to_owned()),
                what,
                remedy: problem.map(Problem::remedy),
                milliseconds: milliseconds(finding.took),
            }
        });
        SelfTest {
            self_test_success: Some(self.passed()),
            at: Some(self.at),
            milliseconds: Some(milliseconds(self.took)),
            steps: steps.collect(),
            running,
        }
    }
}
