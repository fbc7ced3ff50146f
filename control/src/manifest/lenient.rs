//! JSON as JavaScript's `JSON.parse` accepts it: also with lone surrogates, and numbers too large for a float. No host runs
//! such a manifest, but it has a hash.

use serde_json::Value;

use super::{ManifestError, canonical, parse_json};

/// Stands in for a lone surrogate, which a `str` can't hold: a noncharacter that Unicode never assigns.
const STAND_IN: &str = "\u{fdd0}";

/// The canonical text of the part of such JSON that `pick` selects.
pub(super) fn canonical_text(json: &[u8], pick: impl Fn(&Value) -> &Value) -> Result<String, ManifestError> {
    let Some(text) = str::from_utf8(json).ok().filter(|text| !holds_stand_in(text)) else {
        return parse_json(json).map(|value| canonical::to_string(pick(&value)));
    };
    let value = parse_json(rewritten(text).as_bytes())?;
    if has_key_with_half(&value) {
        return Err(ManifestError::Json("a key holds half of a surrogate pair".to_owned()));
    }
    // JavaScript clients hash UTF-8, in which a lone surrogate becomes the replacement character.
    Ok(canonical::to_string(pick(&value)).replace(STAND_IN, "\u{fffd}"))
}

fn holds_stand_in(text: &str) -> bool {
    text.contains(STAND_IN) || text.to_ascii_lowercase().contains("\\ufdd0")
}

/// Refused because such keys would be sorted by the stand-in.
fn has_key_with_half(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(key, value)| key.contains(STAND_IN) || has_key_with_half(value)),
        Value::Array(items) => items.iter().any(has_key_with_half),
        _ => false,
    }
}

/// The text, with tokens that serde rejects replaced by ones it accepts.
fn rewritten(mut text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    let mut in_string = false;
    while let Some(first) = text.chars().next() {
        let (taken, put) = match first {
            '\\' if in_string => escape(text),
            '-' | '0'..='9' if !in_string => number(text),
            _ => (first.len_utf8(), None),
        };
        in_string ^= first == '"';
        let (token, rest) = text.split_at(taken);
        written.push_str(put.unwrap_or(token));
        text = rest;
    }
    written
}

/// Length of the leading escape, and its replacement.
fn escape(text: &str) -> (usize, Option<&'static str>) {
    match (half(text), text.get(6..).and_then(half)) {
        (None, _) => (text.chars().take(2).map(char::len_utf8).sum(), None),
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, None),
        (Some(_), _) => (6, Some(STAND_IN)),
    }
}

/// The leading surrogate escape, if there is one.
fn half(text: &str) -> Option<u16> {
    let unit = u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()?;
    (0xd800..=0xdfff).contains(&unit).then_some(unit)
}

/// Length of the leading number, and its replacement: JavaScript's infinity is written as null.
fn number(text: &str) -> (usize, Option<&'static str>) {
    let length = text.find(|char: char| !char.is_ascii_digit() && !"+-.eE".contains(char)).unwrap_or(text.len());
    let (token, _) = text.split_at(length);
    let infinite = is_json_number(token) && token.parse().is_ok_and(f64::is_infinite);
    (length, infinite.then_some("null"))
}

fn is_json_number(token: &str) -> bool {
    let unsigned = token.strip_prefix('-').unwrap_or(token);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    digits(whole) && digits(fraction) && digits(exponent) && (whole == "0" || !whole.starts_with('0'))
}
