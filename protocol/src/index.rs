// SPDX-License-Identifier: Apache-2.0
//! What groups and threads of the load are called.
//!
//! Inside, everything is an index from 0. People and files know groups from 1, and threads from 1
//! within their group; vCPUs of a virtual machine are numbered from 0, as KVM and the guest number
//! them. The types here keep the index and show the number, so that the two cannot be mixed up.

use std::fmt;

use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A group of the load: `group 3` is the third. Its number, from 1, is what is written to files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(u32);

impl GroupIndex {
    /// The group at this place; a place that no load has room for is the last that there can be.
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX).min(u32::MAX - 1))
    }

    /// The group with this number; there is no group 0.
    pub fn of_number(number: u32) -> Option<Self> {
        number.checked_sub(1).map(Self)
    }

    /// Its place, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Its number, from 1.
    pub fn number(self) -> u32 {
        self.0 + 1
    }
}

impl fmt::Display for GroupIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.number())
    }
}

impl Serialize for GroupIndex {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(self.number())
    }
}

impl<'de> Deserialize<'de> for GroupIndex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(from)?;
        Self::of_number(number).ok_or_else(|| de::Error::custom("groups are numbered from 1"))
    }
}

/// A thread within its group: `thread 1` is the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadIndex(u32);

impl ThreadIndex {
    /// The thread at this place of its group.
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX).min(u32::MAX - 1))
    }

    /// Its place in its group, from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ThreadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}", self.0 + 1)
    }
}

/// What the groups of a load are.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Groups of threads.
    #[default]
    Threads,
    /// Virtual machines, each a group of its vCPUs' threads.
    Vcpus,
}

impl Kind {
    /// A group's name: `group 3` or `VM 3`.
    pub fn group_name(self, group: GroupIndex) -> String {
        match self {
            Self::Threads => group.to_string(),
            Self::Vcpus => format!("VM {}", group.number()),
        }
    }
}

/// A thread of the load: `group 3 thread 1`, or `VM 3 vCPU 0`. Files have the two numbers under
/// the names `group` and `thread`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// What it is.
    pub kind: Kind,
    /// Its group.
    pub group: GroupIndex,
    /// Which of the group's threads.
    pub thread: ThreadIndex,
}

impl Member {
    /// The one with these numbers, as shown.
    ///
    /// # Errors
    /// There is no such number.
    pub fn of_numbers(kind: Kind, group: u32, thread: u32) -> Result<Self, &'static str> {
        let group = GroupIndex::of_number(group).ok_or("groups are numbered from 1")?;
        let index = match kind {
            Kind::Threads => thread.checked_sub(1).ok_or("threads are numbered from 1")?,
            Kind::Vcpus => thread,
        };
        Ok(Self { kind, group, thread: ThreadIndex::new(index as usize) })
    }

    /// Its number within its group, as shown: from 1, of a vCPU from 0.
    pub fn number(self) -> u32 {
        match self.kind {
            Kind::Threads => self.thread.0 + 1,
            Kind::Vcpus => self.thread.0,
        }
    }

    /// Its name within its group: `thread 1` or `vCPU 0`.
    pub fn name(self) -> String {
        match self.kind {
            Kind::Threads => self.thread.to_string(),
            Kind::Vcpus => format!("vCPU {}", self.number()),
        }
    }

    /// Both numbers in short, `3.1`: in the names of the kernel's tasks, in histograms' tags, and
    /// as options take it.
    pub fn short(self) -> String {
        format!("{}.{}", self.group.number(), self.number())
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without allocation: the marker of a gap over the threshold is written so.
        match self.kind {
            Kind::Threads => write!(f, "{} {}", self.group, self.thread),
            Kind::Vcpus => write!(f, "VM {} vCPU {}", self.group.number(), self.number()),
        }
    }
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("group", &self.group)?;
        map.serialize_entry("thread", &self.number())?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(kind: Kind) -> Member {
        Member { kind, group: GroupIndex::new(2), thread: ThreadIndex::new(0) }
    }

    #[test]
    fn groups_and_threads_are_called_from_one_and_vcpus_from_zero() {
        let (thread, vcpu) = (member(Kind::Threads), member(Kind::Vcpus));
        assert_eq!((thread.to_string(), thread.short()), ("group 3 thread 1".into(), "3.1".into()));
        assert_eq!((vcpu.to_string(), vcpu.short()), ("VM 3 vCPU 0".into(), "3.0".into()));
        assert_eq!(Kind::Vcpus.group_name(vcpu.group), "VM 3");
        assert_eq!((thread.name(), vcpu.name()), ("thread 1".into(), "vCPU 0".into()));
    }

    #[test]
    fn files_have_the_numbers_that_are_shown() {
        let json = |member: Member| serde_json::to_string(&member).unwrap();
        assert_eq!(json(member(Kind::Threads)), r#"{"group":3,"thread":1}"#);
        assert_eq!(json(member(Kind::Vcpus)), r#"{"group":3,"thread":0}"#);
        assert_eq!(serde_json::from_str::<GroupIndex>("3").unwrap(), GroupIndex::new(2));
        assert!(serde_json::from_str::<GroupIndex>("0").is_err());
        for kind in [Kind::Threads, Kind::Vcpus] {
            let shown = member(kind);
            let read = Member::of_numbers(kind, shown.group.number(), shown.number());
            assert_eq!(read, Ok(shown));
            assert!(Member::of_numbers(kind, 0, 1).is_err());
        }
        assert!(Member::of_numbers(Kind::Threads, 1, 0).is_err());
    }

    #[test]
    fn no_index_overflows_its_number() {
        let last = Member::of_numbers(Kind::Threads, u32::MAX, u32::MAX).unwrap();
        assert_eq!(last.short(), format!("{0}.{0}", u32::MAX));
        assert_eq!(GroupIndex::new(usize::MAX).number(), u32::MAX);
        assert_eq!(Member { thread: ThreadIndex::new(usize::MAX), ..last }.number(), u32::MAX);
    }
}
