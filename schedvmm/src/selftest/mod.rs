// SPDX-License-Identifier: Apache-2.0
//! Is the meter right on this machine? Gaps of known length are made, and looked for.

mod cases;
mod inject;
mod measure;
mod vcpu;

use std::fmt;
use std::io::Write;
use std::path::Path;

use gaps::evidence::Class;
use gaps::tsc::{Sources, has_rdtscp};
use guest::noise::{self, NoiseFloor};
use serde::Serialize;

use crate::placement;
use crate::status::{ExitStatus, Failure, OrFail};
use crate::units::show_ns;

/// How long the noise floor is measured.
const NOISE: std::time::Duration = std::time::Duration::from_millis(500);

/// What became of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// All found, with their length and cause.
    Passed,
    /// Not so.
    Failed,
    /// It cannot be tried here.
    Skipped,
}

/// One kind of gap.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// How many gaps were made.
    pub injected: usize,
    /// How many were found.
    pub found: usize,
    /// Their length.
    pub injected_ns: Option<u64>,
    /// Mean of the errors' sizes.
    pub mean_error_percent: Option<f64>,
    /// The largest error.
    pub worst_error_percent: Option<f64>,
    /// The largest error that passes.
    pub limit_ns: Option<u64>,
    /// Found gaps whose cause was told right, all of them being the scheduler's doing.
    pub class_right: usize,
    /// Gaps that something else on a noisy machine made longer, or of another class: up to a
    /// tenth of them are excused.
    pub disturbed: usize,
    /// How often it was tried: once more, and once again, where others on the machine disturbed
    /// it. What the meter does wrong it does wrong each time.
    pub attempts: u32,
    /// Why it failed, or was skipped.
    pub reason: String,
    /// Whether that may be somebody else's doing.
    #[serde(skip)]
    excusable: bool,
}

impl Case {
    /// One that cannot be tried here.
    fn skipped(name: &str, reason: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            status: Status::Skipped,
            injected: 0,
            found: 0,
            injected_ns: None,
            mean_error_percent: None,
            worst_error_percent: None,
            limit_ns: None,
            class_right: 0,
            disturbed: 0,
            attempts: 1,
            reason: reason.into(),
            excusable: false,
        }
    }

    /// One whose load broke down.
    fn broken(name: &str, reason: String) -> Self {
        Self { status: Status::Failed, ..Self::skipped(name, reason) }
    }

    /// One that was tried.
    fn judged(name: &str, tried: &Tried) -> Self {
        let percent = |ns: f64| 100.0 * ns / as_f64(tried.length_ns.max(1));
        let sizes = || tried.errors_ns.iter().map(|error| error.unsigned_abs());
        let worst_ns = sizes().max();
        let count = as_f64(tried.errors_ns.len() as u64);
        let mean_ns = worst_ns.map(|_| sizes().map(as_f64).sum::<f64>() / count);
        let (reason, excusable) = match tried.fault() {
            None => (String::new(), false),
            Some(Fault::Meter(text)) => (text, false),
            Some(Fault::Disturbed(text)) => (text, true),
        };
        Self {
            name: name.to_owned(),
            status: if reason.is_empty() { Status::Passed } else { Status::Failed },
            injected: tried.injected,
            found: tried.errors_ns.len(),
            injected_ns: Some(tried.length_ns),
            mean_error_percent: mean_ns.map(percent),
            worst_error_percent: worst_ns.map(|worst| percent(as_f64(worst))),
            limit_ns: Some(tried.limit_ns),
            class_right: tried.class_right,
            disturbed: tried.disturbed(),
            attempts: 1,
            reason,
            excusable,
        }
    }
}

/// What is wrong with a case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    /// A gap that is missing, or too short: nobody but the meter does that.
    Meter(String),
    /// Gaps that are too long, or of another class: whatever else runs here does that.
    Disturbed(String),
}

/// Tries a case, and tries it again while others disturb it.
fn try_case(case: &dyn Fn() -> Case) -> Case {
    /// A fault of the meter's own is there in each of them.
    const ATTEMPTS: u32 = 3;
    let mut attempts = 1;
    loop {
        let tried = case();
        if !tried.excusable || attempts == ATTEMPTS {
            return Case { attempts, ..tried };
        }
        attempts += 1;
    }
}

/// What a case has measured.
#[derive(Clone, Debug, Default)]
struct Tried {
    /// Gaps that were made.
    injected: usize,
    /// The fewest that make a case.
    least: usize,
    /// Their length.
    length_ns: u64,
    /// The largest error that passes.
    limit_ns: u64,
    /// The largest mean of the errors' sizes that passes, but for those that are excused.
    mean_limit_ns: Option<u64>,
    /// Errors of those that were found: positive for one that is too long.
    errors_ns: Vec<i64>,
    /// Found ones that are of the right class.
    class_right: usize,
    /// Found ones of each class.
    of_class: [usize; Class::ALL.len()],
    /// Something else was seen to take this CPU.
    noisy: bool,
}

