//! Pages of the control plane: the host's own, and errors for browsers.

use std::{num::NonZeroU32, sync::Arc};

use axum::{
    extract::State,
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};

use codiusd_runtime::Isolation;
use maud::{Markup, PreEscaped, html};

use super::{
    Api,
    info::{self, Info, Machine},
    request::BODY_MAX,
};
use crate::{
    html::{filled, put_headers, size, span},
    money::decimal,
};

/// The page at `/`; fields in double braces are filled in.
const INDEX: &str = include_str!("index.html");
const HOUR: NonZeroU32 = NonZeroU32::new(3600).unwrap();
/// Placeholder for an unknown value.
const UNKNOWN: &str = "unknown";

/// Shows what this host is, what it costs, and how to upload
#[utoipa::path(get, path = "/", tag = "host", responses((status = 200, description = "HTML", content_type = "text/html", body = String)))]
pub(super) async fn index(State(api): State<Arc<Api>>) -> Response {
    let info = info::facts(&api).await;
    let page = filled(INDEX, |field| shown(&api, &info, field));
    let mut response = Html(page).into_response();
    put_headers(response.headers_mut(), INDEX);
    response
}

/// An error as a page.
pub(super) fn error(status: StatusCode, message: &str) -> String {
    const STYLE: &str = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;overflow-wrap:anywhere}";
    let title = status.canonical_reason().unwrap_or("Error");
    let page = html! {
        (PreEscaped("<!doctype html>"))
        html lang="en" {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width";
            meta name="color-scheme" content="light dark";
            title { (status.as_u16()) " " (title) }
            style { (PreEscaped(STYLE)) }
            h1 { (title) }
            p { (message) }
            p { small { (status.as_u16()) } " " a href="/" { "About this host" } }
        }
    };
    page.into_string() + "\n"
}

/// A field of the page.
fn shown(api: &Api, info: &Info, field: &str) -> Markup {
    let text = match field {
        "acceptingUploads" => return pill(info),
        "closed" => return closed(info),
        "machines" => return html! { @for machine in &info.machines { (card(api, machine)) } },
        "apart" => isolation(info.isolation).to_owned(),
        "authority" => scheme_and_authority(&info.uri).1.to_owned(),
        "avgLoad" => known(info.avg_load.map(|load| load.to_string())),
        "containers" => api.config.rules.containers_max.to_string(),
        "costPerMonth" => api.config.cost_per_month.to_string(),
        "currency" => known(info.currency.clone()),
        "duration" => span(api.config.duration_max.get().into()),
        "fullMem" => yes_or_no(info.full_mem),
        "isolation" => info.isolation.to_string(),
        "memory" => size(info.server_free_memory),
        "numPeers" => info.num_peers.to_string(),
        "runningContracts" => known(info.running_contracts.map(|count| count.to_string())),
        "runtime" => info.runtime.to_owned(),
        "scheme" => scheme_and_authority(&info.uri).0.to_owned(),
        "selfTestSuccess" => match info.self_test_success {
            Some(true) => "passed".to_owned(),
            Some(false) => "failed".to_owned(),
            None => "not run".to_owned(),
        },
        "serverUptime" => known(uptime(info)),
        "serviceUptime" => span(info.service_uptime),
        "upload" => size(u64::try_from(BODY_MAX).unwrap_or(u64::MAX)),
        "uri" => info.uri.clone(),
        _ => String::new(),
    };
    html! { (text) }
}

fn known(text: Option<String>) -> String {
    text.unwrap_or_else(|| UNKNOWN.to_owned())
}

/// Whether the host accepts uploads now.
fn pill(info: &Info) -> Markup {
    let (class, words) = if info.accepting_uploads { ("good", "Accepts uploads") } else { ("wait", "Accepts no uploads now") };
    html! { span class={ "pill " (class) } { (words) } }
}

/// Why uploads are refused.
fn closed(info: &Info) -> Markup {
    let why = match (info.accepting_uploads, info.full_mem) {
        (true, _) => return Markup::default(),
        (false, true) => "This host is full. Capacity is free again when a pod expires.",
        (false, false) if info.self_test_success == Some(false) => {
            "This host has not passed its self-test yet. Try again in a few minutes."
        }
        (false, false) => "This host accepts no uploads now. Running pods continue.",
    };
    html! { p class="wait" { (why) " Other hosts it knows: " a href="/peers" { "/peers" } "." } }
}

/// What isolates pods, for people.
fn isolation(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::SharedKernel => "A sandbox for each container, on the machine's own kernel",
        Isolation::VirtualMachine => "A virtual machine for each pod",
        Isolation::Emulated => "No isolation: test host, its virtual machines are emulated",
        Isolation::None => "No isolation: test host, nothing is run",
    }
}

fn scheme_and_authority(uri: &str) -> (&str, &str) {
    let (scheme, authority) = uri.split_once("://").unwrap_or(("https", uri));
    (scheme, authority.trim_end_matches('/'))
}

/// The resources and price of a pod size.
fn card(api: &Api, machine: &Machine) -> Markup {
    let code = api.paid_requests.asset().map_or_else(String::new, |asset| asset.code + " ");
    let monthly = api.config.rules.machines.get(&machine.name).map(|size| api.config.cost_per_month.times(size.price).to_string());
    let monthly = monthly.as_deref().unwrap_or(UNKNOWN);
    // Without an account the price in its asset is unknown.
    let hourly = api.paid_requests.quote(&machine.name, HOUR).ok().map(|quote| decimal(quote.price.into(), quote.asset.scale));
    let processors = if machine.vcpus == 1 { "1 processor".to_owned() } else { format!("{} processors", machine.vcpus) };
    html! {
        li class="card" {
            h3 { (machine.name) }
            p class="price" { (monthly) " " small { (code) "a month" } }
            @if let Some(hourly) = hourly { p class="note" { (hourly) " " (code) "an hour" } }
            ul class="what" { li { (processors) } li { (size(machine.memory)) " memory" } li { (size(machine.disk)) " disk" } }
        }
    }
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn uptime(info: &Info) -> Option<String> {
    let whole = info.server_uptime?.trunc().to_string();
    whole.parse().ok().map(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_address_is_below_the_hosts() {
        for (uri, parts) in [
            ("https://codius.example.com", ("https", "codius.example.com")),
            ("http://localhost:3000/", ("http", "localhost:3000")),
            ("codius.example.com", ("https", "codius.example.com")),
        ] {
            assert_eq!(scheme_and_authority(uri), parts);
        }
    }
}
