// SPDX-License-Identifier: Apache-2.0
//! What the report shows of a result folder, beside what [`Stored`] has to explain it. Every
//! field may be missing: a result tells what its run got to know, and older ones know less.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::index::{GroupIndex, Kind};
use serde::Deserialize;
use serde_json::Value;

use crate::co_run::CoRun;
use crate::core_figures::CoreFigures;
use crate::result_file::ResultFile;
use crate::status::Failure;
use crate::stored::{self, Numbers, Stored};
use crate::summary::{Fairness, Statistics, Steal};

/// `result.json`, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "docs/formats.md describes them")]
pub struct Saved {
    pub version: String,
    pub target: String,
    pub command_line: Vec<String>,
    pub started_utc: String,
    pub verdict: String,
    pub reason: String,
    pub notes: Vec<String>,
    pub longest_gap: Option<Gap>,
    pub threshold_hit: Option<Gap>,
    pub after_hit: Option<AfterHit>,
    pub too_short: Option<String>,
    pub cosched: Cosched,
    pub setup: Option<Setup>,
    pub job: Job,
    pub statistics: Statistics,
    pub fairness: BTreeMap<String, Fairness>,
    pub expected: Expected,
    pub forced_idle: ForcedIdle,
    pub co_run: Option<CoRun>,
    pub core_figures: CoreFigures,
    pub steal: Steal,
    pub threads: Vec<Thread>,
    pub groups: Vec<Group>,
    pub vms: Vec<Vm>,
    pub tsc: Option<Tsc>,
    pub kernel: Value,
    pub host: Value,
    pub machine: Value,
    pub phases_ms: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Gap {
    #[serde(flatten)]
    pub who: Numbers,
    pub tid: Option<i32>,
    pub begin_ns: u64,
    pub length_ns: u64,
    pub tsc_begin: u64,
    pub tsc_end: u64,
    pub cpu_begin: u32,
    pub cpu_end: u32,
    pub class: String,
}

/// Gaps that ended after the one over the threshold.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct AfterHit {
    pub gaps: u64,
    pub longest_ns: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Cosched {
    pub requested: String,
    pub mechanism: Option<String>,
    pub note: Option<String>,
    /// `None` in older results.
    pub missing: Option<bool>,
    pub cookies: Vec<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Setup {
    pub trace_clock: Option<String>,
    pub tsc_khz: u64,
    pub knobs: Vec<Knob>,
    pub scheduler: Value,
    pub noise: Option<Noise>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Knob {
    pub request: String,
    pub file: Option<String>,
    pub effective: Option<String>,
    pub note: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Noise {
    pub duration_ns: u64,
    pub longest_ns: u64,
    pub gap_share: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Job {
    pub load: Load,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Load {
    pub name: Option<String>,
    pub shape: Vec<Shape>,
    pub cpus: Vec<u32>,
    pub seed: u64,
    pub duration_ns: u64,
    pub floor_ns: u64,
    pub threshold_ns: Option<u64>,
}

/// One group of the load.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Shape {
    pub threads: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Expected {
    pub gap_ns: Option<u64>,
    pub inflation: Option<f64>,
    pub note: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct ForcedIdle {
    pub ns: Option<u64>,
    pub share: Option<f64>,
    pub note: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Thread {
    #[serde(flatten)]
    pub who: Numbers,
    pub tid: i32,
    pub complete: bool,
    pub longest_gap_ns: u64,
    pub gap_histogram_ns: Vec<(u64, u64)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Group {
    pub group: u32,
    pub cookie: Option<u64>,
    pub gaps: u64,
    pub longest_gap_ns: u64,
    pub gap_share: Option<f64>,
    pub cpu_share: Option<f64>,
    pub wakeup_longest_ns: Option<u64>,
    pub wakeup_due_ns: Option<u64>,
    pub statistics: Statistics,
}

/// One virtual machine.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Vm {
    pub vm: u32,
    pub phase: String,
    pub fault: Option<String>,
    pub threads: Vec<VmThread>,
    pub gaps: u64,
    pub longest_gap_ns: u64,
    pub longest_gap_by_vcpu_ns: Vec<u64>,
    pub gap_share: Option<f64>,
    pub cpu_share: Option<f64>,
    pub rss_kib: Option<u64>,
    pub pss_kib: Option<u64>,
    pub times: VmTimes,
    pub meter: Option<Meter>,
    pub console_tail: Option<String>,
}

/// The thread of one vCPU.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct VmThread {
    pub cookie: u64,
    pub run_ns: Option<u64>,
    pub wait_ns: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct VmTimes {
    pub standing_ns: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Meter {
    pub kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Tsc {
    pub khz: u64,
    pub source: Value,
}

impl Cosched {
    /// Whether `auto` found no way to give cookies to groups that want them.
    pub fn is_missing(&self) -> bool {
        let none = || self.requested == "auto" && self.mechanism.as_deref() == Some("none");
        self.missing.unwrap_or_else(none)
    }
}

impl Saved {
    /// Reads the result of a folder, or this very file; with what explains it, and its folder.
    ///
    /// # Errors
    /// There is none, or one of another program or version: a usage error.
    pub fn open(path: &Path) -> Result<(Self, Stored, PathBuf), Failure> {
        let file = ResultFile::read(path)?;
        let mut saved: Self = file.of_it()?;
        let stored = Stored::of(&file)?;
        if saved.is_nested() {
            // Nothing is expected of machines, whatever an older version said.
            saved.expected = Expected::default();
        }
        Ok((saved, stored, file.folder))
    }

    /// Fills in histograms of threads that did not report: the guest ended before, and only
    /// single gaps had arrived.
    pub fn complete_from_gaps(&mut self, stored: &Stored, folder: &Path) {
        if self.threads.iter().all(|thread| thread.complete) {
            return;
        }
        let Ok(gaps) = stored::gaps(folder, stored) else { return };
        let mut lengths: BTreeMap<Numbers, BTreeMap<u64, u64>> = BTreeMap::new();
        for gap in gaps.into_iter().filter(|gap| stored.counts(gap)) {
            *lengths.entry(gap.who).or_default().entry(gap.length_ns).or_default() += 1;
        }
        for thread in self.threads.iter_mut().filter(|thread| !thread.complete) {
            let found = lengths.remove(&thread.who).unwrap_or_default();
            thread.gap_histogram_ns = found.into_iter().collect();
        }
    }

    /// The gap that the run is about: the one that ended it, else the longest.
    pub fn gap(&self) -> Option<&Gap> {
        self.threshold_hit.as_ref().or(self.longest_gap.as_ref())
    }

    /// What the groups of the load were.
    pub fn kind(&self) -> Kind {
        stored::kind(&self.target)
    }

    /// Whether the load was virtual machines.
    pub fn is_nested(&self) -> bool {
        self.kind() == Kind::Vcpus
    }

    /// What the group with this number is called.
    pub fn group_name(&self, group: u32) -> String {
        let group = GroupIndex::of_number(group);
        group.map_or_else(|| "a group without a number".into(), |it| self.kind().group_name(it))
    }
}
