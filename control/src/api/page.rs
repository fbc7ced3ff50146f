//! The pages of the office: what this host is, and errors for those who look at them in a browser.
//!
//! Each is one file that asks nobody else for anything. Its policy names what it holds by hash: nothing that got into it runs.

use std::{num::NonZeroU32, sync::Arc};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

use super::{
    Api,
    info::{self, Info, Machine},
};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
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

/// Says what `page` is and may do.
pub(super) fn put_headers(headers: &mut HeaderMap, page: &str) {
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let (style, script) = (source(page, "<style>", "</style>"), source(page, "<script>", "</script>"));
    let policy = format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// The hash of what is between two tags, as a policy names it.
fn source(page: &str, open: &str, close: &str) -> String {
    let text = page.split_once(open).and_then(|(_, rest)| rest.split_once(close));
    text.map_or_else(|| "'none'".to_owned(), |(text, _)| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text))))
}

/// The template with its fields filled in, once: what is filled in isn't looked at again.
fn filled(template: &str, field: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once("}}")).fold(first, |page, (name, text)| page + &field(name) + text)
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

/// A time in its two largest units, as the page's script has it.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let page = filled("a {{x}} b {{y}} c", |name| if name == "x" { "{{y}}".to_owned() } else { "Y".to_owned() });
        assert_eq!(page, "a {{y}} b Y c");
        assert_eq!(escaped(r#"<a b="c" d='e'>&"#), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
    }

    #[test]
    fn amounts_are_exact() {
        for (amount, scale, text) in [(13_698_631, 9, "0.013698631"), (10, 0, "10"), (1000, 2, "10"), (0, 9, "0"), (15, 1, "1.5")] {
            assert_eq!(decimal(amount, scale), text);
        }
        assert_eq!(decimal(u64::MAX, u8::MAX).len(), 257);
    }

    #[test]
    fn times_are_shown_in_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h"), (31_536_000, "365 d 0 h")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
