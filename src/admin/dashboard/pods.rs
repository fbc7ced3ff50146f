//! The table of pods, the next to expire first; on a phone each row is a block of its own.

use codiusd_api_types::admin::{BanRequest, PodEntry, PodSelector};
use codiusd_control::html::{size, span};
use maud::{Markup, html};

use super::button;
use crate::admin::AdminState;

/// Maximum number of rows: as many as a browser renders without a pause. `/pods` lists all pods.
const ROWS_MAX: usize = 500;
const HEADS: [&str; 8] = ["Pod", "State", "Time left", "Memory", "Requests", "In", "Out", "Actions"];

pub(super) fn table(pods: &[PodEntry], admin: &AdminState) -> Markup {
    if pods.is_empty() {
        return html! { p class="soft" { "No pods. Paid pods appear here; try " code { "codiusd upload" } "." } };
    }
    let mut pods: Vec<&PodEntry> = pods.iter().collect();
    pods.sort_by_key(|pod| pod.remaining.unwrap_or(u64::MAX));
    let more = pods.len().saturating_sub(ROWS_MAX);
    // Roles are explicit: on a phone rows are displayed as blocks, which removes the implicit roles.
    html! {
        table role="table" {
            thead role="rowgroup" { tr role="row" { @for head in HEADS { th scope="col" role="columnheader" { (head) } } } }
            tbody role="rowgroup" { @for pod in pods.iter().take(ROWS_MAX) { (row(pod, admin)) } }
        }
        @if more > 0 { p class="note" { "And " (more) " more: " a href="/pods" { "/pods" } } }
    }
}

fn row(pod: &PodEntry, admin: &AdminState) -> Markup {
    let short: String = pod.manifest_hash.chars().take(12).collect();
    let class = match pod.state.as_str() {
        "running" => "good",
        "exited" | "crashed" => "bad",
        _ => "wait",
    };
    let images: Vec<String> = pod.images.iter().map(|image| shortened(image)).collect();
    let known = |value: Option<u64>, word: fn(u64) -> String| value.map_or_else(|| "-".to_owned(), word);
    let cell = |at: usize, content: Markup| html! { td role="cell" data-name=(HEADS[at]) { div { (content) } } };
    html! {
        tr role="row" {
            th scope="row" role="rowheader" {
                a href=(admin.url_of(&pod.manifest_hash)) title=(pod.manifest_hash) { code { (short) } }
                span class="note" { (images.join(", ")) }
            }
            (cell(1, html! { span class=(class) { (pod.state) } }))
            (cell(2, html! { (known(pod.remaining, span)) }))
            (cell(3, html! { (size(pod.memory)) span class="note" { (pod.machine) } }))
            (cell(4, html! {
                (known(pod.requests, |count| count.to_string()))
                @if let Some(errors) = pod.errors.filter(|errors| *errors > 0) { span class="note bad" { (errors) " failed" } }
            }))
            (cell(5, html! { (known(pod.received, size)) }))
            (cell(6, html! { (known(pod.sent, size)) }))
            td role="cell" { div class="row" { (actions(&pod.manifest_hash)) } }
        }
    }
}

fn actions(hash: &str) -> Markup {
    let (pod, manifest_hash) = (PodSelector { manifest_hash: Some(hash.to_owned()) }, Some(hash.to_owned()));
    let stop = format!("Stop pod {hash}? Its paid time is lost.");
    let ban = format!("Ban manifest {hash} and stop its pod? Further uploads of it are refused.");
    html! {
        (button("Stop", "danger", "/pods/stop", &pod, &stop))
        (button("Ban", "danger", "/ban", &BanRequest { manifest_hash, stop: true, ..BanRequest::default() }, &ban))
    }
}

/// An image with its digest shortened.
fn shortened(image: &str) -> String {
    let (name, digest) = image.split_once("@sha256:").unwrap_or((image, ""));
    if digest.is_empty() { name.to_owned() } else { format!("{name}@{}", digest.chars().take(12).collect::<String>()) }
}
