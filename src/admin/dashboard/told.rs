//! What the host found out about itself and others, and what it was told.

use codiusd_control::html::escaped;
use serde_json::{Value, json};

use super::{button, list, text};
use crate::admin::Desk;

/// Other hosts that are shown.
const PEERS_SHOWN: usize = 20;
/// How deep an answer of another shape than is known is followed.
const DEPTH_MAX: usize = 4;

/// The last self-test, whatever is told of it.
pub(super) fn test(told: &Value) -> String {
    match told {
        Value::Null => "<p class=\"soft\">This host hasn't tested itself. <code>codiusd doctor</code> says what is missing.</p>".to_owned(),
        Value::String(word) => format!("<p><span class=\"pill wait\">{}</span></p>", escaped(word)),
        told if told["steps"].is_array() => steps(told),
        told => shown(told, DEPTH_MAX),
    }
}

fn steps(told: &Value) -> String {
    let verdict = match told["passed"].as_bool() {
        Some(true) => "<span class=\"pill good\">passed</span>",
        Some(false) => "<span class=\"pill bad\">not passed</span>",
        None => "<span class=\"pill wait\">running</span>",
    };
    let at = told["at"].as_str().map_or_else(String::new, |at| format!(" <span class=\"soft\">{}</span>", escaped(at)));
    let rows = list(&told["steps"]).iter().map(|step| {
        let (class, word) = if step["ok"] == true { ("good", "ok") } else { ("bad", "failed") };
        let took = step["ms"].as_u64().map_or_else(String::new, |ms| format!(" in {ms} ms"));
        let say =
            |name: &str| step[name].as_str().map_or_else(String::new, |said| format!("<span class=\"note\">{}</span>", escaped(said)));
        format!(
            "<li><div>{}{}{}</div><span class=\"{class}\">{word}{took}</span></li>",
            escaped(&text(&step["name"])),
            say("detail"),
            say("remedy")
        )
    });
    format!("<p>{verdict}{at}</p><ul class=\"plain\">{}</ul>", rows.collect::<String>())
}

/// Any answer as nested lists.
fn shown(value: &Value, depth: usize) -> String {
    match value {
        _ if depth == 0 => escaped(&value.to_string()),
        Value::Object(fields) => {
            let rows = fields.iter().map(|(name, value)| {
                format!("<li><span class=\"soft\">{}</span> <div>{}</div></li>", escaped(name), shown(value, depth - 1))
            });
            format!("<ul class=\"plain\">{}</ul>", rows.collect::<String>())
        }
        Value::Array(rows) => rows.iter().map(|row| shown(row, depth - 1)).collect(),
        other => escaped(&text(other)),
    }
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
        let nested = json!({ "deep": { "deep": { "deep": { "deep": [evil] } } }, evil: true });
        let tested =
            json!({ "passed": false, "at": evil, "steps": [{ "name": evil, "ok": false, "ms": 3, "detail": evil, "remedy": evil }] });
        for html in [bans(&ban), test(&nested), test(&tested), test(&json!(evil))] {
            assert!(!html.contains("<script") && !html.contains("\"'"), "{html}");
        }
    }

    #[test]
    fn a_test_is_shown_whatever_is_told_of_it() {
        for told in [json!({}), json!([]), json!(true), json!("running"), json!({ "passed": null, "steps": [null, 1, {}] })] {
            assert!(!test(&told).is_empty() || told == json!([]), "{told}");
        }
        assert!(test(&Value::Null).contains("hasn't tested itself"));
        let told = json!({ "passed": false, "steps": [{ "name": "dns", "ok": false, "ms": 12, "remedy": "add *.host" }] });
        for part in ["not passed", "failed in 12 ms", "add *.host"] {
            assert!(test(&told).contains(part), "{}", test(&told));
        }
    }
}