impl Tried {
    /// Those that are too long, or of another class. Whatever else runs on a machine can only
    /// make a gap longer; nothing makes one too short but a fault of the meter.
    fn disturbed(&self) -> usize {
        let long = self.errors_ns.iter().filter(|error| **error > self.limit());
        long.count() + (self.errors_ns.len() - self.class_right)
    }

    fn limit(&self) -> i64 {
        i64::try_from(self.limit_ns).unwrap_or(i64::MAX)
    }

    /// Mean size of the errors that pass by themselves.
    fn mean_ns(&self) -> u64 {
        let sizes = self.errors_ns.iter().filter(|error| **error <= self.limit());
        let sizes: Vec<u64> = sizes.map(|error| error.unsigned_abs()).collect();
        sizes.iter().sum::<u64>() / (sizes.len() as u64).max(1)
    }

    /// What is wrong, if anything is.
    fn fault(&self) -> Option<Fault> {
        let found = self.errors_ns.len();
        if self.injected < self.least {
            let text = format!("{} gaps where at least {} should be", self.injected, self.least);
            return Some(Fault::Disturbed(text));
        }
        if found < self.injected {
            return Some(Fault::Meter(format!("{} gaps were not found", self.injected - found)));
        }
        let limit = show_ns(self.limit_ns);
        let shortest = self.errors_ns.iter().copied().min().unwrap_or(0);
        if shortest < -self.limit() {
            let short = show_ns(shortest.unsigned_abs());
            return Some(Fault::Meter(format!("too short by {short}, where {limit} may be")));
        }
        let excused = if self.noisy { found.div_ceil(10) } else { 0 };
        let mean = self.mean_limit_ns.map(|limit| (limit, self.mean_ns()));
        let disturbed = if self.disturbed() <= excused {
            let (limit, mean) = mean.filter(|(limit, mean)| mean > limit)?;
            format!("wrong by {} in the mean, where {} may be", show_ns(mean), show_ns(limit))
        } else if self.class_right < found {
            format!("{} gaps have the wrong class", found - self.class_right)
        } else {
            let longest = self.errors_ns.iter().copied().max().unwrap_or(0);
            format!("too long by {}, where {limit} may be", show_ns(longest.unsigned_abs()))
        };
        Some(Fault::Disturbed(disturbed))
    }
}

/// Everything that was tried.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    passed: bool,
    cases: Vec<Case>,
    skipped: usize,
    /// CPU on which the gaps were made.
    cpu: u32,
    /// What was found there before: limits are wider by its longest interruption.
    noise: NoiseFloor,
}

/// Tries all cases and prints what came of them.
///
/// # Errors
/// Nothing can be measured here at all.
pub fn run(kernel: Option<&Path>, json: bool) -> Result<ExitStatus, Failure> {
    let usable = placement::last_core();
    let cpu = usable.last().copied().and_then(|cpu| u32::try_from(cpu).ok());
    let host = |text: &str| Failure::new(ExitStatus::Host, text);
    let cpu = cpu.ok_or_else(|| host("no core of this machine may be used as a whole"))?;
    if !has_rdtscp() {
        return Err(host("this CPU has no RDTSCP instruction, which the meter reads time with"));
    }
    let mut sources = Sources::known(None);
    let khz = guest::load::tsc_frequency(&mut sources).or_fail(ExitStatus::Host)?.khz;
    let noise = {
        let _quiet = inject::Policy::fifo(inject::LOAD_PRIORITY);
        noise::measure(&[cpu], NOISE, khz).or_fail(ExitStatus::Host)?
    };
    let place = cases::Place {
        cpu,
        sources,
        khz,
        noise_ns: noise.longest_ns,
        kernel: kernel.map(Path::to_owned),
    };
    let mut cases = Vec::new();
    for case in place.all() {
        let case = try_case(&*case);
        if !json {
            say(&line(&case));
        }
        cases.push(case);
    }
    let passed = cases.iter().all(|case| case.status != Status::Failed);
    let skipped = cases.iter().filter(|case| case.status == Status::Skipped).count();
    let report = Report { schema: "schedvmm-selftest/1", passed, cases, skipped, cpu, noise };
    if json {
        say(&serde_json::to_string_pretty(&report).or_fail(ExitStatus::Internal)?);
    } else {
        say(&report.to_string());
    }
    Ok(if passed { ExitStatus::Pass } else { ExitStatus::Host })
}

