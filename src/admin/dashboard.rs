//! The operator's page, a view of [`HostStatus`], [`PodList`](codiusd_api_types::admin::PodList) and bans. It works without JavaScript; its
//! script fetches the page again every few seconds, and its buttons call the operator's API.
//!
//! | module | what is in it |
//! |---|---|
//! | `pods` | the table of pods |
//! | `panels` | self-test, bans, other hosts |

mod panels;
mod pods;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{Html, IntoResponse, Response},
};
use codiusd_api_types::admin::{Earnings, HostStatus};
use codiusd_control::{
    html::{accepts_html, filled, put_headers, size, span},
    money::{Asset, decimal},
};
use maud::{Markup, html};
use serde::Serialize;
use serde_json::json;

use super::{
    AdminState,
    chart::Chart,
    history::{History, Sample},
    node, queries,
};

/// The template; fields in double braces are replaced.
const PAGE: &str = include_str!("dashboard.html");

/// The page for browsers. Other clients get the Node codiusd's answer.
pub(super) async fn index(State(admin): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    if !accepts_html(&headers) {
        return node::here().await.into_response();
    }
    let status = queries::status_of(&admin).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let page = filled(PAGE, |field| match field {
        "about" => about(&status),
        "bans" => panels::bans(&queries::bans_of(&admin)),
        "cards" => cards(&status),
        "charts" => charts(&admin.history.until_now(&admin.registry, &admin.paid_requests), admin.paid_requests.asset().as_ref()),
        "peers" => panels::peers(&admin),
        "pods" => pods::table(&queries::pods_of(&admin).pods, &admin),
        "price" => price(&status),
        "state" => state(&status),
        "test" => panels::self_test(status.self_test.as_ref(), now),
        "uri" => html! { (admin.public_uri) },
        _ => Markup::default(),
    });
    let mut response = Html(page).into_response();
    put_headers(response.headers_mut(), PAGE);
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}

/// A button that posts `body` to `path`, after the confirmation `ask` if there is one.
fn button(label: &str, class: &str, path: &str, body: &impl Serialize, ask: &str) -> Markup {
    let body = serde_json::to_string(body).unwrap_or_default();
    html! {
        button type="button" class=(class) data-key={ (path) " " (body) } data-path=(path) data-body=(body) data-ask=(ask) { (label) }
    }
}

/// Whether uploads are accepted, and the button that changes it.
fn state(status: &HostStatus) -> Markup {
    if status.draining {
        return html! { span class="pill wait" { "draining" } " " (button("Accept uploads", "", "/undrain", &json!({}), "")) };
    }
    let is_ready = status.ready == "ready";
    let ask = "Refuse uploads and extensions? Running pods continue until they expire.";
    html! {
        span class={ "pill " (if is_ready { "good" } else { "bad" }) } { (if is_ready { "accepts uploads" } else { &status.ready }) }
        " " (button("Drain", "", "/drain", &json!({}), ask))
    }
}

fn about(status: &HostStatus) -> Markup {
    html! {
        "codiusd " (status.version) ", up for " (span(status.uptime)) ", runtime " (status.runtime) ", isolation " (status.isolation)
        @if let Some(note) = &status.isolation_note { " (" (note) ")" }
    }
}

/// The key figures of the host.
fn cards(status: &HostStatus) -> Markup {
    let (held, max) = (&status.held, &status.max);
    let asset = status.asset_code.as_deref().unwrap_or("unknown");
    html! {
        @for sums in &status.earnings { (earned(sums)) }
        @if status.earnings.is_empty() { (card("wide", "Earned", &format!("0 {asset}"), "No pod has been paid for yet.")) }
        (card("", "Pods running", &status.pods.running.to_string(), &format!("of {} known", status.pods.known)))
        (meter("Memory", held.memory, max.memory, size, ""))
        (meter("Processors", held.vcpus, max.vcpus, |count| count.to_string(), " virtual"))
        // The disk space of running pods is already reserved, so it isn't free.
        @if let Some(disk) = max.disk { (card("", "Disk free", &size(disk.saturating_sub(held.disk.unwrap_or_default())), "for new pods")) }
    }
}

