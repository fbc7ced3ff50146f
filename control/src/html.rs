//! Pages in one file that ask nobody else for anything. Their policy names what they hold by hash: nothing that got into them runs.

use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// Says what a page made of `template` is and may do.
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

/// The hash of what is between two tags, as a policy names it.
fn source(page: &str, open: &str, close: &str) -> String {
    let text = page.split_once(open).and_then(|(_, rest)| rest.split_once(close));
    text.map_or_else(|| "'none'".to_owned(), |(text, _)| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text))))
}

/// The template with its fields, in double braces, filled in, once: what is filled in isn't looked at again.
pub fn filled(template: &str, field: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter_map(|part| part.split_once("}}")).fold(first, |page, (name, text)| page + &field(name) + text)
}

/// A time in its two largest units, or one where the other would be 0.
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

/// So many bytes in the largest unit of which there is one, cut to a tenth.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..UNITS.len() - 1).find(|step| bytes >> (10 * step) < 1024).unwrap_or(UNITS.len() - 1);
    let tenths = (u128::from(bytes) * 10) >> (10 * step);
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[step]),
        tenth => format!("{}.{tenth} {}", tenths / 10, UNITS[step]),
    }
}

/// Text as it stands in HTML, also as the value of an attribute.
pub fn escaped(text: &str) -> String {
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
