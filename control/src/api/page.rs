//! The pages of the office: what this host is, and errors for those who look at them in a browser.

use std::{num::NonZeroU32, sync::Arc};

use axum::{
    extract::State,
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};

use super::{
    Api,
    info::{self, Info, Machine},
    request::BODY_MAX,
};
use crate::{
    html::{escaped, filled, put_headers, size, span},
    pay::decimal,
};

/// The page at `/`; what is in double braces is filled in.
const INDEX: &str = include_str!("index.html");
const HOUR: NonZeroU32 = NonZeroU32::new(3600).unwrap();
/// What is shown of something that can't be said.
const UNKNOWN: &str = "not told";

/// What this host is, what it costs, and how to upload
#[utoipa::path(get, path = "/", tag = "host", responses((status = 200, description = "A page for people", content_type = "text/html", body = String)))]
pub(super) async fn index(State(api): State<Arc<Api>>) -> Response {
    let info = info::facts(&api).await;
    let page = filled(INDEX, |field| shown(&api, &info, field));
    let mut response = Html(page).into_response();
    put_headers(response.headers_mut(), INDEX);
    response
}

/// An error as a page.
pub(super) fn error(status: StatusCode, message: &str) -> String {
    let (code, title, message) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"), escaped(message));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{code} {title}</title>\
         <style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;overflow-wrap:anywhere}}\
         </style><h1>{title}</h1><p>{message}</p><p><small>{code}</small> <a href=\"/\">About this host</a></p></html>\n"
    )
}

/// A field of the page, as HTML.
fn shown(api: &Api, info: &Info, field: &str) -> String {
    let word = |text: Option<String>| escaped(&text.unwrap_or_else(|| UNKNOWN.to_owned()));
    match field {
        "acceptingUploads" => pill(info),
        "apart" => apart(info.isolation).to_owned(),
        "authority" => escaped(scheme_and_authority(&info.uri).1),
        "avgLoad" => word(info.avg_load.map(|load| load.to_string())),
        "closed" => closed(info),
        "containers" => api.config.rules.containers_max.to_string(),
        "costPerMonth" => api.config.cost_per_month.to_string(),
        "currency" => word(info.currency.clone()),
        "duration" => span(api.config.duration_max.get().into()),
        "fullMem" => yes_or_no(info.full_mem),
        "isolation" => escaped(info.isolation),
        "machines" => info.machines.iter().map(|machine| card(api, machine)).collect(),
        "memory" => size(info.server_free_memory),
        "numPeers" => info.num_peers.to_string(),
        "runningContracts" => word(info.running_contracts.map(|count| count.to_string())),
        "runtime" => escaped(info.runtime),
        "scheme" => escaped(scheme_and_authority(&info.uri).0),
        "selfTestSuccess" => word(
            info.self_test_success
                .map(|passed| if passed { "passed" } else { "not passed" }.to_owned())
                .or_else(|| Some("not run".to_owned())),
        ),
        "serverUptime" => word(uptime(info)),
        "serviceUptime" => span(info.service_uptime),
        "upload" => size(u64::try_from(BODY_MAX).unwrap_or(u64::MAX)),
        "uri" => escaped(&info.uri),
        _ => String::new(),
    }
}

/// Whether it is worth writing a manifest now.
fn pill(info: &Info) -> String {
    let (class, words) = if info.accepting_uploads { ("good", "Takes uploads") } else { ("wait", "Takes no uploads now") };
    format!("<span class=\"pill {class}\">{words}</span>")
}

/// What whoever comes to upload should know first.
fn closed(info: &Info) -> String {
    let why = match (info.accepting_uploads, info.full_mem) {
        (true, _) => return String::new(),
        (false, true) => "This host is full: a place is free again when a pod's time ends.",
        (false, false) if info.self_test_success == Some(false) => {
            "This host hasn't passed its test of itself yet: come again in some minutes."
        }
        (false, false) => "This host takes no uploads now. Pods that run aren't touched.",
    };
    format!("<p class=\"wait\">{why} Others it knows are at <a href=\"/peers\">/peers</a>.</p>")
}

/// What stands between pods, for people.
fn apart(isolation: &str) -> &'static str {
    match isolation {
        "shared-kernel" => "Containers in a sandbox each, under the machine's own kernel",
        "virtual-machine" => "A virtual machine for each pod",
        _ => "Nothing: this host only tries out uploads",
    }
}

fn scheme_and_authority(uri: &str) -> (&str, &str) {
    let (scheme, authority) = uri.split_once("://").unwrap_or(("https", uri));
    (scheme, authority.trim_end_matches('/'))
}

/// What a size of pods is and costs.
fn card(api: &Api, machine: &Machine) -> String {
    let code = api.orders.asset().map_or_else(String::new, |asset| escaped(&asset.code) + " ");
    let monthly = api.config.rules.machines.get(&machine.name).map(|size| api.config.cost_per_month.times(size.price).to_string());
    let monthly = monthly.as_deref().unwrap_or(UNKNOWN);
    // Without an account to be paid into nothing can be said exactly.
    let hourly = api.orders.quote(&machine.name, HOUR).map_or_else(
        |_| String::new(),
        |quote| format!("<p class=\"note\">{} {code}an hour</p>", decimal(quote.price.into(), quote.asset.scale)),
    );
    let processors = if machine.vcpus == 1 { "1 processor".to_owned() } else { format!("{} processors", machine.vcpus) };
    let (name, memory, disk) = (escaped(&machine.name), size(machine.memory), size(machine.disk));
    format!(
        "<li class=\"card\"><h3>{name}</h3><p class=\"price\">{monthly} <small>{code}a month</small></p>{hourly}\
         <ul class=\"what\"><li>{processors}</li><li>{memory} memory</li><li>{disk} disk</li></ul></li>\n"
    )
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
