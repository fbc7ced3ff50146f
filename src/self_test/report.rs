//! What a self-test has found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use codiusd_control::api::SelfTestStats;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::problem::Problem;

/// What is looked at, in this order.
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

    /// In one word, also of metrics.
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
    /// Not done, and why that is all right.
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

/// All that was done. Steps that need one that failed aren't there.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) begun: Instant,
    /// The same for people, in seconds since 1970.
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

    /// For programs, `codiusd doctor` among them.
    pub(crate) fn json(&self) -> Value {
        let steps = self.findings.iter().map(|finding| {
            let mut step = match &finding.outcome {
                Outcome::Passed(what) => json!({ "step": finding.step.word(), "result": "ok", "what": what }),
                Outcome::Skipped(why) => json!({ "step": finding.step.word(), "result": "skipped", "what": why }),
                Outcome::Failed(problem) => json!({
                    "step": finding.step.word(),
                    "result": "failed",
                    "problem": problem.kind(),
                    "what": problem.to_string(),
                    "remedy": problem.remedy(),
                }),
            };
            step["milliseconds"] = u64::try_from(finding.took.as_millis()).unwrap_or(u64::MAX).into();
            step
        });
        let steps: Vec<Value> = steps.collect();
        json!({
            "selfTestSuccess": self.passed(),
            "at": self.at,
            "milliseconds": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "steps": steps,
        })
    }
}
