//! Self-contained pages. Their content security policy allows their own style and script by hash: injected markup doesn't run.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine, prelude::BASE64_STANDARD};
use maud::Markup;
use sha2::{Digest, Sha256};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Sets the content type and the policy of a page made of `template`.
pub fn put_headers(headers: &mut HeaderMap, template: &str) {
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let (style, script) = (source(template, "<style>", "</style>"), source(template, "<script>", "</script>"));
    let policy = format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// The policy's hash of the text between two tags.
fn source(page: &str, open: &str, close: &str) -> String {
    let text = page.split_once(open).and_then(|(_, rest)| rest.split_once(close));
    text.map_or_else(|| "'none'".to_owned(), |(text, _)| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text))))
}

/// Fills in the template's fields (in double braces), in one pass. Markup escapes by construction.
pub fn filled(template: &str, field: impl Fn(&str) -> Markup) -> String {
    let mut parts = template.split("{{");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once("}}")).fold(first, |page, (name, text)| page + &field(name).0 + text)
}

/// A duration in its two largest units, or one where the other would be 0.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, 0) => format!("{hours} h"),
        (0, ..) => format!("{hours} h {minutes} min"),
        (_, 0, _) => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A number of bytes in the largest unit that fits, truncated to a tenth.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..UNITS.len() - 1).find(|step| bytes >> (10 * step) < 1024).unwrap_or(UNITS.len() - 1);
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[step]),
        tenth => format!("{}.{tenth} {}", tenths / 10, UNITS[step]),
    }
}

/// Whether the client prefers text/html to application/json (RFC 9110, section 12.5.1). Wildcards, which programs send, prefer neither.
pub fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut page, mut best) = (false, 0.0);
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let is_page = kind.eq_ignore_ascii_case("text/html");
        if !is_page && !kind.eq_ignore_ascii_case("application/json") {
            continue;
        }
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if weight > best {
            (page, best) = (is_page, weight);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use maud::html;

    use super::*;

    #[test]
    fn what_is_filled_in_is_not_looked_at_again() {
        let page = filled("a {{x}} b {{y}} c", |name| html! { (if name == "x" { "{{y}}" } else { "<Y>" }) });
        assert_eq!(page, "a {{y}} b &lt;Y&gt; c");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1_600_000, "1.5 MiB"),
            (512 << 20, "512 MiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_shown_in_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3660, "1 h 1 min"), (7200, "2 h"), (90_000, "1 d 1 h"), (31_536_000, "365 d")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
