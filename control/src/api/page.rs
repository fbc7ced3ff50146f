//! The pages of the office: what this host is, and errors for those who look at them in a browser.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{Api, info};

pub(super) const CONTENT_TYPE: &str = "text/html; charset=utf-8";
/// The page at `/`; fields of `/info` go where their names are in braces.
const INDEX: &str = include_str!("index.html");
const MIB: u64 = 1024 * 1024;

/// `/`: what this host is, what it costs, and how to upload.
pub(super) async fn index(State(api): State<Arc<Api>>) -> Response {
    let exact_cost = api.config.cost_per_month.to_string();
    let mut info = info::facts(&api).await;
    info["costPerMonth"] = exact_cost.into();
    info["freeMebibytes"] = info["serverFreeMemory"].as_u64().map(|bytes| bytes / MIB).into();
    let fields = info.as_object().into_iter().flatten();
    let page = fields.fold(INDEX.to_owned(), |page, (name, value)| page.replace(&format!("{{{name}}}"), &escaped(&shown(value))));
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response()
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

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unknown".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
