//! Self-test, bans and other hosts.

use codiusd_api_types::admin::{BanList, BanRequest, SelfTest, SelfTestStep};
use codiusd_control::html::span;
use maud::{Markup, html};
use serde_json::json;

use super::button;
use crate::admin::AdminState;

/// Maximum number of other hosts listed.
const PEERS_SHOWN: usize = 20;

/// The last self-test, step by step, at this time (in seconds since 1970).
pub(super) fn self_test(test: Option<&SelfTest>, now: u64) -> Markup {
    let Some(test) = test else {
        return html! {
            p class="soft" { "The self-test is off (" code { "self_test.enabled" } "). " code { "codiusd doctor" } " checks this machine." }
        };
    };
    let (class, word) = match test.self_test_success {
        _ if test.running => ("wait", "running"),
        Some(true) => ("good", "passed"),
        Some(false) => ("bad", "failed"),
        None => ("wait", "not run yet"),
    };
    let (passed, others): (Vec<&SelfTestStep>, Vec<&SelfTestStep>) = test.steps.iter().partition(|step| step.result == "ok");
    let passed: Vec<&str> = passed.iter().map(|step| step.step.as_str()).collect();
    html! {
        p {
            span class={ "pill " (class) } { (word) }
            @if let Some(at) = test.at { " " span class="soft" { (span(now.saturating_sub(at))) " ago" } }
            " " (button("Test now", "", "/self-test", &json!({}), ""))
        }
        ul class="plain" { @for step in others { (failed(step)) } }
        @if !passed.is_empty() { p class="note" { "Passed: " (passed.join(", ")) "." } }
    }
}

/// A step that failed or was skipped.
fn failed(step: &SelfTestStep) -> Markup {
    html! {
        li {
            div {
                (step.step)
                span class="note" { (step.what) }
                @if let Some(remedy) = &step.remedy { span class="note" { (remedy) } }
            }
            span class=(if step.result == "skipped" { "soft" } else { "bad" }) { (step.result) }
        }
    }
}

pub(super) fn bans(bans: &BanList) -> Markup {
    if bans.bans.is_empty() {
        return html! { p class="note" { "No bans." } };
    }
    html! {
        ul class="plain" {
            @for ban in &bans.bans {
                @let subject = Some(ban.subject.clone());
                @let request = if ban.kind == "image" {
                    BanRequest { image: subject, ..BanRequest::default() }
                } else {
                    BanRequest { manifest_hash: subject, ..BanRequest::default() }
                };
                li {
                    span { code { (ban.subject) } " " span class="soft" { (ban.kind) } }
                    " " (button("Lift", "", "/unban", &request, &format!("Allow uploads of {} again?", ban.subject)))
                }
            }
        }
    }
}

pub(super) fn peers(admin: &AdminState) -> Markup {
    let count = admin.peers.count();
    if count == 0 {
        return html! {
            p class="soft" { "No other host is known. Name one in " code { "peers.bootstrap" } "; codiusd finds others through it." }
        };
    }
    let mut some: Vec<String> = admin.peers.sample(PEERS_SHOWN).iter().map(ToString::to_string).collect();
    some.sort();
    html! {
        ul class="plain" { @for peer in &some { li { a href=(peer) { (peer) } } } }
        p class="note" { (some.len()) " of " (count) "." }
    }
}

#[cfg(test)]
mod tests {
    use codiusd_api_types::admin::BanEntry;

    use super::*;

    fn step(name: &str, result: &str, what: &str, remedy: Option<&str>) -> SelfTestStep {
        let [step, result, what] = [name, result, what].map(str::to_owned);
        SelfTestStep { step, result, problem: None, what, remedy: remedy.map(str::to_owned), milliseconds: 1 }
    }

    #[test]
    fn words_of_strangers_are_text() {
        let evil = "<script>\"'";
        let ban = BanList { bans: vec![BanEntry { kind: evil.to_owned(), subject: evil.to_owned(), stop: true }] };
        let failed = SelfTest { self_test_success: Some(false), steps: vec![step(evil, evil, evil, Some(evil))], ..SelfTest::default() };
        for page in [bans(&ban), self_test(Some(&failed), 0)] {
            let page = page.into_string();
            assert!(!page.contains("<script") && !page.contains("\"'"), "{page}");
        }
    }

    #[test]
    fn a_test_is_shown_with_its_remedies() {
        assert!(self_test(None, 0).into_string().contains("self-test is off"));
        let steps = vec![step("name", "ok", "found", None), step("wildcard", "failed", "it doesn't resolve", Some("add *.host"))];
        let test = SelfTest { self_test_success: Some(false), at: Some(100), milliseconds: Some(1), steps, running: false };
        let shown = self_test(Some(&test), 160).into_string();
        for part in ["failed", "1 min ago", "Passed: name.", "wildcard", "it doesn't resolve", "add *.host", "/self-test"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let running = self_test(Some(&SelfTest { running: true, ..SelfTest::default() }), 0).into_string();
        assert!(running.contains("running") && !running.contains("ago"), "{running}");
    }
}
