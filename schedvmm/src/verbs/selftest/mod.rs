// SPDX-License-Identifier: Apache-2.0
//! Is the meter right on this machine? Gaps of known length are made, and looked for.

mod case;
mod cases;
mod inject;
mod measure;
mod vcpu;

use std::fmt;
use std::path::Path;

use gaps::tsc::{Sources, has_rdtscp};
use protocol::error::Owner;
use results::json;
use results::selftest::{Answer, Case, Selftest, Status};
use vmm::kvm::Hypervisor;
use workload::noise_floor;

use crate::caller::{Caller, Demand, Meanwhile};
use crate::probe::{self, ProbeError};
use crate::progress::Progress;
use crate::status::{ExitStatus, Failure, OrFail};
use crate::units::show_ns;
use crate::verbs::selftest::case::{line, try_case};
use crate::{kernel, placement, signals, terminal};

/// Time for which the noise floor is measured.
const NOISE: std::time::Duration = std::time::Duration::from_millis(500);

/// All of it, for a reader.
struct Shown<'a>(&'a Selftest);

impl Shown<'_> {
    fn names(&self, wanted: impl Fn(&Case) -> bool) -> String {
        let named = self.0.cases.iter().filter(|case| wanted(case));
        named.map(|case| case.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The part that failed: the meter, or what was to be measured with it.
    fn failures(&self) -> String {
        match (&*failed_names(false, self), &*failed_names(true, self)) {
            (wrong, "") => format!("the meter is wrong on CPU {} in {wrong}", self.0.cpu),
            ("", broken) => format!("nothing could be measured in {broken}"),
            (wrong, broken) => format!(
                "the meter is wrong on CPU {} in {wrong}, and nothing could be measured in {broken}",
                self.0.cpu
            ),
        }
    }

    /// One line that has it all.
    fn summary(&self) -> String {
        let (cpu, all) = (self.0.cpu, self.0.cases.len());
        let passed = self.0.count(Status::Passed);
        match self.0.verdict {
            Answer::Pass => format!(
                "PASS: the meter is right on CPU {cpu}: {passed} of {all} cases, {} skipped",
                self.0.skipped
            ),
            Answer::Failed => {
                format!("FAILED: {}; {passed} of {all} cases are right", self.failures())
            }
            Answer::NotJudged if self.0.not_judged == 0 => {
                "NOT JUDGED: none of the cases can be tried here".into()
            }
            Answer::NotJudged => format!(
                "NOT JUDGED: this machine disturbed {} on CPU {cpu}; {passed} of {all} cases are \
                 right; repeat it when the machine is quiet",
                self.names(|case| case.status == Status::NotJudged)
            ),
        }
    }
}

fn failed_names(broken: bool, report: &Shown<'_>) -> String {
    report.names(|case| case.status == Status::Failed && case.is_broken() == broken)
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        self.0.cases.iter().try_for_each(|case| writeln!(f, "{}", line(case)))?;
        let longest = show_ns(self.0.noise.longest_ns);
        write!(f, "longest interruption of CPU {} before: {longest}", self.0.cpu)
    }
}

