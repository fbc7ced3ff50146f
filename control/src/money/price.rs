//! What run time costs, in exact integers: `price = ceil(duration * cost_per_month * factor * 10^scale / 2628000)`, where the factor
//! is that of the pod's size.

use std::{fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::factor::Factor;

/// Seconds in the month hosts price by: 365 days / 12.
const SECONDS_PER_MONTH: u128 = 2_628_000;

/// A currency and its smallest unit: amounts are counted in `10^-scale` of `code`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Asset {
    /// Currency code as IL-DCP gives it, such as `XRP`.
    pub code: String,
    /// Decimal places of the smallest unit.
    pub scale: u8,
}

impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} scale {}", self.code, self.scale)
    }
}

/// The monthly cost of a pod, in whole units of the currency; an exact decimal, never a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostPerMonth {
    /// The digits without the point.
    digits: u128,
    /// Digits after the point: [`Self::DECIMALS_MAX`] as parsed, more after a multiplication.
    decimals: u8,
}

impl CostPerMonth {
    /// Digits allowed after the point.
    pub const DECIMALS_MAX: usize = 18;
    /// Ten units a month, the Node codiusd's default.
    pub const DEFAULT: Self = Self { digits: 10, decimals: 0 };

    /// The monthly cost of a pod whose size costs `factor` times as much.
    #[must_use]
    pub fn times(self, factor: Factor) -> Self {
        // A cost is read from 64 bits and multiplied once: this fits.
        let mut product = Self { digits: self.digits.saturating_mul(factor.millionths().into()), decimals: self.decimals + 6 };
        while product.decimals > 0 && product.digits.is_multiple_of(10) {
            product = Self { digits: product.digits / 10, decimals: product.decimals - 1 };
        }
        product
    }
}

/// The text is no non-negative decimal number of at most 18 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a decimal number of 0 or more with at most 18 digits, such as 10 or 0.25")]
pub struct BadCost;

impl FromStr for CostPerMonth {
    type Err = BadCost;

    fn from_str(text: &str) -> Result<Self, BadCost> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits_only = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits_only(whole) || !digits_only(fraction) {
            return Err(BadCost);
        }
        let fraction = fraction.trim_end_matches('0');
        let digits: u64 = format!("{whole}{fraction}").parse().map_err(|_| BadCost)?;
        let decimals = u8::try_from(fraction.len()).map_err(|_| BadCost)?;
        if fraction.len() > Self::DECIMALS_MAX { Err(BadCost) } else { Ok(Self { digits: digits.into(), decimals }) }
    }
}

impl fmt::Display for CostPerMonth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shifted(self.digits, self.decimals))
    }
}

