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

/// A time in its two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
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
    fn times_are_shown_in_two_units() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h"), (31_536_000, "365 d 0 h")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}
