//! Amounts of money: decimal from the first digit to the last.
//!
//! The contract takes any JSON number above zero and names no currency, so an amount keeps every digit it was written
//! with: it is read from the text of the number, added up as a decimal, stored as `numeric` and written out digit by
//! digit. No sum ever passes through a float.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use bigdecimal::{BigDecimal, RoundingMode, Zero};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A number written with more characters than this is read as the double nearest to it, as every client that counts in
/// doubles would: digits beyond these are no money, and reading millions of them would cost time.
const MAX_WRITTEN: usize = 400;

/// An exact decimal amount in the organization's own currency.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(BigDecimal);

impl Money {
    /// Nothing.
    #[must_use]
    pub fn zero() -> Self {
        Self::default()
    }

    /// Reads the text of a JSON number, exactly. What a double cannot hold is no number to the contract: `None` when it
    /// is too large for one (or no number at all), zero when it is too small.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        // Rust reads more than JSON writes: "inf", "nan", "+1".
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) || text.starts_with("-i") {
            return None;
        }
        let double: f64 = text.parse().ok()?;
        match double {
            _ if !double.is_finite() => None,
            0.0 => Some(Self::zero()),
            _ if text.len() > MAX_WRITTEN => Self::from_double(double),
            _ => text.parse().ok().map(Self),
        }
    }

    /// The shortest decimal that this double stands for; `None` when it is not finite.
    #[must_use]
    pub fn from_double(double: f64) -> Option<Self> {
        if double.is_finite() { double.to_string().parse().ok().map(Self) } else { None }
    }

    /// Whether it is more than nothing.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.0 > BigDecimal::zero()
    }

    /// To 2 decimals, halves away from zero: floor(x + 0.5) for everything that is not a debt.
    #[must_use]
    pub fn rounded(&self) -> Self {
        Self(self.0.with_scale_round(2, RoundingMode::HalfUp))
    }

    /// The bare decimal, for the database.
    #[must_use]
    pub const fn decimal(&self) -> &BigDecimal {
        &self.0
    }
}

impl From<BigDecimal> for Money {
    fn from(decimal: BigDecimal) -> Self {
        Self(decimal)
    }
}

impl From<Money> for BigDecimal {
    fn from(money: Money) -> Self {
        money.0
    }
}

/// In plain digits, without an exponent and without trailing zeros: `250.5`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.normalized().to_plain_string())
    }
}

/// As a JSON number with every digit. For `serde_json` alone.
impl ToSchema for Money {}

impl PartialSchema for Money {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::Number).description(Some("An exact decimal amount.")).into()
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl AddAssign<&Self> for Money {
    fn add_assign(&mut self, other: &Self) {
        self.0 += &other.0;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::zero(), Self::add)
    }
}

impl<'a> Sum<&'a Self> for Money {
    fn sum<I: Iterator<Item = &'a Self>>(amounts: I) -> Self {
        amounts.fold(Self::zero(), |mut sum, amount| {
            sum += amount;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn money(text: &str) -> Money {
        Money::from_json(text).unwrap()
    }

    #[test]
    fn an_amount_is_written_as_it_was_read() {
        for (read, written) in [
            ("250.5", "250.5"),
            ("250.50", "250.5"),
            ("1", "1"),
            ("0.1", "0.1"),
            ("100", "100"),
            ("1e2", "100"),
            ("1.25E+3", "1250"),
            ("1e-7", "0.0000001"),
            ("12345678901234567890.123456789", "12345678901234567890.123456789"),
            ("0", "0"),
            ("-0.0", "0"),
            ("-3.10", "-3.1"),
        ] {
            assert_eq!(serde_json::to_string(&money(read)).unwrap(), written, "{read}");
        }
    }

    #[test]
    fn what_no_double_can_hold_is_no_amount() {
        assert_eq!(Money::from_json("1e400"), None);
        assert_eq!(money("1e-400"), Money::zero());
        assert_eq!(money("0e99999999999999999999"), Money::zero());
        for text in ["", "inf", "-inf", "nan", "NaN", "+1", "1,5", " 1", "one"] {
            assert_eq!(Money::from_json(text), None, "{text:?}");
        }
    }

    #[test]
    fn millions_of_digits_cost_no_time() {
        assert_eq!(money(&format!("1.{}1", "0".repeat(1_000_000))), money("1"));
        assert_eq!(money(&format!("0.{}", "3".repeat(1_000_000))).to_string(), "0.3333333333333333");
    }

    #[test]
    fn sums_are_exact() {
        let tenth = money("0.1");
        assert_eq!(std::iter::repeat_n(&tenth, 10).sum::<Money>(), money("1"));
        assert_eq!([money("0.1"), money("0.2")].into_iter().sum::<Money>().to_string(), "0.3");
        assert_eq!((money("1e300") + money("1e-300")).to_string().len(), 602);
    }

    #[test]
    fn halves_are_rounded_up() {
        for (exact, rounded) in
            [("1.005", "1.01"), ("1.0049", "1"), ("2.675", "2.68"), ("0.005", "0.01"), ("10", "10"), ("0.125", "0.13")]
        {
            assert_eq!(money(exact).rounded().to_string(), rounded, "{exact}");
        }
    }

    #[test]
    fn trailing_zeros_make_no_difference() {
        assert_eq!(money("5"), money("5.00"));
        assert!(money("0.00001").is_positive() && !Money::zero().is_positive() && !money("-1").is_positive());
        assert!(money("9") < money("10.0"));
    }

    proptest! {
        #[test]
        fn every_double_comes_back_as_the_same_double(bits in any::<u64>()) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let text = serde_json::to_string(&double).unwrap();
            let written = serde_json::to_string(&money(&text)).unwrap();
            prop_assert_eq!(written.parse::<f64>().unwrap(), double + 0.0);
        }

        #[test]
        fn cents_add_up(cents in proptest::collection::vec(1_i64..1_000_000_000, 0..50)) {
            let sum: Money = cents.iter().map(|cent| money(&format!("{}.{:02}", cent / 100, cent % 100))).sum();
            let expected: i64 = cents.iter().sum();
            prop_assert_eq!(sum, money(&format!("{}.{:02}", expected / 100, expected % 100)));
        }
    }
}
