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
};
use crate::html::{escaped, filled, put_headers, span};

/// The page at `/`; what is in double braces is filled in.
const INDEX: &str = include_str!("index.html");
const MIB: u64 = 1024 * 1024;
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
        "acceptingUploads" => yes_or_no(info.accepting_uploads),
        "avgLoad" => word(info.avg_load.map(|load| load.to_string())),
        "containers" => api.config.rules.containers_max.to_string(),
        "costPerMonth" => api.config.cost_per_month.to_string(),
        "currency" => word(info.currency.clone()),
        "duration" => span(api.config.duration_max.get().into()),
        "fullMem" => yes_or_no(info.full_mem),
        "isolation" => escaped(info.isolation),
        "machines" => info.machines.iter().map(|machine| row(api, machine)).collect(),
        "memory" => mebibytes(info.server_free_memory),
        "numPeers" => info.num_peers.to_string(),
        "runningContracts" => word(info.running_contracts.map(|count| count.to_string())),
        "runtime" => escaped(info.runtime),
        "serverUptime" => word(uptime(info)),
        "serviceUptime" => span(info.service_uptime),
        "uri" => escaped(&info.uri),
        _ => String::new(),
    }
}

/// What a size of pods is and costs.
fn row(api: &Api, machine: &Machine) -> String {
    let hourly = api.orders.quote(&machine.name, HOUR).map_or_else(|_| UNKNOWN.to_owned(), |quote| decimal(quote.price, quote.asset.scale));
    let monthly = api.config.rules.machines.get(&machine.name).map(|size| api.config.cost_per_month.times(size.price).to_string());
    let (name, memory, disk) = (escaped(&machine.name), mebibytes(machine.memory), mebibytes(machine.disk));
    format!(
        "<tr><th scope=\"row\">{name}<td>{}<td>{memory}<td>{disk}<td>{hourly}<td>{}\n",
        machine.vcpus,
        monthly.as_deref().unwrap_or(UNKNOWN)
    )
}

/// An amount of `10^-scale`, without zeros at its end.
fn decimal(amount: u64, scale: u8) -> String {
    let scale = usize::from(scale);
    let digits = format!("{amount:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
}

fn uptime(info: &Info) -> Option<String> {
    let whole = info.server_uptime?.trunc().to_string();
    whole.parse().ok().map(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (amount, scale, text) in [(13_698_631, 9, "0.013698631"), (10, 0, "10"), (1000, 2, "10"), (0, 9, "0"), (15, 1, "1.5")] {
            assert_eq!(decimal(amount, scale), text);
        }
        assert_eq!(decimal(u64::MAX, u8::MAX).len(), 257);
    }
}
