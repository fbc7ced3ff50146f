//! Whether an answer of the double is the recorded one: status, headers, words and shape, with names, ids and times as they come.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use crate::recording::{Expected, Frame, Got};

/// Names that differ from those in the recordings, in both directions, and the network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    actual: BTreeMap<String, String>,
    expected: BTreeMap<String, String>,
    /// First three octets with their dots.
    network: String,
    met: Option<(String, String)>,
}

/// What a difference is called.
type Same = Result<(), String>;

const RECORDED_NETWORK: &str = "192.168.123.";
/// Lists whose order is left to chance, and the key that their entries are known by.
const UNORDERED: &[(&str, &str)] = &[("containers", "name"), ("containerStatus", "name"), ("env", "env")];
/// The same for entries made of fields with colons: the field.
const UNORDERED_LINES: &[(&str, usize)] = &[("podData", 0), ("cData", 1), ("vmData", 1)];
/// What the machine decides.
const ANY_NUMBER: &[&str] = &["createdAt", "MemTotal"];
const ANY_TEXT: &[&str] = &["Name", "Operating System"];
const TIMES: &[&str] = &["startedAt", "finishedAt"];
/// Beginnings of lines that the machine decides the rest of.
const ANY_REST: &[&str] = &["pids: ", "mem: ", "kernel: ", "          inet6 addr: fe80::"];

fn differ<T: std::fmt::Debug + ?Sized, U: std::fmt::Debug + ?Sized>(what: &str, expected: &T, actual: &U) -> Same {
    Err(format!("{what}:\n  recorded {expected:?}\n  answered {actual:?}"))
}

fn equal<T: std::fmt::Debug + PartialEq + ?Sized>(what: &str, expected: &T, actual: &T) -> Same {
    if expected == actual { Ok(()) } else { differ(what, expected, actual) }
}

/// Alternates between words and what is between them.
fn parts(text: &str) -> Vec<&str> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| in_word(c) != in_word(first)).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = &rest[end..];
    }
    parts
}

/// The kind of a word that isn't the same each time.
fn kind(word: &str) -> Option<&'static str> {
    let letters = |rest: &str| rest.len() == 10 && rest.chars().all(|c| c.is_ascii_alphabetic());
    let hex = word.len() == 64 && word.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    match () {
        () if hex => Some("id"),
        () if word.strip_prefix("vm-").is_some_and(letters) => Some("machine"),
        () if word.strip_prefix("pod-").is_some_and(letters) => Some("pod"),
        () => None,
    }
}

impl Names {
    /// None known yet. The network is given by its first three octets with their dots.
    pub(crate) fn in_network(network: String) -> Self {
        Self { network, ..Self::default() }
    }

    /// A recorded text as it has to be sent here.
    pub(crate) fn translate(&self, text: &str) -> String {
        let name = |part: &str| {
            if let Some((_, actual)) = self.met.as_ref().filter(|(recorded, _)| recorded == part) {
                return actual.clone();
            }
            let begins = |(recorded, _): &(&String, &String)| part.len() == 12 && recorded.len() == 64 && recorded.starts_with(part);
            match self.actual.get(part) {
                Some(actual) => actual.clone(),
                None => self.actual.iter().find(begins).map_or_else(|| part.to_owned(), |(_, actual)| actual[..12].to_owned()),
            }
        };
        parts(&text.replace(RECORDED_NETWORK, &self.network)).into_iter().map(name).collect()
    }

    /// A word of the recordings has this counterpart, wherever it stands.
    pub(crate) fn meet(&mut self, recorded: &str, actual: &str) {
        self.met = Some((recorded.replace(RECORDED_NETWORK, &self.network), actual.to_owned()));
    }

    fn same_text(&mut self, what: &str, expected: &str, actual: &str) -> Same {
        let whole = expected.replace(RECORDED_NETWORK, &self.network);
        let (recorded, answered) = (parts(&whole), parts(actual));
        if recorded.len() != answered.len() {
            return differ(what, expected, actual);
        }
        for (recorded, answered) in recorded.into_iter().zip(answered) {
            let (recorded, answered) = (recorded.trim_end_matches('.'), answered.trim_end_matches('.'));
            let same = match kind(recorded) {
                Some(sort) => kind(answered) == Some(sort) && self.same_name(recorded, answered),
                None if self.met.as_ref().is_some_and(|(known, _)| known == recorded) => {
                    self.met.as_ref().is_some_and(|(_, met)| met == answered)
                }
                None => recorded == answered,
            };
            if !same {
                return differ(what, expected, actual);
            }
        }
        Ok(())
    }

    /// Each recorded name has one counterpart, and the other way round.
    pub(crate) fn same_name(&mut self, recorded: &str, answered: &str) -> bool {
        let actual = self.actual.entry(recorded.to_owned()).or_insert_with(|| answered.to_owned());
        let expected = self.expected.entry(answered.to_owned()).or_insert_with(|| recorded.to_owned());
        actual == answered && expected == recorded
    }

    /// Compares an answer; names are only learnt from one that is the same.
    pub(crate) fn same(&mut self, expected: &Expected, got: &Got) -> Same {
        let mut names = self.clone();
        same_head(expected, got)?;
        if let Some(lines) = &expected.lines {
            same_lines(lines, &got.text())?;
        }
        if let Some(text) = &expected.text {
            names.same_body(expected, text, &got.text())?;
        }
        if let Some(frames) = &expected.frames {
            names.same_frames(frames, &got.frames()?)?;
        }
        *self = names;
        Ok(())
    }

