// SPDX-License-Identifier: Apache-2.0
//! Sets of CPUs in the kernel's list form.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// CPU numbers a set can hold, as glibc's `cpu_set_t`.
pub const MAX_CPUS: u32 = 1024;

/// A set of CPU numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u32>);

/// Why a text is not a list of CPUs.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not a list of CPUs below {MAX_CPUS}, such as 0-3,8")]
pub struct CpuListError {
    text: String,
}

impl CpuSet {
    /// The numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// True if there is no CPU in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the CPU is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// CPUs of this set that are not in `other`.
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// CPUs of this set that are in `other`, too.
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// A mask as the kernel writes it: hexadecimal, in pieces of 32 bits, the highest first.
    pub fn from_mask(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for (first, word) in (0..MAX_CPUS).step_by(32).zip(text.trim().rsplit(',')) {
            let word = u32::from_str_radix(word, 16).ok()?;
            cpus.extend((0..32).filter(|bit| word >> bit & 1 == 1).map(|bit| first + bit));
        }
        Some(Self(cpus))
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().map_err(|_| not_a_list(text))?;
            let last: u32 = last.trim().parse().map_err(|_| not_a_list(text))?;
            if last < first || last >= MAX_CPUS {
                return Err(not_a_list(text));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

fn not_a_list(text: &str) -> CpuListError {
    CpuListError { text: text.trim().to_owned() }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_in_their_shortest_form() {
        for (text, shortest) in [
            ("", ""),
            ("0\n", "0"),
            ("2-3", "2-3"),
            ("3,2", "2-3"),
            ("0-2,4,6-7\n", "0-2,4,6-7"),
            ("1023", "1023"),
        ] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), shortest);
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["a", "3-2", "1024", "0-99999999999", "-1", "1-", "0-1-2"] {
            text.parse::<CpuSet>().expect_err(text);
        }
    }

    #[test]
    fn masks_are_read_as_the_kernel_writes_them() {
        for (mask, list) in
            [("0\n", ""), ("c", "2-3"), ("00000001,80000000,0000000f", "0-3,63-64"), ("8", "3")]
        {
            assert_eq!(CpuSet::from_mask(mask), Some(list.parse().unwrap()), "{mask}");
        }
        for bad in ["", "MC", "1,,2", "100000000", "-1"] {
            assert_eq!(CpuSet::from_mask(bad), None, "{bad}");
        }
    }
}
