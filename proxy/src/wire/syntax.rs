//! Tokens, numbers and lists (RFC 9110 section 5.6).

use bytes::{BufMut, BytesMut};

/// The largest length: one more than can be counted with a sign.
const LENGTH_MAX: u64 = i64::MAX as u64;
/// The most digits a length has, leading zeros included.
const DIGITS_MAX: usize = 32;

/// Digits of the largest number, in the smaller of two bases.
const DIGITS_PUT_MAX: usize = 20;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

const TOKEN: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        bytes[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    bytes
};

/// Whether it is a token.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| TOKEN.get(usize::from(*byte)).is_some_and(|is_in| *is_in))
}

/// Without spaces and tabs around it.
pub(crate) fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a list, empty ones left out (RFC 9110 section 5.6.1.2).
pub(crate) fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(trimmed).filter(|element| !element.is_empty())
}

/// A length: digits, and nothing else.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    let number = digits.iter().try_fold(0u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(digit.into())
    });
    number.filter(|number| *number <= LENGTH_MAX)
}

/// The value of a hexadecimal digit.
pub(crate) fn hexadecimal(digit: u8) -> Option<u64> {
    char::from(digit).to_digit(16).map(u64::from)
}

/// A value that has visible characters, spaces and tabs only.
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let is_text = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| is_text)
}

/// Appends a number in decimal digits.
pub(crate) fn put_decimal(out: &mut BytesMut, number: u64) {
    put_digits(out, number, 10);
}

/// Appends a number in hexadecimal digits.
pub(crate) fn put_hexadecimal(out: &mut BytesMut, number: u64) {
    put_digits(out, number, 16);
}

fn put_digits(out: &mut BytesMut, mut number: u64, base: u64) {
    let (mut digits, mut begin) = ([0; DIGITS_PUT_MAX], DIGITS_PUT_MAX);
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS.get(usize::try_from(number % base).unwrap_or_default()).copied().unwrap_or_default();
        begin -= 1;
        number /= base;
        if number == 0 {
            break;
        }
    }
    out.put_slice(digits.get(begin..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        let table: [(&str, Option<u64>); 17] = [
            ("0", Some(0)),
            ("5", Some(5)),
            ("007", Some(7)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            ("9223372036854775808", None),
            ("18446744073709551615", None),
            ("36893488147419103237", None),
            ("", None),
            ("+5", None),
            ("-0", None),
            ("0x5", None),
            ("5_0", None),
            ("5 ", None),
            ("5,5", None),
            ("\u{665}", None),
            ("5\0", None),
            ("00000000000000000000000000000000000000005", None),
        ];
        for (text, expected) in table {
            assert_eq!(decimal(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, 9, 10, 15, 16, 255, 4096, i64::MAX as u64, u64::MAX] {
            let (mut decimal_digits, mut hexadecimal_digits) = (BytesMut::new(), BytesMut::new());
            put_decimal(&mut decimal_digits, number);
            put_hexadecimal(&mut hexadecimal_digits, number);
            assert_eq!(String::from_utf8(decimal_digits.into()).unwrap(), format!("{number}"));
            assert_eq!(String::from_utf8(hexadecimal_digits.into()).unwrap(), format!("{number:x}"));
        }
    }

    #[test]
    fn lists_have_elements_between_commas() {
        let all = |list: &str| elements(list.as_bytes()).map(|element| String::from_utf8_lossy(element).into_owned()).collect::<Vec<_>>();
        assert_eq!(all(""), [""; 0]);
        assert_eq!(all(" ,,\t"), [""; 0]);
        assert_eq!(all("a"), ["a"]);
        assert_eq!(all(" a , b\t,,c d"), ["a", "b", "c d"]);
    }
}
