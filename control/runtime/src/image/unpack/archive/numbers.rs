//! Fields of a header: text, numbers, times.

use super::ArchiveError;

/// A time of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::image::unpack) struct Time {
    /// Since 1970; negative before.
    pub(in crate::image::unpack) seconds: i64,
    /// Added to the seconds.
    pub(in crate::image::unpack) nanoseconds: u32,
}

impl Time {
    pub(super) fn seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }

    /// `seconds[.digits]`, with an optional minus before everything.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let (seconds, nanoseconds): (i64, u32) = (whole.parse().ok()?, digits.parse().ok()?);
        if whole.starts_with('-') && nanoseconds > 0 {
            return Some(Self { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
        }
        Some(Self { seconds, nanoseconds })
    }
}

/// The text of a field, up to the first NUL or its end.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The same for a long name.
pub(super) fn trimmed(name: &[u8]) -> &[u8] {
    text(name)
}

/// A number: octal digits between spaces and NULs, or, where the highest bit is set, a binary one (two's complement, big-endian).
pub(super) fn number(field: &[u8]) -> Result<i64, ArchiveError> {
    let Some(first) = field.first().copied() else { return Ok(0) };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let fill = if negative { 0xff } else { 0 };
        let first = if negative { first } else { first & 0x7f };
        let bytes: Vec<u8> = [&[first], field.get(1..).unwrap_or_default()].concat();
        let (high, low) = bytes.split_at(bytes.len().saturating_sub(8));
        let low = low.iter().fold(if negative { -1 } else { 0 }, |number: i64, byte| number << 8 | i64::from(*byte));
        let fits = high.iter().all(|byte| *byte == fill) && (low < 0) == negative;
        return if fits { Ok(low) } else { Err(ArchiveError::Unreadable) };
    }
    let digits = field.trim_ascii_start();
    let start = digits.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    let digits = digits.get(start..).unwrap_or_default();
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, b' ' | 0)) && !rest.starts_with(b"\0") {
        return Err(ArchiveError::Unreadable);
    }
    digits.iter().try_fold(0_i64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8).ok_or(ArchiveError::Unreadable)?;
        number.checked_mul(8).and_then(|number| number.checked_add(digit.into())).ok_or(ArchiveError::Unreadable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"0000648\0", None),
            (b"-0000644", None),
            (b"6 4 4  \0", None),
            (&[0x80, 0, 0, 0, 0, 1, 0, 0], Some(65_536)),
            (&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], Some(7)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2)),
            (&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
        ];
        for (field, right) in cases {
            assert_eq!(number(field).ok(), *right, "{field:?}");
        }
    }

    #[test]
    fn times_may_have_parts_of_seconds_and_be_before_1970() {
        let time = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        let cases = [
            ("12", time(12, 0)),
            ("12.5", time(12, 500_000_000)),
            ("12.", time(12, 0)),
            ("12.1234567891", time(12, 123_456_789)),
            ("-1", time(-1, 0)),
            ("-1.25", time(-2, 750_000_000)),
            ("-0.5", time(-1, 500_000_000)),
            ("1e5", None),
            ("1.-5", None),
            ("", None),
            ("99999999999999999999", None),
        ];
        for (text, right) in cases {
            assert_eq!(Time::parse(text), right, "{text}");
        }
    }
}
