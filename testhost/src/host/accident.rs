// SPDX-License-Identifier: Apache-2.0
//! Accidents of the emulation, and how many of them a test suite forgives.
//!
//! QEMU's multi-threaded emulation loses races that hardware wins, the oftener the less CPU
//! time it has. A guest that was innocent then ends in one of the two ways of [`Accident`], or
//! it ends well and something in it took longer than it may on any machine. Nothing but the
//! number of such ends tells them from a defect of ours, so a case that met one, or failed, is
//! run once more, it says so and why, and a suite with more than a few of them has failed
//! ([`Retries`]), or with more than one that failed: a defect that is there each time fails twice.
//! The host itself may be let down in the same way, with all cases in it: then it is [`HostLost`],
//! and that counts as one.
//!
//! Guests in guests lost the machine around them, or the host, in most runs as long as they ran on
//! the emulated first CPU, too: see `Machine::cpus` in `qemu.rs`.

use std::fmt;

use results::model::{ReasonCode, RunResult, Stage};

/// The share of a suite's cases that may need another run, in percent; one case always may.
const MAX_PERCENT: usize = 5;
/// However large the suite is, no more than this.
const MAX: usize = 3;
/// Begins the suite's summary line.
const SUMMARY: &str = "emulation: ";

/// The emulated host ended, or stood still, before its command had: what was waited for, and the
/// end of its console.
#[derive(Debug)]
pub struct HostLost(pub String);

impl fmt::Display for HostLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HostLost {}

/// How a guest ends that the emulation has let down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accident {
    /// An interprocessor interrupt was lost: all vCPUs halted but one, which waits for the
    /// others to take part in the patching of kernel text. One in some forty runs on a busy
    /// machine.
    Hang,
    /// The guest triple-faulted and had printed nothing: before its first process in one of
    /// some thousand boots, or later where threads of its vCPUs change between CPUs. Since none
    /// runs on the first CPU it has not been seen.
    TripleFault,
}

impl Accident {
    /// The accident that a run met which left this result.
    ///
    /// A guest that hangs before its first process is not among them: that was never seen.
    pub fn of(result: &RunResult) -> Option<Self> {
        match (result.reason_code?, result.reason_stage?) {
            (ReasonCode::GuestHangs, Stage::Setup | Stage::Run | Stage::Finish) => Some(Self::Hang),
            (ReasonCode::TripleFault, Stage::Boot | Stage::Setup | Stage::Run) => {
                Some(Self::TripleFault)
            }
            _ => None,
        }
    }
}

/// Counts a suite's cases, and those that were run once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries {
    /// Cases that ran.
    pub cases: usize,
    /// Those of them that failed or met an accident, and were run once more.
    pub retried: usize,
    /// Those of them that had failed by their own check.
    pub failed: usize,
}

impl Retries {
    /// Whether the emulation alone explains so many.
    pub fn are_too_many(self) -> bool {
        self.retried > (self.cases * MAX_PERCENT / 100).clamp(1, MAX)
    }

    /// Whether another one may be run once more, however many are still to come; `failed` if by
    /// its own check, which one of all may.
    pub fn leave_room(self, failed: bool) -> bool {
        self.retried < MAX && !(failed && self.failed > 0)
    }

    /// Reads the count of retried cases back from a summary line.
    pub fn in_summary(line: &str) -> Option<u64> {
        line.trim().strip_prefix(SUMMARY)?.split_whitespace().next()?.parse().ok()
    }
}

impl fmt::Display for Retries {
    /// The summary line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, retried, .. } = self;
        write!(
            f,
            "{SUMMARY}{retried} of {cases} cases failed or met an accident and were run once more"
        )?;
        if self.are_too_many() {
            f.write_str("; that is too many for chance: FAILED")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// What a run met that ended so.
    fn met(code: ReasonCode, stage: Stage) -> Option<Accident> {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/tests/data");
        let packed = fs::read(sample.join("host.json.xz")).unwrap();
        let mut result: RunResult =
            serde_json::from_reader(liblzma::read::XzDecoder::new(&packed[..])).unwrap();
        assert_eq!(Accident::of(&result), None, "it ended well");
        (result.reason_code, result.reason_stage) = (Some(code), Some(stage));
        Accident::of(&result)
    }

    #[test]
    fn a_guest_that_stops_answering_is_an_accident_after_its_boot_only() {
        for stage in [Stage::Setup, Stage::Run, Stage::Finish] {
            assert_eq!(met(ReasonCode::GuestHangs, stage), Some(Accident::Hang), "{stage:?}");
        }
        for stage in [Stage::Boot, Stage::PowerOff] {
            assert_eq!(met(ReasonCode::GuestHangs, stage), None, "{stage:?}");
        }
    }

    #[test]
    fn a_triple_fault_is_an_accident_of_the_boot_or_the_load() {
        for stage in [Stage::Boot, Stage::Setup, Stage::Run] {
            let found = met(ReasonCode::TripleFault, stage);
            assert_eq!(found, Some(Accident::TripleFault), "{stage:?}");
        }
        assert_eq!(met(ReasonCode::TripleFault, Stage::Finish), None);
        for other in [ReasonCode::KernelPanic, ReasonCode::VcpuEnded, ReasonCode::Failed] {
            assert_eq!(met(other, Stage::Run), None, "{other:?}");
        }
    }

    #[test]
    fn a_few_are_forgiven_and_more_are_not() {
        let room = |retried, failed| {
            let so_far = Retries { cases: 1, retried, failed };
            [so_far.leave_room(false), so_far.leave_room(true)]
        };
        assert_eq!(room(0, 0), [true, true]);
        assert_eq!(room(2, 0), [true, true]);
        assert_eq!(room(2, 1), [true, false]);
        assert_eq!(room(3, 0), [false, false]);
        let too_many = |cases, retried| Retries { cases, retried, failed: 0 }.are_too_many();
        for (cases, most) in [(0, 1), (1, 1), (39, 1), (40, 2), (60, 3), (80, 3), (1000, 3)] {
            assert!(!too_many(cases, most), "{most} of {cases}");
            assert!(too_many(cases, most + 1), "{} of {cases}", most + 1);
        }
    }

    #[test]
    fn the_summary_is_read_as_it_is_written() {
        for retried in [0, 2, 17] {
            let line = Retries { cases: 90, retried, failed: 0 }.to_string();
            assert_eq!(Retries::in_summary(&line), Some(retried as u64), "{line}");
            assert_eq!(line.ends_with("FAILED"), retried == 17, "{line}");
        }
        assert_eq!(Retries::in_summary("test result: ok. 3 passed"), None);
    }
}
