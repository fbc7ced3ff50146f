//! An exact decimal factor above 0, never a float; used for prices, shares and overcommitment.

use std::{fmt, str::FromStr};

/// Digits allowed after the point.
const DECIMALS_MAX: usize = 6;
/// The largest factor.
const MAX: u32 = 1000;

/// A decimal above 0 and up to 1000, with at most six digits after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor {
    millionths: u32,
}

impl Factor {
    /// 1.
    pub const ONE: Self = Self { millionths: Self::PARTS };
    /// Parts of a whole.
    const PARTS: u32 = 1_000_000;

    /// `whole` multiplied by the factor, rounded down.
    pub fn of(self, whole: u64) -> u64 {
        let product = u128::from(whole) * u128::from(self.millionths) / u128::from(Self::PARTS);
        u64::try_from(product).unwrap_or(u64::MAX)
    }

    /// The factor as a whole number of millionths.
    pub(crate) fn millionths(self) -> u32 {
        self.millionths
    }
}

/// The text is no such decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a decimal number above 0 and up to 1000 with at most 6 digits behind the point, such as 2 or 1.5")]
pub struct BadFactor;

impl FromStr for Factor {
    type Err = BadFactor;

    fn from_str(text: &str) -> Result<Self, BadFactor> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits_only = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits_only(whole) || !digits_only(fraction) || fraction.len() > DECIMALS_MAX {
            return Err(BadFactor);
        }
        let whole: u32 = whole.parse().map_err(|_| BadFactor)?;
        let fraction: u32 = format!("{fraction:0<DECIMALS_MAX$}").parse().map_err(|_| BadFactor)?;
        let millionths = whole.checked_mul(Self::PARTS).and_then(|whole| whole.checked_add(fraction)).ok_or(BadFactor)?;
        if millionths == 0 || millionths > MAX * Self::PARTS { Err(BadFactor) } else { Ok(Self { millionths }) }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.millionths / Self::PARTS, self.millionths % Self::PARTS);
        write!(f, "{whole}")?;
        let digits = format!("{fraction:0DECIMALS_MAX$}");
        let digits = digits.trim_end_matches('0');
        if digits.is_empty() { Ok(()) } else { write!(f, ".{digits}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_exact_decimals() {
        for (text, shown) in [("1", "1"), ("0.75", "0.75"), ("001.50", "1.5"), ("0.000001", "0.000001"), ("1000", "1000")] {
            assert_eq!(text.parse::<Factor>().unwrap().to_string(), shown);
        }
        for text in ["", "0", "0.0", "-1", "1e1", ".5", "5.", "1,5", " 1", "0.0000001", "1000.000001", "4295", "99999999999"] {
            assert_eq!(text.parse::<Factor>(), Err(BadFactor), "{text:?}");
        }
        assert_eq!("0.75".parse::<Factor>().unwrap().of(1000), 750);
        assert_eq!("0.3".parse::<Factor>().unwrap().of(5), 1, "rounded down");
        assert_eq!(Factor::ONE.of(u64::MAX), u64::MAX);
        assert_eq!("2".parse::<Factor>().unwrap().of(u64::MAX), u64::MAX, "no more than there can be");
    }
}