/// Tries all cases and prints what came of them.
///
/// # Errors
/// Nothing can be measured here at all.
pub fn run(kernel: Option<&Path>, allow_quota: bool, json: bool) -> Result<ExitStatus, Failure> {
    signals::end_at_once().or_fail(Owner::Host)?;
    kernel.map_or(Ok(()), can_boot)?;
    let mut caller = Caller::admit(Demand { cpus: 1, allow_quota, ..Demand::default() })?;
    let usable = placement::last_core();
    let cpu = usable.last().copied().and_then(|cpu| u32::try_from(cpu).ok());
    let cpu = cpu.ok_or_else(|| {
        Failure::host("the self-test needs a core of this machine that it may use as a whole")
    })?;
    if !has_rdtscp() {
        return Err(Failure::host(
            "this CPU has no RDTSCP instruction, which the meter reads time with",
        ));
    }
    let mut sources = Sources::known(None);
    let khz = workload::supervisor::tsc_frequency(&mut sources).or_fail(Owner::Host)?.khz;
    let noise = {
        let _quiet = inject::Policy::fifo(inject::LOAD_PRIORITY);
        noise_floor::measure(&[cpu], NOISE, khz).or_fail(Owner::Host)?
    };
    let place = cases::Place {
        cpu,
        sources,
        khz,
        noise_ns: noise.longest_ns,
        kernel: kernel.map(Path::to_owned),
    };
    for note in caller.notes() {
        // stdout has the table, or the object, and nothing else.
        terminal::err(&format!("schedvmm: {note}"));
    }
    let all = place.all();
    let bar = Progress::new();
    bar.phase("self-test", all.len() as u64);
    caller.load_begins();
    let mut cases = Vec::new();
    for case in all {
        cases.push(try_case(&*case));
        bar.at(cases.len() as u64);
    }
    bar.done();
    let Meanwhile { faults, .. } = caller.load_ended();
    if !faults.is_empty() {
        return Err(Failure::kernel(faults.join("; ")));
    }
    let report = Selftest::of(cases, cpu, noise, caller.facts().clone());
    let text = if json {
        json::pretty(&report).or_fail(Owner::Internal)?
    } else {
        Shown(&report).to_string()
    };
    terminal::product(&text)?;
    Ok(if report.passed { ExitStatus::Pass } else { ExitStatus::Host })
}

/// Whether there may be a machine with this kernel: neither a file that is none nor a host without
/// KVM is a fault of the meter.
fn can_boot(path: &Path) -> Result<(), Failure> {
    kernel::open(path, &[])?;
    match probe::run(&Hypervisor::open(Path::new(vmm::kvm::DEVICE))?, probe::PROBE_TIMEOUT) {
        Ok(_) | Err(ProbeError::Undecided(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::noise::NoiseFloor;
    use results::model::CallerFacts;

    use super::*;

    fn report(statuses: &[Status]) -> Selftest {
        let case = |status| {
            let mut case = Case::skipped("x", "");
            (case.status, case.limit_ns) = (status, Some(1));
            case
        };
        let cases = statuses.iter().copied().map(case).collect();
        Selftest::of(cases, 3, NoiseFloor::default(), CallerFacts::default())
    }

    #[test]
    fn nothing_passes_where_something_was_not_judged() {
        use Status::{Failed, NotJudged, Passed, Skipped};
        for (statuses, verdict, words) in [
            (&[Passed, Passed][..], Answer::Pass, "PASS: the meter is right on CPU 3: 2 of 2"),
            (&[Passed, Skipped], Answer::Pass, "1 of 2 cases, 1 skipped"),
            (&[Passed, NotJudged], Answer::NotJudged, "NOT JUDGED: this machine disturbed x"),
            (&[Passed, NotJudged, Failed], Answer::Failed, "FAILED: the meter is wrong on CPU 3"),
            (&[Skipped, Skipped], Answer::NotJudged, "NOT JUDGED: none of the cases can"),
        ] {
            let report = report(statuses);
            assert_eq!((report.verdict, report.passed), (verdict, verdict == Answer::Pass));
            let text = Shown(&report).to_string();
            let first = text.lines().next().unwrap_or_default();
            assert!(first.contains(words), "{text}");
            assert_eq!(text.lines().count(), statuses.len() + 2, "{text}");
        }
        // A kernel that does not boot is no fault of the meter.
        let mut broken = report(&[Passed]).cases;
        broken.push(Case::broken("y", "no machine".into()));
        let of = |cases| Selftest::of(cases, 3, NoiseFloor::default(), CallerFacts::default());
        let text = Shown(&of(broken)).summary();
        assert_eq!(text, "FAILED: nothing could be measured in y; 1 of 2 cases are right");
        let mut both = report(&[Failed]).cases;
        both.push(Case::broken("y", "no machine".into()));
        let text = Shown(&of(both)).summary();
        assert!(text.contains("wrong on CPU 3 in x, and nothing could be measured in y"), "{text}");
        let json = serde_json::to_value(report(&[Status::NotJudged])).expect("JSON");
        assert_eq!(json["verdict"], "not-judged");
        assert_eq!(json["cases"][0]["status"], "not-judged");
    }
}
