//! The name of a pod.

use std::fmt;
use std::str::FromStr;

/// Characters of a pod's host label.
pub(crate) const LABEL_LEN: usize = 52;

/// The SHA-256 of a pod's manifest; its text form is the pod's host label: 52 characters of base32 (RFC 4648, no padding).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PodKey([u8; 32]);

/// The text is not 52 base32 characters whose 4 spare bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pod's label is 52 base32 characters that encode 32 bytes")]
pub struct ParsePodKeyError;

impl PodKey {
    /// The key of the manifest with this SHA-256.
    pub fn from_digest(digest: [u8; 32]) -> PodKey {
        PodKey(digest)
    }

    /// Reads a label, whatever the case of its letters; none: it hasn't the shape of one. It names no pod unless it is the one spelling of
    /// 32 bytes: 52 characters carry 260 bits, and the 4 spare ones must be zero, or two names would mean one pod.
    pub(crate) fn of_label(label: &[u8]) -> Option<Option<PodKey>> {
        if label.len() != LABEL_LEN {
            return None;
        }
        let mut key = [0u8; 32];
        let (groups, rest) = label.as_chunks::<8>();
        for (group, bytes) in groups.iter().zip(key.chunks_exact_mut(5)) {
            let [_, _, _, decoded @ ..] = bits(group)?.to_be_bytes();
            bytes.copy_from_slice(&decoded);
        }
        let last = bits(rest)?;
        let [.., high, low] = &mut key;
        [*high, *low] = u16::try_from(last >> 4).ok()?.to_be_bytes();
        Some((last & 0xf == 0).then_some(PodKey(key)))
    }
}

/// The bits of up to 12 characters, the last one's lowest; none: one of them is in no label.
fn bits(characters: &[u8]) -> Option<u64> {
    // No way out in between, so that it goes at the machine's pace.
    let (bits, values) = characters.iter().fold((0, 0), |(bits, values), character| {
        let value = value(*character);
        (bits << 5 | u64::from(value), values | value)
    });
    (values != NONE).then_some(bits)
}

/// What is no character of a label, in [`VALUES`]: all bits, which no values of characters have together.
const NONE: u8 = u8::MAX;
/// What each byte is worth in a label.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < 32 {
        let character = b"abcdefghijklmnopqrstuvwxyz234567"[value as usize];
        values[character as usize] = value;
        values[character.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    values
};

fn value(byte: u8) -> u8 {
    VALUES.get(usize::from(byte)).copied().unwrap_or(NONE)
}

impl FromStr for PodKey {
    type Err = ParsePodKeyError;

    fn from_str(label: &str) -> Result<Self, Self::Err> {
        PodKey::of_label(label.as_bytes()).flatten().ok_or(ParsePodKeyError)
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(base32::Alphabet::Rfc4648Lower { padding: false }, &self.0))
    }
}

impl fmt::Debug for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PodKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_spelling() {
        let key = PodKey::from_digest(std::array::from_fn(|index| u8::try_from(index).unwrap() * 7));
        let text = key.to_string();
        assert_eq!(text.len(), LABEL_LEN);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().parse(), Ok(key));
        let last = value(text.as_bytes()[51]);
        for spare in 1..16u8 {
            let twin = char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(last | spare)]);
            assert_eq!(format!("{}{twin}", &text[..51]).parse::<PodKey>(), Err(ParsePodKeyError));
        }
        for bad in ["", &text[1..], &format!("{text}a"), &format!("{}1", &text[..51]), &format!("{}é", &text[..50])] {
            assert_eq!(bad.parse::<PodKey>(), Err(ParsePodKeyError), "{bad}");
        }
    }
}
