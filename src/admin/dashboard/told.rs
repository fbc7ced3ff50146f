//! What the host found out about itself and others, and what it was told.

use codiusd_control::html::{escaped, span};
use serde_json::{Value, json};

use super::{button, list, text};
use crate::admin::Desk;

/// Other hosts that are shown.
const PEERS_SHOWN: usize = 20;

/// The last self-test, step by step, at this time (in seconds since 1970).
pub(super) fn test(told: &Value, now: u64) -> String {
    if told.is_null() {
        return "<p class=\"soft\">This host doesn't test itself (<code>self_test</code>). <code>codiusd doctor</code> says what is missing.</p>"
            .to_owned();
    }
    let (class, word) = match told["selfTestSuccess"].as_bool() {
        _ if told["running"] == true => ("wait", "running"),
        Some(true) => ("good", "passed"),
        Some(false) => ("bad", "not passed"),
        None => ("wait", "not done yet"),
    };
    let age = told["at"].as_u64().map(|at| format!(" <span class=\"soft\">{} ago</span>", span(now.saturating_sub(at))));
    let again = button("Test now", "", "/self-test", &json!({}), "");
    let (well, others): (Vec<&Value>, Vec<&Value>) = list(&told["steps"]).iter().partition(|step| step["result"] == "ok");
    let rows: String = others.into_iter().map(step).collect();
    let well: Vec<String> = well.into_iter().map(|step| escaped(&text(&step["step"]))).collect();
    let well = if well.is_empty() { String::new() } else { format!("<p class=\"note\">Well: {}.</p>", well.join(", ")) };
    format!("<p><span class=\"pill {class}\">{word}</span>{} {again}</p><ul class=\"plain\">{rows}</ul>{well}", age.unwrap_or_default())
}

/// One that was not passed, or not done.
fn step(step: &Value) -> String {
    let class = if step["result"] == "skipped" { "soft" } else { "bad" };
    let note = |name: &str| step[name].as_str().map_or_else(String::new, |said| format!("<span class=\"note\">{}</span>", escaped(said)));
    let [name, result] = ["step", "result"].map(|key| escaped(&text(&step[key])));
    format!("<li><div>{name}{}{}</div><span class=\"{class}\">{result}</span></li>", note("what"), note("remedy"))
}

pub(super) fn bans(bans: &Value) -> String {
    let bans = list(&bans["bans"]);
    if bans.is_empty() {
        return "<p class=\"note\">Nothing is banned.</p>".to_owned();
    }
    let rows = bans.iter().map(|ban| {
        let (kind, subject) = (text(&ban["kind"]), text(&ban["subject"]));
        let name = if kind == "image" { "image" } else { "manifestHash" };
        let lift = button("Lift", "", "/unban", &json!({ name: subject }), &format!("Let {subject} be uploaded again?"));
        format!("<li><span><code>{}</code> <span class=\"soft\">{}</span></span> {lift}</li>", escaped(&subject), escaped(&kind))
    });
    format!("<ul class=\"plain\">{}</ul>", rows.collect::<String>())
}

pub(super) fn peers(desk: &Desk) -> String {
    let count = desk.peers.count();
    if count == 0 {
        let where_from = "Name one in <code>bootstrap_peers</code>, and others are found through it.";
        return format!("<p class=\"soft\">No other host is known. {where_from}</p>");
    }
    let mut some: Vec<String> = desk.peers.sample(PEERS_SHOWN).iter().map(ToString::to_string).collect();
    some.sort();
    let rows: String = some.iter().map(|peer| format!("<li><a href=\"{0}\">{0}</a></li>", escaped(peer))).collect();
    format!("<ul class=\"plain\">{rows}</ul><p class=\"note\">{} of {count}.</p>", some.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_test_or_a_stranger_says_is_text() {
        let evil = "<script>\"'";
        let ban = json!({ "bans": [{ "kind": evil, "subject": evil }] });
        let step = json!({ "step": evil, "result": evil, "what": evil, "remedy": evil });
        let tested = json!({ "selfTestSuccess": false, "at": evil, "steps": [step] });
        for html in [bans(&ban), test(&tested, 0)] {
            assert!(!html.contains("<script") && !html.contains("\"'"), "{html}");
        }
    }

    #[test]
    fn a_test_is_shown_with_what_to_do() {
        assert!(test(&Value::Null, 0).contains("doesn't test itself"));
        let well = json!({ "step": "name", "result": "ok", "what": "it is there" });
        let failed = json!({ "step": "wildcard", "result": "failed", "what": "it doesn't resolve", "remedy": "add *.host" });
        let told = test(&json!({ "selfTestSuccess": false, "running": false, "at": 100, "steps": [well, failed] }), 160);
        for part in ["not passed", "1 min ago", "Well: name.", "wildcard", "failed", "it doesn&#39;t resolve", "add *.host", "/self-test"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let running = test(&json!({ "running": true }), 0);
        assert!(running.contains("running") && !running.contains("ago"), "{running}");
    }
}