/// A closed stdout takes the text; the status tells all the same.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn line(case: &Case) -> String {
    let status = match case.status {
        Status::Passed => "ok",
        Status::Failed => "FAILED",
        Status::Skipped => "skipped",
    };
    let percent = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.3} %"));
    let length = case.injected_ns.map_or_else(|| "-".into(), show_ns);
    let colon = if case.reason.is_empty() { "" } else { ": " };
    format!(
        "{:<14} {length:>9}  found {:>2} of {:>2}  error mean {:>9} worst {:>9}  cause right \
         {:>2}  {status}{colon}{}",
        case.name,
        case.found,
        case.injected,
        percent(case.mean_error_percent),
        percent(case.worst_error_percent),
        case.class_right,
        case.reason
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |status| self.cases.iter().filter(|case| case.status == status).count();
        write!(
            f,
            "CPU {}, longest interruption before {}: {} passed, {} failed, {} skipped",
            self.cpu,
            show_ns(self.noise.longest_ns),
            count(Status::Passed),
            count(Status::Failed),
            count(Status::Skipped)
        )
    }
}

/// A figure for a reader.
#[allow(clippy::cast_precision_loss)]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried() -> Tried {
        Tried {
            injected: 3,
            least: 2,
            length_ns: 1000,
            limit_ns: 10,
            errors_ns: vec![1, -2, 9],
            class_right: 3,
            noisy: false,
            ..Tried::default()
        }
    }

    #[test]
    fn a_case_passes_only_whole() {
        let good = Case::judged("x", &tried());
        assert_eq!((good.status, good.found, good.disturbed), (Status::Passed, 3, 0));
        assert_eq!((good.mean_error_percent, good.worst_error_percent), (Some(0.4), Some(0.9)));
        for (bad, text) in [
            (Tried { injected: 4, ..tried() }, "1 gaps were not found"),
            (Tried { injected: 1, ..tried() }, "at least 2"),
            (Tried { errors_ns: vec![1, 2, 11], ..tried() }, "too long by 11 ns"),
            (Tried { errors_ns: vec![1, 2, -11], ..tried() }, "too short by 11 ns"),
            (Tried { class_right: 2, ..tried() }, "wrong class"),
        ] {
            let case = Case::judged("x", &bad);
            assert_eq!(case.status, Status::Failed);
            assert!(case.reason.contains(text), "{}", case.reason);
            assert!(line(&case).contains("FAILED: "), "{}", line(&case));
        }
    }

    #[test]
    fn noise_excuses_one_gap_that_is_too_long_and_none_that_is_too_short() {
        let noisy = |errors_ns: &[i64], class_right| {
            let errors_ns = errors_ns.to_vec();
            Case::judged("x", &Tried { errors_ns, class_right, noisy: true, ..tried() }).status
        };
        assert_eq!(noisy(&[1, 2, 500], 3), Status::Passed);
        assert_eq!(noisy(&[1, 2, 3], 2), Status::Passed);
        assert_eq!(noisy(&[1, 2, 500], 2), Status::Failed);
        assert_eq!(noisy(&[1, 500, 500], 3), Status::Failed);
        assert_eq!(noisy(&[1, 2, -11], 3), Status::Failed);
    }

    #[test]
    fn the_mean_of_a_stop_has_a_limit_of_its_own() {
        let with = |mean_limit_ns| Tried { mean_limit_ns: Some(mean_limit_ns), ..tried() };
        assert_eq!(with(4).fault(), None);
        let fault = with(3).fault();
        assert!(matches!(&fault, Some(Fault::Disturbed(text)) if text.contains("in the mean")));
        // One that is excused is not in it.
        let noisy = Tried { errors_ns: vec![1, 2, 500], noisy: true, ..with(3) };
        assert_eq!(noisy.fault(), None);
    }

    #[test]
    fn a_disturbed_case_is_tried_again_and_a_wrong_meter_is_not() {
        use std::cell::Cell;
        let attempts = |errors_ns: [i64; 3], right_from: u32| {
            let count = Cell::new(0);
            let case = try_case(&|| {
                count.set(count.get() + 1);
                let bad = Tried { errors_ns: errors_ns.to_vec(), ..tried() };
                Case::judged("x", &if count.get() < right_from { bad } else { tried() })
            });
            assert_eq!(case.attempts, count.get());
            (case.status, case.attempts)
        };
        assert_eq!(attempts([1, 2, 11], 2), (Status::Passed, 2));
        assert_eq!(attempts([1, 2, 11], 9), (Status::Failed, 3));
        assert_eq!(attempts([1, 2, -11], 2), (Status::Failed, 1));
    }

    #[test]
    fn a_skipped_case_has_its_reason_and_no_figures() {
        assert_eq!(Case::broken("x", "no load".into()).status, Status::Failed);
        let case = Case::skipped("x", "no root");
        let json = serde_json::to_value(&case).expect("JSON");
        assert_eq!(
            (json["status"].as_str(), json["reason"].as_str()),
            (Some("skipped"), Some("no root"))
        );
        assert!(json["worst_error_percent"].is_null());
        assert!(line(&case).ends_with("skipped: no root"));
    }
}
