//! The operator's page. It is drawn here from what `/status`, `/pods` and `/bans` say, and does without a script; its script has it drawn
//! again every few seconds, and its buttons use the same API as everybody else.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Response},
};
use codiusd_control::{
    html::{escaped, filled, put_headers, span},
    pay::{Asset, decimal},
};
use serde_json::{Value, json};

use super::{Desk, chart::Chart, history::Sample, node, seen};

/// What is in double braces is filled in.
const PAGE: &str = include_str!("dashboard.html");
const MIB: u64 = 1 << 20;
/// Other hosts that are shown.
const PEERS_SHOWN: usize = 20;
/// Pods that are shown: what a browser draws without pause. `/pods` has all.
const PODS_SHOWN: usize = 500;
/// How deep a self-test's answer is followed.
const DEPTH_MAX: usize = 4;

/// The page for browsers. Everybody else gets what the Node codiusd answered.
pub(super) async fn index(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    if !accepts.into_iter().any(|accept| accept.contains("text/html")) {
        return node::here().await.into_response();
    }
    let status = seen::status(State(desk.clone())).await.0;
    let (pods, bans) = (seen::pods(State(desk.clone())).await.0, seen::bans(State(desk.clone())).await.0);
    let page = filled(PAGE, |field| match field {
        "bans" => banned(&bans),
        "cards" => cards(&status),
        "charts" => charts(&desk.history.until_now(&desk.registry, &desk.orders), desk.orders.asset().as_ref()),
        "name" => "Codius host".to_owned(),
        "peers" => peers(&desk),
        "pods" => table(&pods, &desk),
        "state" => state(&status),
        "test" => test(&status["selfTest"]),
        "uri" => escaped(&desk.public_uri),
        "version" => escaped(&text(&status["version"])),
        _ => String::new(),
    });
    let mut response = Html(page).into_response();
    put_headers(response.headers_mut(), PAGE);
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// A value as a word, unescaped.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "not told".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn figure(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A button that says `body` to `path` when it is pressed, after `ask` if there is something to ask.
fn button(label: &str, class: &str, path: &str, body: &Value, ask: &str) -> String {
    let (body, ask) = (escaped(&body.to_string()), escaped(ask));
    let about = escaped(&format!("{path} {body}"));
    format!(
        "<button type=\"button\" class=\"{class}\" data-key=\"{about}\" data-path=\"{path}\" data-body=\"{body}\" data-ask=\"{ask}\">{label}</button>"
    )
}

/// Whether uploads are taken, and what changes that.
fn state(status: &Value) -> String {
    let ready = text(&status["ready"]);
    if status["draining"] == true {
        let button = button("Take uploads again", "", "/undrain", &json!({}), "");
        return format!("<span class=\"pill wait\">draining</span> {button}");
    }
    let (class, word) = if ready == "ready" { ("good", "takes uploads".to_owned()) } else { ("bad", escaped(&ready)) };
    let ask = "Take no more uploads and extensions? Pods run on until their time is over.";
    format!("<span class=\"pill {class}\">{word}</span> {}", button("Drain", "", "/drain", &json!({}), ask))
}

/// The figures of the host.
fn cards(status: &Value) -> String {
    let (held, max) = (&status["held"], &status["max"]);
    let asset = text(&status["assetCode"]);
    let mut cards = vec![
        card("Pods running", &text(&status["pods"]["running"]), &format!("of {} known", text(&status["pods"]["known"]))),
        meter("Memory", figure(&held["memory"]) / MIB, figure(&max["memory"]) / MIB, "MiB"),
        meter("Processors", figure(&held["vcpus"]), figure(&max["vcpus"]), "virtual"),
    ];
    if let Some(disk) = max["disk"].as_u64() {
        cards.push(meter("Disk", figure(&held["disk"]) / MIB, disk / MIB, "MiB"));
    }
    let earnings = list(&status["earnings"]);
    if earnings.is_empty() {
        cards.push(card("Earned", "0", &asset));
    }
    cards.extend(earnings.iter().map(|sums| {
        let sum = |name: &str| amount(sums, name);
        card(
            &format!("Earned, {}", text(&sums["assetCode"])),
            &sum("earned"),
            &format!("{} received, {} forfeited", sum("received"), sum("forfeited")),
        )
    }));
    cards.push(card("Price", &text(&status["costPerMonth"]), &format!("{asset} a month for a small pod")));
    cards.push(card("Other hosts", &text(&status["peers"]), "known"));
    cards.push(card("Up for", &span(figure(&status["uptime"])), &format!("pods by {}", text(&status["runtime"]))));
    cards.concat()
}

fn card(name: &str, value: &str, note: &str) -> String {
    let (name, value, note) = (escaped(name), escaped(value), escaped(note));
    format!("<div class=\"card\"><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>\n")
}

/// How much of something is held.
fn meter(name: &str, held: u64, max: u64, unit: &str) -> String {
    if max == 0 {
        return card(name, &held.to_string(), unit);
    }
    let (low, high) = (max / 4 * 3, max / 10 * 9);
    format!(
        "<div class=\"card\"><dt>{name}</dt><dd>{held}<small>of {max} {unit}</small>\
         <meter aria-label=\"{name} held\" max=\"{max}\" low=\"{low}\" high=\"{high}\" optimum=\"0\" value=\"{held}\"></meter></dd></div>\n"
    )
}

/// A sum of an entry of `earnings`, exactly.
fn amount(sums: &Value, name: &str) -> String {
    let scale = sums["assetScale"].as_u64().and_then(|scale| scale.try_into().ok()).unwrap_or_default();
    sums[name].as_str().and_then(|units| units.parse().ok()).map_or_else(|| text(&Value::Null), |units| decimal(units, scale))
}

/// What the host did of late.
#[expect(clippy::cast_precision_loss, reason = "a picture has fewer points than a double has digits")]
fn charts(samples: &[Sample], asset: Option<&Asset>) -> String {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return String::new() };
    let seconds = |sample: &Sample| sample.at.duration_since(first.at).as_secs_f64();
    let over = span(last.at.duration_since(first.at).as_secs());
    let chart = |name, value, read: &dyn Fn(&Sample) -> u64| {
        Chart { name, value, over: &over, points: samples.iter().map(|sample| (seconds(sample), read(sample) as f64)).collect() }.html()
    };
    // Counters are drawn as what came between two samples.
    let rate = |name, read: &dyn Fn(&Sample) -> u64, unit: &dyn Fn(f64) -> String| {
        let pairs = samples.iter().zip(samples.iter().skip(1));
        let points: Vec<_> = pairs
            .map(|(from, to)| {
                let passed = to.at.duration_since(from.at).as_secs_f64().max(1.0);
                (seconds(to), read(to).saturating_sub(read(from)) as f64 / passed)
            })
            .collect();
        let value = unit(points.last().map_or(0.0, |(_, rate)| *rate));
        Chart { name, value, over: &over, points }.html()
    };
    let mut charts = String::new();
    if let Some(asset) = asset {
        let since = |sample: &Sample| sample.earned(asset).saturating_sub(first.earned(asset));
        let value = format!("+{} {}", decimal(since(last).into(), asset.scale), asset.code);
        charts += &chart("Earned", value, &since);
    }
    charts += &chart("Pods running", last.pods.to_string(), &|sample| sample.pods);
    charts += &chart("Memory held", format!("{} MiB", last.memory / MIB), &|sample| sample.memory);
    charts += &rate("Requests", &|sample| sample.requests, &|rate| format!("{rate:.1} a second"));
    charts += &rate("Traffic", &|sample| sample.bytes, &|rate| format!("{:.1} KiB/s", rate / 1024.0));
    format!("{charts}<p class=\"note\">The last {over}.</p>")
}