/// `units` of `10^-scale` as an exact decimal without trailing zeros, such as `0.0123`.
pub fn decimal(units: u128, scale: u8) -> String {
    let text = shifted(units, scale);
    if scale == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// Digits with so many of them behind the point.
fn shifted(digits: u128, decimals: u8) -> String {
    let decimals = usize::from(decimals);
    let digits = format!("{digits:0>width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

/// The price exceeds what an Interledger amount (or the database) can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the price of {seconds} seconds doesn't fit into an Interledger amount of scale {scale}")]
pub struct PriceTooLarge {
    /// The run time asked for.
    seconds: u32,
    /// The asset's scale.
    scale: u8,
}

/// Price of `duration` seconds in units of `10^-scale`, rounded up.
pub fn price(cost: CostPerMonth, duration: NonZeroU32, scale: u8) -> Result<u64, PriceTooLarge> {
    let too_large = PriceTooLarge { seconds: duration.get(), scale };
    let power = |exponent: u8| 10_u128.checked_pow(u32::from(exponent)).ok_or(too_large);
    let dividend = u128::from(duration.get()).checked_mul(cost.digits).ok_or(too_large)?;
    // Common powers of ten are cancelled before multiplying, so that high scales don't overflow needlessly.
    let (dividend, divisor) = match scale.checked_sub(cost.decimals) {
        Some(up) => (dividend.checked_mul(power(up)?), Some(SECONDS_PER_MONTH)),
        None => (Some(dividend), power(cost.decimals - scale)?.checked_mul(SECONDS_PER_MONTH)),
    };
    let price = dividend.zip(divisor).map(|(dividend, divisor)| dividend.div_ceil(divisor)).ok_or(too_large)?;
    // SQLite integers are signed 64-bit.
    i64::try_from(price).map(i64::unsigned_abs).map_err(|_| too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price_of(cost: &str, seconds: u32, scale: u8) -> u64 {
        price(cost.parse().unwrap(), NonZeroU32::new(seconds).unwrap(), scale).unwrap()
    }

    #[test]
    fn sums_are_shown_exactly() {
        for (units, scale, expected) in [
            (0, 9, "0"),
            (12_300_000, 9, "0.0123"),
            (67_345_916, 9, "0.067345916"),
            (1_000, 0, "1000"),
            (1_000, 3, "1"),
            (10, 255, &format!("0.{}1", "0".repeat(253))),
            (u128::from(u64::MAX), 2, "184467440737095516.15"),
        ] {
            assert_eq!(decimal(units, scale), expected);
        }
    }

    #[test]
    fn agrees_with_prices_recorded_from_the_node_codiusd() {
        for (seconds, expected) in [(60, 228_311), (600, 2_283_106), (3600, 13_698_631)] {
            assert_eq!(price_of("10", seconds, 9), expected, "{seconds} s");
        }
    }

    #[test]
    fn rounds_up_and_is_exact_where_a_float_is_not() {
        assert_eq!(price_of("0", 3600, 9), 0);
        assert_eq!(price_of("0.000000001", 1, 9), 1);
        assert_eq!(price_of("2.628", 1, 6), 1);
        assert_eq!(price_of("2.628", 1000, 6), 1000);
        assert_eq!(price_of("2.6280000000000001", 1000, 6), 1001);
        assert_eq!(price_of("2628000", 1, 2), 100);
    }

    #[test]
    fn a_size_costs_its_exact_multiple_rounded_up_once() {
        for (cost, factor, shown) in [("10", "1.5", "15"), ("0.1", "0.1", "0.01"), ("7", "1", "7"), ("0", "2", "0"), ("2.5", "400", "1000")]
        {
            let product = cost.parse::<CostPerMonth>().unwrap().times(factor.parse().unwrap());
            assert_eq!(product.to_string(), shown, "{cost} x {factor}");
            assert_eq!(product.times(Factor::ONE), product);
        }
        let of = |factor: &str, seconds| price("10".parse::<CostPerMonth>().unwrap().times(factor.parse().unwrap()), seconds, 9).unwrap();
        let minute = NonZeroU32::new(60).unwrap();
        // 10 * 10^9 * 60 / 2628000 is 228310.50...: three times it is 684931.50..., not three times the rounded price.
        assert_eq!((of("1", minute), of("3", minute), of("1.5", minute)), (228_311, 684_932, 342_466));
        let dearest = "999999999999999999".parse::<CostPerMonth>().unwrap().times("1000".parse().unwrap());
        assert!(price(dearest, NonZeroU32::MAX, 0).is_err() && price(dearest, NonZeroU32::MAX, 255).is_err());
        assert!(price(dearest, NonZeroU32::MIN, 0).is_ok());
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let month = NonZeroU32::new(2_628_000).unwrap();
        assert!(price("9".parse().unwrap(), month, 18).is_ok());
        assert!(price("10".parse().unwrap(), month, 18).is_err());
        assert!(price("10".parse().unwrap(), month, 255).is_err());
        assert_eq!(price("0.000000000000000001".parse().unwrap(), month, 0), Ok(1));
    }

    #[test]
    fn reads_and_writes_decimals() {
        for (text, shown) in
            [("10", "10"), ("0.25", "0.25"), ("007.50", "7.5"), ("0", "0"), ("0.000000000000000001", "0.000000000000000001")]
        {
            assert_eq!(text.parse::<CostPerMonth>().unwrap().to_string(), shown);
        }
        for text in ["", "-1", "1e2", ".5", "5.", "1,5", "1 ", "0x1", "0.0000000000000000001", "99999999999999999999"] {
            assert_eq!(text.parse::<CostPerMonth>(), Err(BadCost), "{text:?}");
        }
    }
}
