//! Durations, sizes and rates with their units.

use std::time::Duration;

/// Units of durations; a bare number is seconds.
const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Units of sizes; a bare number is bytes.
const SIZES: [(&str, u64); 5] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];

/// Reads `500ms`, `90s`, `15m`, `1h`, `2d`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, milliseconds) = with_unit(text, &DURATIONS, 1_000)?;
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// Reads `512B`, `64KiB`, `1GiB`; a bare number is bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, bytes) = with_unit(text, &SIZES, 1)?;
    number.checked_mul(bytes)
}

/// Reads `200Mbit/s`; a bare number is megabits per second.
pub(crate) fn parse_megabits(text: &str) -> Option<u32> {
    let number = text.strip_suffix("Mbit/s").unwrap_or(text);
    digits(number)?.try_into().ok()
}

fn with_unit(text: &str, units: &[(&str, u64)], bare: u64) -> Option<(u64, u64)> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit()).map_or("", |at| &text[at..]);
    let number = digits(text.strip_suffix(unit)?)?;
    if unit.is_empty() {
        return Some((number, bare));
    }
    units.iter().find(|(name, _)| *name == unit).map(|(_, worth)| (number, *worth))
}

fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, milliseconds) in
            [("0", 0), ("1", 1_000), ("250ms", 250), ("90s", 90_000), ("15m", 900_000), ("1h", 3_600_000), ("2d", 172_800_000)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "-1", "h", "1w", "1.5h", "1 h", "99999999999999999999d", "18446744073709551615s", "1H"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("512", 512), ("512B", 512), ("64KiB", 65_536), ("1GiB", 1 << 30), ("2TiB", 2 << 40)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "1GB", "1.5GiB", "GiB", "1 GiB", "18446744073709551615KiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!((parse_megabits("200"), parse_megabits("8Mbit/s"), parse_megabits("8MB")), (Some(200), Some(8), None));
    }
}