fn table(pods: &Value, desk: &Desk) -> String {
    let pods = list(&pods["pods"]);
    if pods.is_empty() {
        return "<p class=\"soft\">No pods. When somebody pays for one it is here.</p>".to_owned();
    }
    let heads = ["Pod", "State", "Time left", "Memory", "Requests", "In", "Out", "Actions"];
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\" role=\"columnheader\">{head}</th>")).collect();
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
    let remaining = pod["remaining"].as_u64().map_or_else(|| "-".to_owned(), span);
    let count = |name: &str| pod[name].as_u64().map_or_else(|| "-".to_owned(), |count| count.to_string());
    let bytes = |name: &str| pod[name].as_u64().map_or_else(|| "-".to_owned(), size);
    let images: Vec<String> = list(&pod["images"]).iter().map(text).collect();
    let link = escaped(&desk.url_of(&hash));
    let named = escaped(&hash);
    let stop = format!("Stop pod {hash}? Its time is lost to whoever has paid for it.");
    let ban = format!("Ban manifest {hash}, and stop it? Whoever uploads it again is refused.");
    let body = json!({ "manifestHash": hash });
    let actions = [
        button("Stop", "danger", "/pods/stop", &body, &stop),
        button("Ban", "danger", "/ban", &json!({ "manifestHash": hash, "stop": true }), &ban),
    ];
    let errors = Some(count("errors")).filter(|errors| errors != "-" && errors != "0");
    let errors = errors.map_or_else(String::new, |errors| format!(" <span class=\"bad\">{errors} failed</span>"));
    format!(
        "<tr role=\"row\"><th scope=\"row\" role=\"rowheader\"><a href=\"{link}\" title=\"{named}\"><code>{short}</code></a><span class=\"note\">{}</span></th>\
         <td role=\"cell\" data-name=\"State\"><span class=\"{class}\">{state}</span></td><td role=\"cell\" data-name=\"Time left\">{remaining}</td>\
         <td role=\"cell\" data-name=\"Memory\">{} MiB<span class=\"note\">{}</span></td><td role=\"cell\" data-name=\"Requests\">{}{errors}</td>\
         <td role=\"cell\" data-name=\"In\">{}</td><td role=\"cell\" data-name=\"Out\">{}</td>\
         <td role=\"cell\"><div class=\"row\">{}</div></td></tr>\n",
        escaped(&images.iter().map(|image| shortened(image)).collect::<Vec<_>>().join(", ")),
        figure(&pod["memory"]) / MIB,
        escaped(&text(&pod["machine"])),
        count("requests"),
        bytes("received"),
        bytes("sent"),
        actions.concat(),
    )
}

