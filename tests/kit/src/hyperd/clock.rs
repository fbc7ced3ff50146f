//! Times as hyperd writes them.

use jiff::Timestamp;

/// Seconds since 1970.
pub(super) fn seconds() -> i64 {
    Timestamp::now().as_second()
}

/// RFC 3339 with seconds.
pub(super) fn now() -> String {
    Timestamp::from_second(seconds()).map_or_else(|_| String::new(), |now| now.to_string())
}

/// RFC 3339 with nanoseconds.
pub(super) fn nanos() -> String {
    format!("{:.9}", Timestamp::now())
}