/// Income in one asset.
fn earned(sums: &Earnings) -> Markup {
    let amount = |units: &str| units.parse().map_or_else(|_| units.to_owned(), |units| decimal(units, sums.asset_scale));
    let note = format!("{} received, {} forfeited", amount(&sums.received), amount(&sums.forfeited));
    card("wide", "Earned", &format!("{} {}", amount(&sums.earned), sums.asset_code), &note)
}

fn card(class: &str, name: &str, value: &str, note: &str) -> Markup {
    html! { div class={ "card " (class) } { dt { (name) } dd { (value) small { (note) } } } }
}

/// A meter of how much of a resource pods hold.
fn meter(name: &str, held: u64, max: u64, word: fn(u64) -> String, unit: &str) -> Markup {
    if max == 0 {
        return card("", name, &word(held), unit);
    }
    html! {
        div class="card " {
            dt { (name) }
            dd {
                (word(held)) small { "of " (word(max)) (unit) }
                meter aria-label={ (name) " held" } max=(max) low=(max / 4 * 3) high=(max / 10 * 9) optimum="0" value=(held) {}
            }
        }
    }
}

fn price(status: &HostStatus) -> Markup {
    html! {
        b { (status.cost_per_month) " " (status.asset_code.as_deref().unwrap_or("unknown")) }
        " a month for a small pod. A new price applies to new quotes."
    }
}

fn charts(samples: &[Sample], asset: Option<&Asset>) -> Markup {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Markup::default() };
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
    html! {
        @if let Some(asset) = asset {
            (level("Earned", &|units| format!("+{} {}", decimal(units.into(), asset.scale), asset.code), &|sample: &Sample| {
                sample.earned(asset).saturating_sub(first.earned(asset))
            }))
        }
        (level("Pods running", &|count| count.to_string(), &|sample| sample.pods))
        (level("Memory held", &size, &|sample| sample.memory))
        (rate("Requests", &frequency, &|sample| sample.requests))
        (rate("Failed requests", &frequency, &|sample| sample.failed))
        (rate("Traffic", &|rate| format!("{:.1} KiB/s", rate / 1024.0), &|sample| sample.bytes))
    }
}

/// A rate as text: rare events are shown per minute.
fn frequency(a_second: f64) -> String {
    if a_second < 1.0 { format!("{:.1} a minute", a_second * 60.0) } else { format!("{a_second:.1} a second") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_s_words_are_text() {
        let evil = "<script>\"'";
        let status = HostStatus {
            version: evil.to_owned(),
            uptime: 1,
            draining: false,
            runtime: evil.to_owned(),
            isolation: evil.to_owned(),
            isolation_note: Some(evil.to_owned()),
            ready: evil.to_owned(),
            asset_code: Some(evil.to_owned()),
            asset_scale: None,
            cost_per_month: evil.to_owned(),
            pods: Default::default(),
            held: Default::default(),
            max: Default::default(),
            earnings: vec![Earnings {
                asset_code: evil.to_owned(),
                asset_scale: 9,
                received: evil.to_owned(),
                earned: evil.to_owned(),
                forfeited: evil.to_owned(),
                credit: evil.to_owned(),
            }],
            bans: 0,
            peers: 0,
            self_test: None,
            log: evil.to_owned(),
        };
        for page in [state(&status), about(&status), cards(&status), price(&status), button("x", "", "/x", &evil, evil)] {
            let page = page.into_string();
            assert!(!page.contains("<script") && !page.contains("\"'"), "{page}");
        }
    }

    #[test]
    fn seldom_events_are_counted_by_the_minute() {
        for (rate, text) in [(0.0, "0.0 a minute"), (0.05, "3.0 a minute"), (1.0, "1.0 a second"), (1234.56, "1234.6 a second")] {
            assert_eq!(frequency(rate), text);
        }
    }
}
