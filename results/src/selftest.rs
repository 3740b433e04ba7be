// SPDX-License-Identifier: Apache-2.0
//! What `schedvmm selftest --json` prints: whether the meter is right on this machine.

use protocol::noise::NoiseFloor;
use serde::{Deserialize, Serialize};

use crate::model::CallerFacts;

/// Version of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schema {
    /// With cases that are not judged.
    #[default]
    #[serde(rename = "schedvmm-selftest/2")]
    V2,
}

/// What all cases come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// All that could be tried is right.
    Pass,
    /// Something is wrong.
    Failed,
    /// Nothing is wrong, and of something it cannot be told.
    NotJudged,
}

/// Everything that was tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Selftest {
    /// Its version.
    pub schema: Schema,
    /// What it comes to.
    pub verdict: Answer,
    /// Whether that is [`Answer::Pass`].
    pub passed: bool,
    /// All kinds of gaps, in the order in which they were tried.
    pub cases: Vec<Case>,
    /// How many of them could not be tried.
    pub skipped: usize,
    /// How many could not be judged.
    pub not_judged: usize,
    /// CPU on which the gaps were made.
    pub cpu: u32,
    /// What was found there before.
    pub noise: NoiseFloor,
    /// What schedvmm itself was given to run with.
    pub caller: CallerFacts,
}

impl Selftest {
    /// What these cases come to on this CPU.
    pub fn of(cases: Vec<Case>, cpu: u32, noise: NoiseFloor, caller: CallerFacts) -> Self {
        let (failed, not_judged) =
            (count(Status::Failed, &cases), count(Status::NotJudged, &cases));
        let verdict = match (failed, not_judged, count(Status::Passed, &cases)) {
            (0, 0, 1..) => Answer::Pass,
            (0, ..) => Answer::NotJudged,
            _ => Answer::Failed,
        };
        Self {
            schema: Schema::default(),
            verdict,
            passed: verdict == Answer::Pass,
            skipped: count(Status::Skipped, &cases),
            not_judged,
            cases,
            cpu,
            noise,
            caller,
        }
    }

    /// How many cases are of this status.
    pub fn count(&self, status: Status) -> usize {
        count(status, &self.cases)
    }
}

fn count(status: Status, cases: &[Case]) -> usize {
    cases.iter().filter(|case| case.status == status).count()
}

/// Outcome of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All found, with their length and cause.
    Passed,
    /// Not so.
    Failed,
    /// Not so, and what else this machine does explains it: nothing follows for the meter.
    NotJudged,
    /// It cannot be tried here.
    Skipped,
}

/// One kind of gap.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// Number of gaps made.
    pub injected: usize,
    /// Number found.
    pub found: usize,
    /// Their length.
    pub injected_ns: Option<u64>,
    /// Mean of the errors' sizes.
    pub mean_error_ns: Option<u64>,
    /// The same, in per cent of their length.
    pub mean_error_percent: Option<f64>,
    /// The largest mean that passes.
    pub mean_limit_ns: Option<u64>,
    /// The largest error.
    pub worst_error_ns: Option<u64>,
    /// The same, in per cent of their length.
    pub worst_error_percent: Option<f64>,
    /// The largest error that passes.
    pub limit_ns: Option<u64>,
    /// The longest interruption that was seen before, between and after them.
    pub noise_ns: Option<u64>,
    /// Found gaps whose cause was told right, all of them being the scheduler's doing.
    pub class_right: usize,
    /// Gaps that are too long, or of another class: what else a machine does makes them so.
    pub disturbed: usize,
    /// How often it was tried: once more, and once again, where others on the machine disturbed
    /// it. What the meter does wrong it does wrong each time.
    pub attempts: u32,
    /// Why it did not pass.
    pub reason: String,
}

impl Case {
    /// One that cannot be tried here.
    pub fn skipped(name: &str, reason: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status: Status::Skipped,
            injected: 0,
            found: 0,
            injected_ns: None,
            mean_error_ns: None,
            mean_error_percent: None,
            mean_limit_ns: None,
            worst_error_ns: None,
            worst_error_percent: None,
            limit_ns: None,
            noise_ns: None,
            class_right: 0,
            disturbed: 0,
            attempts: 1,
            reason: reason.into(),
        }
    }

    /// One whose load broke down.
    pub fn broken(name: &str, reason: String) -> Self {
        Self { status: Status::Failed, ..Self::skipped(name, reason) }
    }

    /// True if there was nothing to judge the meter by.
    pub fn is_broken(&self) -> bool {
        self.status == Status::Failed && self.limit_ns.is_none()
    }
}
