// SPDX-License-Identifier: Apache-2.0
//! Lengths of time as people write them, read exactly: `1.875ms`, `30s`, `1m30s`, `1d`.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// Units by name, each in nanoseconds.
const UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", NS_PER_S),
    ("m", 60 * NS_PER_S),
    ("min", 60 * NS_PER_S),
    ("h", 3600 * NS_PER_S),
    ("d", 86_400 * NS_PER_S),
];
const NS_PER_S: u64 = 1_000_000_000;

/// Why a text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// A number alone, or nothing.
    #[error("it needs a number and a unit: ns, us, ms, s, m, h or d, such as 500us or 1m30s")]
    NoUnit,
    /// A unit that does not exist.
    #[error("\"{0}\" is no unit of time: use ns, us, ms, s, m, h or d")]
    Unit(String),
    /// What stands before a unit is no number.
    #[error("\"{0}\" is no number")]
    Number(String),
    /// `30s1m`, `1s1s`.
    #[error("its units must go from long to short, each once, such as 1h30m")]
    Order,
    /// `0.5ns`.
    #[error("it is no whole number of nanoseconds")]
    Fraction,
    /// It does not fit.
    #[error("it is longer than 584 years")]
    TooLong,
}

/// Reads one or more numbers, each with its unit, from long units to short ones. Only the digits
/// that are written count: nothing is rounded.
///
/// # Errors
/// What is wrong with it, for the one who wrote it.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text;
    let mut sum_ns = 0u64;
    let mut shortest_ns = u64::MAX;
    while !rest.is_empty() || shortest_ns == u64::MAX {
        let unit_at = rest.find(|letter| !is_of_number(letter)).ok_or(DurationError::NoUnit)?;
        let (number, after) = rest.split_at(unit_at);
        let (name, after) = after.split_at(after.find(is_of_number).unwrap_or(after.len()));
        let unit = UNITS.into_iter().find(|(known, _)| *known == name);
        let (_, unit_ns) = unit.ok_or_else(|| DurationError::Unit(name.to_owned()))?;
        if unit_ns >= shortest_ns {
            return Err(DurationError::Order);
        }
        let part_ns = part_ns(number, unit_ns)?;
        sum_ns = sum_ns.checked_add(part_ns).ok_or(DurationError::TooLong)?;
        (shortest_ns, rest) = (unit_ns, after);
    }
    Ok(Duration::from_nanos(sum_ns))
}

fn is_of_number(letter: char) -> bool {
    letter.is_ascii_digit() || letter == '.'
}

/// `number` times `unit_ns`; the number is decimal, with or without a fraction.
fn part_ns(number: &str, unit_ns: u64) -> Result<u64, DurationError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(DurationError::Number(number.to_owned()));
    }
    let fraction = fraction.trim_end_matches('0');
    // Only digits are here. The longest unit has a fraction of no more digits than this.
    let digits = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
    let scale = 10u128.checked_pow(digits).ok_or(DurationError::Fraction)?;
    let numerator = format!("0{whole}{fraction}").parse::<u128>();
    let product = numerator.ok().and_then(|numerator| numerator.checked_mul(unit_ns.into()));
    let product = product.ok_or(DurationError::TooLong)?;
    if product % scale != 0 {
        return Err(DurationError::Fraction);
    }
    u64::try_from(product / scale).map_err(|_| DurationError::TooLong)
}

/// A length of time as [`parse`] reads it again: `1.875ms`, `30s`, `500µs`. What is longer than 584
/// years is read by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written(pub Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u128); 3] = [("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)];
        let ns = self.0.as_nanos();
        let unit = UNITS.into_iter().find(|(_, unit_ns)| ns >= *unit_ns);
        let (name, unit_ns) = unit.unwrap_or(("ns", 1));
        write!(f, "{}", ns / unit_ns)?;
        let digits = (unit_ns + ns % unit_ns).to_string();
        match digits[1..].trim_end_matches('0') {
            "" => f.write_str(name),
            fraction => write!(f, ".{fraction}{name}"),
        }
    }
}

/// Nanoseconds of a duration; saturates after 584 years.
pub fn as_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Durations as whole nanoseconds: the unit of every other time in our files.
pub mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// For serde.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(super::as_ns(*duration))
    }

    /// For serde.
    ///
    /// # Errors
    /// Those of the format.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_nanos)
    }
}

/// The same, or `null`.
pub mod optional_nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// For serde.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        duration.map(super::as_ns).serialize(to)
    }

    /// For serde.
    ///
    /// # Errors
    /// Those of the format.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_nanos))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn times_are_exact() {
        for (text, ns) in [
            ("1.875ms", 1_875_000),
            ("30ms", 30_000_000),
            ("100us", 100_000),
            ("100µs", 100_000),
            ("0.5us", 500),
            ("1.50000000000s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("7ns", 7),
            ("0ms", 0),
            ("0.1m", 6 * NS_PER_S),
            ("2min", 120 * NS_PER_S),
            ("1h", 3600 * NS_PER_S),
            ("1d", 86_400 * NS_PER_S),
            ("1m30s", 90 * NS_PER_S),
            ("1d2h3m4s5ms6us7ns", 93_784_005_006_007),
            ("1.5h0.5s", 5_400_500_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(ns in any::<u64>(), shift in 0u32..64) {
            let time = Duration::from_nanos(ns >> shift);
            prop_assert_eq!(parse(&Written(time).to_string()), Ok(time));
        }
    }

    #[test]
    fn a_time_is_written_in_the_longest_unit_that_it_has() {
        for (ns, text) in [
            (0, "0ns"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (1_875_000, "1.875ms"),
            (1_000_001, "1.000001ms"),
            (90 * NS_PER_S, "90s"),
        ] {
            assert_eq!(Written(Duration::from_nanos(ns)).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_the_reason() {
        use DurationError as E;
        let number = |text: &str| E::Number(text.into());
        let unit = |text: &str| E::Unit(text.into());
        for (text, error) in [
            ("", E::NoUnit),
            ("5", E::NoUnit),
            ("1m30", E::NoUnit),
            ("ms", number("")),
            (".s", number(".")),
            ("1.2.3s", number("1.2.3")),
            ("-1s", unit("-")),
            ("5 s", unit(" s")),
            ("5s ", unit("s ")),
            ("1e3ms", unit("e")),
            ("3w", unit("w")),
            ("1M", unit("M")),
            ("30s1m", E::Order),
            ("1s1s", E::Order),
            ("1m1min", E::Order),
            ("0.5ns", E::Fraction),
            ("1.0000000001s", E::Fraction),
            ("0.0000000000000000000000000000000000000001s", E::Fraction),
            ("213504d", E::TooLong),
            ("99999999999999999999999999999999999999999s", E::TooLong),
            ("213503d213503h", E::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
