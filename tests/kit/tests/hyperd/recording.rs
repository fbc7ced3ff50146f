//! What was recorded of hyperd, and what is answered here.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A call.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Recording {
    pub(crate) n: u16,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) method: String,
    #[serde(default)]
    pub(crate) target: String,
    /// Content-Type of the request.
    #[serde(rename = "type")]
    pub(crate) content_type: Option<String>,
    #[serde(default)]
    pub(crate) body: String,
    /// The request as it was sent, if it was no usual one.
    pub(crate) raw: Option<String>,
    /// Nothing if there was none.
    pub(crate) answer: Option<Expected>,
}

/// The recorded answer.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    pub(crate) reason: Option<String>,
    pub(crate) text: Option<String>,
    /// Frames of a log.
    pub(crate) frames: Option<Vec<Frame>>,
    /// Progress of a pull.
    pub(crate) lines: Option<Vec<Value>>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

impl Expected {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.rest.get(name).and_then(Value::as_str)
    }
}

/// A line of a log. If it has a length the text is only its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) stream: u8,
    pub(crate) text: String,
    pub(crate) length: Option<usize>,
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let list = Vec::<Value>::deserialize(from)?;
        let length = list.get(2).and_then(Value::as_u64).and_then(|length| usize::try_from(length).ok());
        let stream = list.first().and_then(Value::as_u64).and_then(|stream| u8::try_from(stream).ok());
        let text = list.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self { stream: stream.unwrap_or_default(), text, length })
    }
}

/// All of them, in order.
pub(crate) fn all() -> Vec<Recording> {
    let text = include_str!("recordings.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// An answer of the double.
#[derive(Clone, Debug, Default)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn frames(&self) -> Result<Vec<Frame>, String> {
        let (frames, rest) = frames(&self.body);
        if rest.is_empty() { Ok(frames) } else { Err(format!("no frame: {rest:?}")) }
    }
}

/// The whole frames at the beginning, and what is behind them.
pub(crate) fn frames(mut bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((&[stream @ (1 | 2), 0, 0, 0, a, b, c, d], rest)) = bytes.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some((text, rest)) = rest.split_at_checked(length) else { break };
        frames.push(Frame { stream, text: String::from_utf8_lossy(text).into_owned(), length: None });
        bytes = rest;
    }
    (frames, bytes)
}
