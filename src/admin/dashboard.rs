//! The operator's page. It is drawn here from what `/status`, `/pods` and `/bans` say, and does without a script; its script has it drawn
//! again every few seconds, and its buttons use the same API as everybody else.
//!
//! | room | what is in it |
//! |---|---|
//! | `pods` | the table of pods |
//! | `told` | self-test, bans, other hosts |

mod pods;
mod told;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Response},
};
use codiusd_control::{
    html::{escaped, filled, put_headers, size, span},
    pay::{Asset, decimal},
};
use serde_json::{Value, json};

use super::{
    Desk,
    chart::Chart,
    history::{History, Sample},
    node, seen,
};

/// What is in double braces is filled in.
const PAGE: &str = include_str!("dashboard.html");

/// The page for browsers. Everybody else gets what the Node codiusd answered.
pub(super) async fn index(State(desk): State<Arc<Desk>>, headers: HeaderMap) -> Response {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    if !accepts.into_iter().any(|accept| accept.contains("text/html")) {
        return node::here().await.into_response();
    }
    let status = seen::status(State(desk.clone())).await.0;
    let (pods, bans) = (seen::pods(State(desk.clone())).await.0, seen::bans(State(desk.clone())).await.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let page = filled(PAGE, |field| match field {
        "about" => about(&status),
        "bans" => told::bans(&bans),
        "cards" => cards(&status),
        "charts" => charts(&desk.history.until_now(&desk.registry, &desk.orders), desk.orders.asset().as_ref()),
        "peers" => told::peers(&desk),
        "pods" => pods::table(&pods, &desk),
        "price" => price(&status),
        "state" => state(&status),
        "test" => told::test(&status["selfTest"], now),
        "uri" => escaped(&desk.public_uri),
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

/// What runs here.
fn about(status: &Value) -> String {
    let (version, runtime) = (escaped(&text(&status["version"])), escaped(&text(&status["runtime"])));
    format!("codiusd {version}, up for {}, runtime {runtime}", span(figure(&status["uptime"])))
}

/// The figures of the host.
fn cards(status: &Value) -> String {
    let (held, max) = (&status["held"], &status["max"]);
    let earnings = list(&status["earnings"]);
    let mut cards: Vec<String> = earnings.iter().map(earned).collect();
    if cards.is_empty() {
        cards.push(card("wide", "Earned", &format!("0 {}", text(&status["assetCode"])), "Nobody has paid for a pod yet.", ""));
    }
    let known = format!("of {} known", text(&status["pods"]["known"]));
    cards.push(card("", "Pods running", &text(&status["pods"]["running"]), &known, ""));
    cards.push(meter("Memory", figure(&held["memory"]), figure(&max["memory"]), size, ""));
    cards.push(meter("Processors", figure(&held["vcpus"]), figure(&max["vcpus"]), |count| count.to_string(), " virtual"));
    if let Some(disk) = max["disk"].as_u64() {
        // What runs has its disk already: it isn't held of what is left.
        cards.push(card("", "Disk left", &size(disk.saturating_sub(figure(&held["disk"]))), "for new pods", ""));
    }
    cards.concat()
}

/// What came in of an asset.
fn earned(sums: &Value) -> String {
    let asset = text(&sums["assetCode"]);
    let note = format!("{} received, {} forfeited", amount(sums, "received"), amount(sums, "forfeited"));
    card("wide", "Earned", &format!("{} {asset}", amount(sums, "earned")), &note, "")
}

fn card(class: &str, name: &str, value: &str, note: &str, more: &str) -> String {
    let (name, value, note) = (escaped(name), escaped(value), escaped(note));
    format!("<div class=\"card {class}\"><dt>{name}</dt><dd>{value}<small>{note}</small>{more}</dd></div>\n")
}

/// How much of something is held.
fn meter(name: &str, held: u64, max: u64, word: fn(u64) -> String, unit: &str) -> String {
    if max == 0 {
        return card("", name, &word(held), unit, "");
    }
    let (low, high) = (max / 4 * 3, max / 10 * 9);
    let bar =
        format!("<meter aria-label=\"{name} held\" max=\"{max}\" low=\"{low}\" high=\"{high}\" optimum=\"0\" value=\"{held}\"></meter>");
    card("", name, &word(held), &format!("of {}{unit}", word(max)), &bar)
}

/// A sum of an entry of `earnings`, exactly.
fn amount(sums: &Value, name: &str) -> String {
    let scale = sums["assetScale"].as_u64().and_then(|scale| scale.try_into().ok()).unwrap_or_default();
    sums[name].as_str().and_then(|units| units.parse().ok()).map_or_else(|| text(&Value::Null), |units| decimal(units, scale))
}

/// What a small pod costs.
fn price(status: &Value) -> String {
    let (cost, asset) = (escaped(&text(&status["costPerMonth"])), escaped(&text(&status["assetCode"])));
    format!("<b>{cost} {asset}</b> a month for a small pod. Another price counts from the next quote on.")
}

/// What the host did of late.
fn charts(samples: &[Sample], asset: Option<&Asset>) -> String {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return String::new() };
    let over = span(last.at.duration_since(first.at).as_secs());
    let level = |name, word: &dyn Fn(u64) -> String, read: &dyn Fn(&Sample) -> u64| {
        let most = samples.iter().map(read).max().unwrap_or_default();
        Chart { name, value: word(read(last)), most: word(most), over: &over, points: History::levels(samples, read) }.html()
    };
    let rate = |name, word: &dyn Fn(f64) -> String, read: &dyn Fn(&Sample) -> u64| {
        let points = History::rates(samples, read);
        let value = word(points.last().map_or(0.0, |(_, rate)| *rate));
        let most = word(points.iter().map(|(_, rate)| *rate).fold(0.0, f64::max));
        Chart { name, value, most, over: &over, points }.html()
    };
    let mut charts = String::new();
    if let Some(asset) = asset {
        let since = |sample: &Sample| sample.earned(asset).saturating_sub(first.earned(asset));
        charts += &level("Earned", &|units| format!("+{} {}", decimal(units.into(), asset.scale), asset.code), &since);
    }
    charts += &level("Pods running", &|count| count.to_string(), &|sample| sample.pods);
    charts += &level("Memory held", &size, &|sample| sample.memory);
    charts += &rate("Requests", &often, &|sample| sample.requests);
    charts += &rate("Failed requests", &often, &|sample| sample.failed);
    charts + &rate("Traffic", &|rate| format!("{:.1} KiB/s", rate / 1024.0), &|sample| sample.bytes)
}

/// How often something happens.
fn often(a_second: f64) -> String {
    if a_second < 1.0 { format!("{:.1} a minute", a_second * 60.0) } else { format!("{a_second:.1} a second") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_says_is_text() {
        let evil = "<script>\"'";
        let status = json!({
            "ready": evil,
            "assetCode": evil,
            "version": evil,
            "costPerMonth": evil,
            "runtime": evil,
            "earnings": [{ "assetCode": evil, "assetScale": evil, "earned": evil }],
        });
        for html in [state(&status), about(&status), cards(&status), price(&status), button("x", "", "/x", &json!({ "a": evil }), evil)] {
            assert!(!html.contains("<script") && !html.contains("\"'"), "{html}");
        }
    }

    #[test]
    fn what_is_seldom_is_counted_by_the_minute() {
        for (rate, text) in [(0.0, "0.0 a minute"), (0.05, "3.0 a minute"), (1.0, "1.0 a second"), (1234.56, "1234.6 a second")] {
            assert_eq!(often(rate), text);
        }
    }

    #[test]
    fn a_page_is_made_of_whatever_is_told() {
        for told in [json!(null), json!({}), json!([]), json!(true), json!({ "earnings": [null], "max": { "disk": 0 } })] {
            assert!([cards(&told), state(&told), about(&told), price(&told)].iter().all(|html| !html.is_empty()), "{told}");
        }
    }
}
