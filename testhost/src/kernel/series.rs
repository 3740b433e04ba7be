// SPDX-License-Identifier: Apache-2.0
//! Which kernel is meant: a series by its number, or the oldest or newest there is.

use std::fmt;
use std::str::FromStr;

/// A series of kernel versions, such as 6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// Version.
    pub major: u32,
    /// Patch level.
    pub minor: u32,
}

impl Series {
    /// The last long-term series whose fair scheduler is CFS.
    pub const CFS: Self = Self::new(6, 1);
    /// The series that emulated hosts run; its fair scheduler is EEVDF.
    pub const HOST: Self = Self::new(6, 12);

    /// A series.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The series of a package version such as `6.12.95-1~bpo12+1` or `7.3~rc7-1~exp1`.
    pub(super) fn of_version(version: &str) -> Option<Self> {
        let end = version.find(['-', '~', '+']).unwrap_or(version.len());
        let mut numbers = version[..end].split('.').map(|number| number.parse().ok());
        Some(Self::new(numbers.next()??, numbers.next()??))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A kernel as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The oldest series that is offered.
    Oldest,
    /// The newest version that is offered.
    Newest,
    /// This series.
    Series(Series),
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Series(Series::HOST)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oldest => f.write_str("oldest"),
            Self::Newest => f.write_str("newest"),
            Self::Series(series) => series.fmt(f),
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "oldest" => Ok(Self::Oldest),
            "newest" => Ok(Self::Newest),
            _ => parse_series(text).map(Self::Series).ok_or_else(|| {
                format!(
                    "\"{text}\" is none of oldest, newest and a series such as {}; \
                     `cargo xtask kernel --list` shows what there is",
                    Series::HOST
                )
            }),
        }
    }
}

fn parse_series(text: &str) -> Option<Series> {
    let (major, minor) = text.split_once('.')?;
    Some(Series::new(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_reads_as_it_prints() {
        for text in ["oldest", "newest", "6.1", "6.12", "7.3"] {
            assert_eq!(text.parse::<Wanted>().map(|wanted| wanted.to_string()), Ok(text.into()));
        }
        for bad in ["", "6", "6.", "six.one", "6.12.95", "latest"] {
            let error = bad.parse::<Wanted>().unwrap_err();
            assert!(error.contains("--list"), "{error}");
        }
    }

    #[test]
    fn package_versions_name_their_series() {
        let of = |version| Series::of_version(version);
        assert_eq!(of("6.12.95-1~bpo12+1"), Some(Series::HOST));
        assert_eq!(of("6.1.176-1"), Some(Series::CFS));
        assert_eq!(of("7.3~rc7-1~exp1"), Some(Series::new(7, 3)));
        assert_eq!(of("7.2-1"), Some(Series::new(7, 2)));
        assert_eq!(of("work"), None);
        assert!(Series::CFS < Series::HOST);
    }
}
