//! The pods, as a table, those first whose time ends first; on a phone each is a block of its own.

use codiusd_control::html::{escaped, size, span};
use serde_json::{Value, json};

use super::{button, figure, list, text};
use crate::admin::Desk;

/// Pods that are shown: what a browser draws without pause. `/pods` has all.
const PODS_SHOWN: usize = 500;
const HEADS: [&str; 8] = ["Pod", "State", "Time left", "Memory", "Requests", "In", "Out", "Actions"];

pub(super) fn table(pods: &Value, desk: &Desk) -> String {
    let pods = list(&pods["pods"]);
    if pods.is_empty() {
        return "<p class=\"soft\">No pods. When somebody pays for one it is here; try it with <code>codiusd upload</code>.</p>".to_owned();
    }
    let heads: String = HEADS.iter().map(|head| format!("<th scope=\"col\" role=\"columnheader\">{head}</th>")).collect();
    let mut pods: Vec<&Value> = pods.iter().collect();
    pods.sort_by_key(|pod| pod["remaining"].as_u64().unwrap_or(u64::MAX));
    let rows: String = pods.iter().take(PODS_SHOWN).map(|pod| row(pod, desk)).collect();
    let more = pods.len().saturating_sub(PODS_SHOWN);
    let more = if more == 0 { String::new() } else { format!("<p class=\"note\">And {more} more: <a href=\"/pods\">/pods</a></p>") };
    // Roles are said: on a phone rows are drawn as blocks, which takes them away.
    format!(
        "<table role=\"table\"><thead role=\"rowgroup\"><tr role=\"row\">{heads}</tr></thead><tbody role=\"rowgroup\">{rows}</tbody></table>{more}"
    )
}

fn row(pod: &Value, desk: &Desk) -> String {
    let hash = text(&pod["manifestHash"]);
    let short: String = hash.chars().take(12).collect();
    let state = text(&pod["state"]);
    let class = match state.as_str() {
        "running" => "good",
        "exited" => "bad",
        _ => "wait",
    };
    let images: Vec<String> = list(&pod["images"]).iter().map(text).collect();
    let images = escaped(&images.iter().map(|image| shortened(image)).collect::<Vec<_>>().join(", "));
    let (link, named) = (escaped(&desk.url_of(&hash)), escaped(&hash));
    let known = |name: &str, word: fn(u64) -> String| pod[name].as_u64().map_or_else(|| "-".to_owned(), word);
    let errors = pod["errors"].as_u64().filter(|errors| *errors > 0);
    let errors = errors.map_or_else(String::new, |errors| format!("<span class=\"note bad\">{errors} failed</span>"));
    let memory = format!("{}<span class=\"note\">{}</span>", size(figure(&pod["memory"])), escaped(&text(&pod["machine"])));
    let cells = [
        format!("<span class=\"{class}\">{}</span>", escaped(&state)),
        known("remaining", span),
        memory,
        known("requests", |count| count.to_string()) + &errors,
        known("received", size),
        known("sent", size),
    ];
    let cells = HEADS[1..].iter().zip(cells).map(|(head, cell)| format!("<td role=\"cell\" data-name=\"{head}\"><div>{cell}</div></td>"));
    format!(
        "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\"><a href=\"{link}\" title=\"{named}\"><code>{short}</code></a><span class=\"note\">{images}</span></th>\
         {}<td role=\"cell\"><div class=\"row\">{}</div></td></tr>\n",
        cells.collect::<String>(),
        actions(&hash),
    )
}

fn actions(hash: &str) -> String {
    let stop = format!("Stop pod {hash}? Its time is lost to whoever has paid for it.");
    let ban = format!("Ban manifest {hash}, and stop it? Whoever uploads it again is refused.");
    button("Stop", "danger", "/pods/stop", &json!({ "manifestHash": hash }), &stop)
        + &button("Ban", "danger", "/ban", &json!({ "manifestHash": hash, "stop": true }), &ban)
}

/// An image without most of its digest.
fn shortened(image: &str) -> String {
    let (name, digest) = image.split_once("@sha256:").unwrap_or((image, ""));
    if digest.is_empty() { name.to_owned() } else { format!("{name}@{}", digest.chars().take(12).collect::<String>()) }
}