/// An image without most of its digest.
fn shortened(image: &str) -> String {
    let (name, digest) = image.split_once("@sha256:").unwrap_or((image, ""));
    if digest.is_empty() { name.to_owned() } else { format!("{name}@{}", digest.chars().take(12).collect::<String>()) }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..UNITS.len() - 1).find(|step| bytes >> (10 * step) < 1024).unwrap_or(UNITS.len() - 1);
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    if step == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[step]) }
}

/// What the host found out about itself, whatever it is.
fn test(told: &Value) -> String {
    match told {
        Value::Null => "<p class=\"soft\">Not told: this host hasn't tested itself.</p>".to_owned(),
        told => shown(told, DEPTH_MAX),
    }
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

fn banned(bans: &Value) -> String {
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

fn peers(desk: &Desk) -> String {
    let count = desk.peers.count();
    if count == 0 {
        return "<p class=\"soft\">None is known (<code>bootstrap_peers</code>).</p>".to_owned();
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
    fn what_a_host_or_a_stranger_says_is_text() {
        let evil = "<script>\"'";
        let status = json!({ "ready": evil, "assetCode": evil, "version": evil, "costPerMonth": evil, "runtime": evil });
        let ban = json!({ "bans": [{ "kind": evil, "subject": evil }] });
        let nested = json!({ "steps": [{ "name": evil, "remedy": evil, "deep": { "deep": { "deep": [evil] } } }], evil: true });
        for html in [state(&status), cards(&status), banned(&ban), test(&nested), button("x", "", "/x", &json!({ "a": evil }), evil)] {
            assert!(!html.contains("<script") && !html.contains("\"'"), "{html}");
        }
    }

    #[test]
    fn a_page_is_made_of_whatever_is_told() {
        for told in [json!(null), json!({}), json!([]), json!(true), json!({ "success": false, "steps": [] })] {
            assert!(!(test(&told) + &cards(&told) + &state(&told) + &banned(&told)).is_empty());
        }
        assert!(test(&Value::Null).contains("hasn't tested itself"));
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_600_000, "1.5 MiB"), (u64::MAX, "16777215.9 TiB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
