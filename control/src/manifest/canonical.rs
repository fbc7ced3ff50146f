//! Canonical JSON, byte for byte as `canonical-json` 0.0.4 makes it: keys sorted by UTF-16 code units, no white space, its
//! own choice of what to escape.

use std::fmt::Write;

use serde_json::Value;

/// UTF-16 code units that are escaped, as inclusive ranges.
const ESCAPED: &[(char, char)] = &[
    ('\u{0000}', '\u{001f}'),
    ('"', '"'),
    ('\\', '\\'),
    ('\u{007f}', '\u{009f}'),
    ('\u{00ad}', '\u{00ad}'),
    ('\u{0600}', '\u{0604}'),
    ('\u{070f}', '\u{070f}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{200c}', '\u{200f}'),
    ('\u{2028}', '\u{202f}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff0}', '\u{ffff}'),
];

/// The canonical text of a value.
pub(super) fn to_string(value: &Value) -> String {
    let mut text = String::new();
    put(&mut text, value);
    text
}

fn put(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(bool) => text.push_str(if *bool { "true" } else { "false" }),
        // JS has one number type. An accepted manifest contains no numbers.
        Value::Number(number) => text.push_str(ryu_js::Buffer::new().format(number.as_f64().unwrap_or(f64::NAN))),
        Value::String(string) => put_string(text, string),
        Value::Array(items) => put_list(text, ('[', ']'), items.iter(), put),
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
            put_list(text, ('{', '}'), members.into_iter(), |text, (key, value)| {
                put_string(text, key);
                text.push(':');
                put(text, value);
            });
        }
    }
}

fn put_list<T>(text: &mut String, (open, close): (char, char), items: impl Iterator<Item = T>, mut put: impl FnMut(&mut String, T)) {
    text.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            text.push(',');
        }
        put(text, item);
    }
    text.push(close);
}

fn put_string(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
        match character {
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            _ if ESCAPED.iter().any(|(first, last)| (*first..=*last).contains(&character)) => {
                // Writing to a String can't fail.
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}
