// SPDX-License-Identifier: Apache-2.0
//! Gaps with their places, and whose they are.

use std::fmt;

use gaps::evidence::Class;
use gaps::record::{GapKind, GapRecord};
use protocol::index::{Kind, Member};
use serde::{Deserialize, Serialize};

/// A thread of the load by its numbers, as they are shown and as files have them: the group's,
/// from 1, and its own in the group, from 1 (of a vCPU from 0).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Numbers {
    /// The group's.
    pub group: u32,
    /// Its own in the group.
    pub thread: u32,
}

impl Numbers {
    /// `3.1`: thread 1 of group 3, or vCPU 1 of VM 3.
    ///
    /// # Errors
    /// What is wrong, for clap to show beside the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = "name it as GROUP.THREAD with the numbers that are shown, such as 3.1";
        let Some((group, thread)) = text.split_once('.') else {
            return Err(format!("that does not say in which group; {wanted}"));
        };
        Ok(Self { group: number(group, wanted)?, thread: number(thread, wanted)? })
    }

    /// The thread, where the load's groups are this.
    ///
    /// # Errors
    /// There is none with these numbers.
    pub fn member(self, kind: Kind) -> Result<Member, &'static str> {
        Member::of_numbers(kind, self.group, self.thread)
    }

    /// Its name.
    pub fn name(self, kind: Kind) -> String {
        self.member(kind).map_or_else(|_| format!("thread {self}"), |member| member.to_string())
    }
}

fn number(text: &str, wanted: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no number; {wanted}"))
}

impl From<Member> for Numbers {
    fn from(member: Member) -> Self {
        Self { group: member.group.number(), thread: member.number() }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.thread)
    }
}

/// A gap with its place in the run, of `result.json` or of `gaps.csv`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedGap {
    /// The thread that had it.
    #[serde(flatten)]
    pub who: Numbers,
    /// Its number in its kernel; `None` where that is not known.
    pub tid: Option<u32>,
    /// From the start of the load.
    pub begin_ns: u64,
    /// Its length.
    pub length_ns: u64,
    /// The same in ticks of the TSC.
    pub length_ticks: u64,
    /// TSC before it.
    pub tsc_begin: u64,
    /// TSC after it.
    pub tsc_end: u64,
    /// CPU before it.
    pub cpu_begin: u32,
    /// CPU after it.
    pub cpu_end: u32,
    /// Who took the time.
    pub class: Class,
    /// What the thread waited after.
    pub kind: GapKind,
    /// It was not over when the load ended.
    pub unfinished: bool,
    /// So much longer it is for what the host did, as far as that is told.
    pub host_known_ns: u64,
    /// The most that it can be longer for what the host did; `None` where that is not known.
    pub host_ns: Option<u64>,
    /// What is left of its length without that: so much at least the host did not take.
    pub net_ns: Option<u64>,
}

impl LocatedGap {
    /// The same with what it is longer by for what the host did: as far as that is told, and at most.
    pub fn with_host(self, known_ns: u64, most_ns: Option<u64>) -> Self {
        let host_ns = most_ns.map(|most_ns| most_ns.min(self.length_ns));
        let net_ns = host_ns.map(|host_ns| self.length_ns - host_ns);
        Self { host_known_ns: known_ns.min(self.length_ns), host_ns, net_ns, ..self }
    }

    /// As it was measured.
    pub fn record(self) -> GapRecord {
        let Self { tsc_begin, tsc_end, cpu_begin, cpu_end, class, kind, unfinished, .. } = self;
        GapRecord {
            tsc_begin,
            tsc_end,
            cpu_begin,
            cpu_end,
            class,
            kind,
            unfinished,
            ..GapRecord::default()
        }
    }
}

/// Gaps that ended after the one that ended the run: it was being stopped by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterHit {
    /// How many there are.
    pub gaps: u64,
    /// Length of the longest.
    pub longest_ns: u64,
    /// The longest.
    pub longest: Option<LocatedGap>,
}

/// What the warm-up leaves out of all figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmup {
    /// How long it was, from the load's start on.
    pub time_ns: u64,
    /// Gaps that began in it.
    pub gaps: u64,
    /// Time waited in it, of all threads.
    pub gap_ns: u64,
    /// Length of the longest, with what of it came later.
    pub longest_ns: u64,
    /// How many went on beyond it: their rest is a gap of the figures.
    pub divided: u64,
}

/// Whether threads stayed on the CPUs that they were bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// Threads of the load, and vCPUs, that were not where they had been put in the end.
    pub lost: Vec<LostPin>,
    /// Recorded gaps on other CPUs than their thread was bound to.
    pub gaps_elsewhere: u64,
    /// Those CPUs, as a list.
    pub cpus_elsewhere: String,
}

/// Somebody who was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPin {
    /// Thread or vCPU, by its name.
    pub who: String,
    /// CPUs that it was bound to, as a list.
    pub bound_to: String,
    /// CPUs that it was allowed to use in the end.
    pub found_on: String,
}

impl fmt::Display for LostPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, bound_to, found_on } = self;
        write!(f, "{who} from CPUs {bound_to} to {found_on}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_named_as_they_are_shown() {
        assert_eq!(Numbers::parse("3.1"), Ok(Numbers { group: 3, thread: 1 }));
        for bad in ["3", "", "3.", ".1", "3.1.1", "a.b", "-1.1", "4294967296.1"] {
            let error = Numbers::parse(bad).expect_err(bad);
            assert!(error.contains("GROUP.THREAD"), "{error}");
        }
        assert!(Numbers::parse("5").is_err_and(|error| error.contains("in which group")));
        let who = Numbers { group: 3, thread: 1 };
        assert_eq!(who.name(Kind::Threads), "group 3 thread 1");
        assert_eq!(who.name(Kind::Vcpus), "VM 3 vCPU 1");
        assert_eq!(Numbers::default().name(Kind::Threads), "thread 0.0");
    }

    #[test]
    fn numbers_are_those_of_the_thread() {
        for kind in [Kind::Threads, Kind::Vcpus] {
            let member = Member::of_numbers(kind, 3, 1).expect("a thread");
            assert_eq!(Numbers::from(member), Numbers { group: 3, thread: 1 });
            assert_eq!(Numbers::from(member).to_string(), member.short());
        }
    }
}