    fn same_body(&mut self, expected: &Expected, text: &str, actual: &str) -> Same {
        let json = expected.header("content-type") == Some("application/json") && !text.is_empty();
        if !json {
            return self.same_text("text", text, actual);
        }
        let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| format!("{error}: {text}"));
        if !actual.ends_with('\n') || actual.contains(['<', '>', '&']) {
            return differ("the JSON's dress", text, actual);
        }
        self.same_json("", &parse(text)?, &parse(actual)?)
    }

    fn same_json(&mut self, path: &str, expected: &Value, actual: &Value) -> Same {
        let key = path.rsplit('/').next().unwrap_or_default();
        match (expected, actual) {
            (Value::Object(left), Value::Object(right)) => {
                let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
                equal(&format!("keys of {path}"), &keys(left), &keys(right))?;
                left.iter().zip(right).try_for_each(|((key, left), (_, right))| self.same_json(&format!("{path}/{key}"), left, right))
            }
            (Value::Array(left), Value::Array(right)) => {
                if left.len() != right.len() {
                    return differ(path, left, right);
                }
                let (left, right) = (ordered(key, left), ordered(key, right));
                left.iter().zip(&right).try_for_each(|(left, right)| self.same_json(path, left, right))
            }
            (Value::Number(_), Value::Number(_)) if ANY_NUMBER.contains(&key) || path == "/ID" && actual.as_i64() != Some(12345) => Ok(()),
            (Value::String(_), Value::String(_)) if ANY_TEXT.contains(&key) => Ok(()),
            (Value::String(left), Value::String(right)) => match key {
                "hostIP" if right.parse::<IpAddr>().is_ok() => Ok(()),
                _ if TIMES.contains(&key) && right.len() == left.len() && right.ends_with('Z') => Ok(()),
                _ => self.same_text(path, left, right),
            },
            _ => equal(path, expected, actual),
        }
    }

    /// Line by line, each stream for itself: their order among each other is left to chance.
    pub(crate) fn same_frames(&mut self, expected: &[Frame], actual: &[Frame]) -> Same {
        for stream in [1, 2] {
            let of = |frames: &[Frame]| frames.iter().filter(|frame| frame.stream == stream).cloned().collect::<Vec<_>>();
            let (left, right) = (of(expected), of(actual));
            if left.len() != right.len() {
                return differ("lines", &left, &right);
            }
            left.iter().zip(&right).try_for_each(|(left, right)| self.same_frame(left, right))?;
        }
        Ok(())
    }

    fn same_frame(&mut self, expected: &Frame, actual: &Frame) -> Same {
        equal("length of a line", &expected.length.unwrap_or(actual.text.len()), &actual.text.len())?;
        if expected.length.is_some() && actual.text.starts_with(&expected.text) {
            return Ok(());
        }
        if ANY_REST.iter().any(|start| expected.text.starts_with(start) && actual.text.starts_with(start)) {
            return Ok(());
        }
        // The port of a client.
        let portless = |text: &str| match (text.find("]:"), text.find(": response")) {
            (Some(start), Some(end)) => format!("{}{}", &text[..start], &text[end..]),
            _ => text.to_owned(),
        };
        self.same_text("line", &portless(&expected.text), &portless(&actual.text))
    }
}

fn same_head(expected: &Expected, got: &Got) -> Same {
    equal("status", &expected.status, &got.status)?;
    if let Some(reason) = &expected.reason {
        equal("reason", reason, &got.reason)?;
    }
    for name in ["content-type", "server", "transfer-encoding", "x-content-type-options"] {
        equal(name, &expected.header(name), &got.headers.get(name).map(String::as_str))?;
    }
    Ok(())
}

/// Progress of a pull: what is said, not how often.
fn same_lines(expected: &[Value], text: &str) -> Same {
    let mut actual: Vec<Value> = Vec::new();
    for line in text.strip_suffix("\r\n").unwrap_or("no CRLF").split("\r\n") {
        let mut line: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        if let Some(map) = line.as_object_mut() {
            map.shift_remove("progress");
            map.entry("progressDetail").and_modify(|detail| *detail = Value::Object(serde_json::Map::default()));
        }
        if actual.last() != Some(&line) {
            actual.push(line);
        }
    }
    // It isn't always said.
    let without = |lines: &[Value]| lines.iter().filter(|line| line["status"] != "Verifying Checksum").cloned().collect::<Vec<_>>();
    equal("lines", &without(expected), &without(&actual))
}

fn ordered(key: &str, list: &[Value]) -> Vec<Value> {
    let mut list = list.to_vec();
    if let Some((_, by)) = UNORDERED.iter().find(|(name, _)| *name == key) {
        list.sort_by_key(|entry| entry[by].to_string());
    }
    if let Some((_, field)) = UNORDERED_LINES.iter().find(|(name, _)| *name == key) {
        list.sort_by_key(|entry| entry.as_str().unwrap_or_default().split(':').nth(*field).map(str::to_owned));
    }
    if key == "imagesList" && list.iter().all(Value::is_string) {
        list.sort_by_key(Value::to_string);
        for line in &mut list {
            // Its time and size are the registry's.
            *line = line.as_str().and_then(|line| line.rsplitn(3, ':').last()).unwrap_or_default().into();
        }
    }
    list
}
