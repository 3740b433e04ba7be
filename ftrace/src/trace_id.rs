// SPDX-License-Identifier: Apache-2.0
//! What tells one trace from another.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number that no other trace has: in a trace.dat its option `TRACEID`, which is trace-cmd's own.
/// For people and in JSON it has 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(NonZeroU64);

impl TraceId {
    /// A new one.
    pub fn random() -> Self {
        // Keyed with random numbers of the system's.
        Self::of(RandomState::new().hash_one(std::process::id())).unwrap_or(Self(NonZeroU64::MIN))
    }

    /// The one with this number; 0 is none.
    pub fn of(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// Its number.
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TraceId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.and_then(Self::of).ok_or("it has 16 hexadecimal digits, not all 0")
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(|why| de::Error::custom(format!("id: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_one_and_comes_back() {
        let (one, other) = (TraceId::random(), TraceId::random());
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_eq!(TraceId::of(255).map(|id| id.to_string()), Some("00000000000000ff".into()));
        for bad in ["", "0000000000000000", "ff", "+0000000000000ff", "zzzzzzzzzzzzzzzz"] {
            assert!(bad.parse::<TraceId>().is_err(), "{bad}");
        }
        assert_eq!(TraceId::of(0), None);
    }
}
