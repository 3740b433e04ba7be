// SPDX-License-Identifier: Apache-2.0
//! What a case has measured, and what follows: right, wrong, or nothing, because the machine
//! disturbed it.

use gaps::evidence::Class;
use results::selftest::{Case, Status};

use crate::units::show_ns;

/// A case as it was tried once.
pub struct Attempt {
    /// What came of it.
    pub case: Case,
    /// True if another attempt may come out better.
    again: bool,
}

impl Attempt {
    /// Of a case that cannot be tried here.
    pub fn skipped(name: &str, reason: impl Into<String>) -> Self {
        Self { case: Case::skipped(name, reason), again: false }
    }

    /// Of one whose load broke down.
    pub fn broken(name: &str, reason: String) -> Self {
        Self { case: Case::broken(name, reason), again: false }
    }

    /// Of one that was tried.
    pub fn judged(name: &str, tried: &Tried) -> Self {
        let worst_ns = tried.errors_ns.iter().map(|error| error.unsigned_abs()).max();
        let mean_ns = worst_ns.map(|_| tried.mean_ns());
        let fault = tried.fault();
        let again = matches!(fault, Some(Fault::Disturbed { .. }));
        let (status, reason) = match fault {
            None => (Status::Passed, String::new()),
            Some(Fault::Meter(text)) => (Status::Failed, text),
            Some(Fault::Disturbed { text, by_ns }) => tried.explain(&text, by_ns),
        };
        let case = Case {
            name: name.to_owned(),
            status,
            injected: tried.injected,
            found: tried.found,
            injected_ns: Some(tried.length_ns),
            mean_error_ns: mean_ns,
            mean_error_percent: mean_ns.map(|ns| percent(ns, tried.length_ns)),
            mean_limit_ns: tried.mean_limit_ns,
            worst_error_ns: worst_ns,
            worst_error_percent: worst_ns.map(|ns| percent(ns, tried.length_ns)),
            limit_ns: Some(tried.limit_ns),
            noise_ns: Some(tried.noise_ns),
            class_right: tried.class_right,
            disturbed: tried.disturbed(),
            attempts: 1,
            reason,
        };
        Self { case, again }
    }
}

/// A case as the line of a table.
pub fn line(case: &Case) -> String {
    let status = match case.status {
        Status::Passed => "ok",
        Status::Failed => "FAILED",
        Status::NotJudged => "not judged",
        Status::Skipped => "skipped",
    };
    let limit = case.limit_ns.map_or_else(String::new, |limit| format!(" of {}", show_ns(limit)));
    let colon = if case.reason.is_empty() { "" } else { ": " };
    format!(
        "{:<14} {:>9}  found {:>2} of {:>2}  error mean {:>8}, worst {:>8}{limit}  cause right \
         {:>2}  {status}{colon}{}",
        case.name,
        ns_or_dash(case.injected_ns),
        case.found,
        case.injected,
        ns_or_dash(case.mean_error_ns),
        ns_or_dash(case.worst_error_ns),
        case.class_right,
        case.reason
    )
}

fn percent(ns: u64, whole_ns: u64) -> f64 {
    100.0 * as_f64(ns) / as_f64(whole_ns.max(1))
}

fn ns_or_dash(value: Option<u64>) -> String {
    value.map_or_else(|| "-".into(), show_ns)
}

/// Fault of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A gap that is missing, or too short: nobody but the meter does that.
    Meter(String),
    /// Gaps that are too long, or of another class: whatever else runs here does that too, if it
    /// takes the CPU for so long.
    Disturbed {
        /// What they are.
        text: String,
        /// Least time for which the CPU must have been taken for that.
        by_ns: u64,
    },
}

/// Tries a case, and tries it again while others disturb it.
pub fn try_case(case: &dyn Fn() -> Attempt) -> Case {
    /// A fault of the meter's own is there in each of them.
    const ATTEMPTS: u32 = 3;
    let mut attempts = 1;
    loop {
        let tried = case();
        if !tried.again || attempts == ATTEMPTS {
            return Case { attempts, ..tried.case };
        }
        attempts += 1;
    }
}

/// Of so many gaps one may be disturbed by what was not seen meanwhile: a wrong meter is wrong about
/// more than one in four.
const FOUND_PER_DISTURBED: usize = 4;

/// Measurements of a case.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// Gaps that were made.
    pub injected: usize,
    /// The fewest that make a case.
    pub least: usize,
    /// Their length.
    pub length_ns: u64,
    /// The largest error that passes.
    pub limit_ns: u64,
    /// The largest mean of the errors' sizes that passes.
    pub mean_limit_ns: Option<u64>,
    /// Gaps that were found.
    pub found: usize,
    /// Their errors, where their true length is known: positive for one that is too long.
    pub errors_ns: Vec<i64>,
    /// How far from known the length of the others is, at worst.
    pub doubt_ns: u64,
    /// Found ones that are of the right class.
    pub class_right: usize,
    /// Found ones of each class.
    pub of_class: [usize; Class::ALL.len()],
    /// The longest interruption of this CPU that was seen with nothing injected.
    pub noise_ns: u64,
}

impl Tried {
    /// Records a gap that was found.
    pub fn add(&mut self, found_ns: u64, injected_ns: u64, class: Class) {
        self.errors_ns.push(found_ns.cast_signed() - injected_ns.cast_signed());
        self.add_doubtful(0, class);
    }

    /// One whose true length is not known well enough.
    pub fn add_doubtful(&mut self, doubt_ns: u64, class: Class) {
        self.found += 1;
        self.doubt_ns = self.doubt_ns.max(doubt_ns);
        self.of_class[class as usize] += 1;
        self.class_right = self.of_class[Class::ScheduledOut as usize];
    }

    /// Those that are too long, or of another class. Whatever else runs on a machine can only
    /// make a gap longer; nothing makes one too short but a fault of the meter.
    fn disturbed(&self) -> usize {
        let long = self.errors_ns.iter().filter(|error| **error > self.limit());
        long.count() + (self.found - self.class_right)
    }

    fn limit(&self) -> i64 {
        i64::try_from(self.limit_ns).unwrap_or(i64::MAX)
    }

    /// Mean size of the errors.
    fn mean_ns(&self) -> u64 {
        let sum: u64 = self.errors_ns.iter().map(|error| error.unsigned_abs()).sum();
        sum / (self.errors_ns.len() as u64).max(1)
    }

    /// Whether those that are not too long are right in the mean.
    fn others_are_right(&self) -> bool {
        let others = self.errors_ns.iter().copied().filter(|error| *error <= self.limit());
        let others = Self { errors_ns: others.collect(), ..self.clone() };
        self.mean_limit_ns.is_none_or(|limit_ns| others.mean_ns() <= limit_ns)
    }

    /// Whether what else was seen on this CPU explains a fault: then nothing follows for the meter.
    fn explain(&self, text: &str, by_ns: u64) -> (Status, String) {
        let noise = show_ns(self.noise_ns);
        // Two interruptions of that length may have met one gap.
        if by_ns <= self.noise_ns.saturating_mul(2) {
            let text = format!("{text}; interruptions of up to {noise} are there without a stop");
            return (Status::NotJudged, text);
        }
        let (disturbed, found) = (self.disturbed(), self.found);
        if (1..=found / FOUND_PER_DISTURBED).contains(&disturbed) && self.others_are_right() {
            // The noise is what was seen in some moments, and rare interruptions are longer.
            let text = format!("{text}; so are {disturbed} of {found}, and the others are right");
            return (Status::NotJudged, text);
        }
        let text = format!("{text}; no interruption over {noise} is there without a stop");
        (Status::Failed, text)
    }

    /// What is wrong, if anything is.
    pub fn fault(&self) -> Option<Fault> {
        let limit = show_ns(self.limit_ns);
        let longest = self.errors_ns.iter().copied().max().unwrap_or(0);
        let shortest = self.errors_ns.iter().copied().min().unwrap_or(0);
        if self.injected < self.least {
            let text = format!("{} gaps where at least {} should be", self.injected, self.least);
            return disturbed(text, self.length_ns / 2);
        }
        if self.found < self.injected {
            return Some(Fault::Meter(format!(
                "{} gaps were not found",
                self.injected - self.found
            )));
        }
        if shortest < -self.limit() {
            let short = show_ns(shortest.unsigned_abs());
            return Some(Fault::Meter(format!("too short by {short}, where {limit} may be")));
        }
        if longest > self.limit() {
            let text =
                format!("too long by {}, where {limit} may be", show_ns(longest.unsigned_abs()));
            return disturbed(text, longest.unsigned_abs().saturating_sub(self.limit_ns));
        }
        if self.class_right < self.found {
            // A gap is called by who had more than half of it.
            let text = format!("{} gaps have the wrong class", self.found - self.class_right);
            return disturbed(text, self.length_ns / 2);
        }
        if self.errors_ns.len() < self.found {
            let text = format!(
                "of {} stops the length is not known: a signal took up to {} to be sent",
                self.found - self.errors_ns.len(),
                show_ns(self.doubt_ns)
            );
            // Whoever makes them was held up, which needs no further proof.
            return disturbed(text, 0);
        }
        let (limit_ns, mean_ns) = (self.mean_limit_ns?, self.mean_ns());
        let text = format!(
            "wrong by {} in the mean, where {} may be",
            show_ns(mean_ns),
            show_ns(limit_ns)
        );
        (mean_ns > limit_ns)
            .then(|| Fault::Disturbed { text, by_ns: mean_ns.saturating_sub(limit_ns) })
    }
}

fn disturbed(text: String, by_ns: u64) -> Option<Fault> {
    Some(Fault::Disturbed { text, by_ns })
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
            found: 3,
            errors_ns: vec![1, -2, 9],
            class_right: 3,
            ..Tried::default()
        }
    }

    fn status(tried: &Tried) -> Status {
        Attempt::judged("x", tried).case.status
    }

    #[test]
    fn a_case_passes_only_whole() {
        let good = Attempt::judged("x", &tried()).case;
        assert_eq!((good.status, good.found, good.disturbed), (Status::Passed, 3, 0));
        assert_eq!((good.mean_error_percent, good.worst_error_percent), (Some(0.4), Some(0.9)));
        assert!(line(&good).contains("worst     9 ns of 10 ns"), "{}", line(&good));
        for (bad, text) in [
            (Tried { injected: 4, ..tried() }, "1 gaps were not found"),
            (Tried { injected: 1, ..tried() }, "at least 2"),
            (Tried { errors_ns: vec![1, 2, 11], ..tried() }, "too long by 11 ns"),
            (Tried { errors_ns: vec![1, 2, -11], ..tried() }, "too short by 11 ns"),
            (Tried { class_right: 2, ..tried() }, "wrong class"),
        ] {
            let case = Attempt::judged("x", &bad).case;
            assert_eq!(case.status, Status::Failed);
            assert!(case.reason.contains(text), "{}", case.reason);
            assert!(line(&case).contains("FAILED: "), "{}", line(&case));
        }
    }

    /// A stop of 1 ms that was found 36.94 ms too long: the machine was at work, or the meter is
    /// wrong; right it was not.
    #[test]
    fn a_loaded_machine_is_told_and_judges_nothing() {
        let loaded = |noise_ns| Tried {
            length_ns: 1_000_000,
            limit_ns: 70_000,
            mean_limit_ns: Some(70_000),
            errors_ns: vec![12_000, 36_940_000, 9_000],
            noise_ns,
            ..tried()
        };
        let case = Attempt::judged("stop-1ms", &loaded(40_000_000)).case;
        assert_eq!(case.status, Status::NotJudged);
        assert_eq!(case.worst_error_percent, Some(3694.0));
        let line = line(&case);
        assert!(line.contains("worst  36.9 ms of 70.0 µs"), "{line}");
        assert!(line.contains("not judged: too long by 36.9 ms, where 70.0 µs may be;"), "{line}");
        assert!(line.contains("interruptions of up to 40.0 ms"), "{line}");
        // A quiet machine does not do that.
        assert_eq!(status(&loaded(50_000)), Status::Failed);
        assert_eq!(status(&loaded(0)), Status::Failed);
    }

    #[test]
    fn noise_explains_what_is_too_long_and_nothing_that_is_too_short() {
        let noisy = |errors_ns: &[i64], class_right| {
            let errors_ns = errors_ns.to_vec();
            status(&Tried { errors_ns, class_right, noise_ns: 600, ..tried() })
        };
        assert_eq!(noisy(&[1, 2, 9], 3), Status::Passed);
        assert_eq!(noisy(&[1, 2, 500], 3), Status::NotJudged);
        assert_eq!(noisy(&[1, 500, 500], 3), Status::NotJudged);
        assert_eq!(noisy(&[1, 2, 3], 2), Status::NotJudged);
        assert_eq!(noisy(&[1, 2, 5000], 3), Status::Failed);
        assert_eq!(noisy(&[1, 2, -11], 3), Status::Failed);
    }

    /// 1 ms too long, on a machine whose interruptions were short while it was watched.
    #[test]
    fn few_of_many_that_are_too_long_judge_nothing() {
        let with = |long: usize, short: usize| {
            let errors_ns = [vec![5; 20 - long - short], vec![1000; long], vec![-11; short]];
            let (errors_ns, found) = (errors_ns.concat(), 20);
            let case = Tried { injected: 20, found, class_right: 20, errors_ns, ..tried() };
            Attempt::judged("x", &Tried { noise_ns: 30, ..case }).case
        };
        let case = with(2, 0);
        assert_eq!(case.status, Status::NotJudged);
        assert!(case.reason.contains("so are 2 of 20"), "{}", case.reason);
        assert_eq!((with(5, 0).status, with(6, 0).status), (Status::NotJudged, Status::Failed));
        assert_eq!(with(1, 1).status, Status::Failed, "nothing makes one too short");
        let drift = |mean_limit_ns| Tried {
            injected: 20,
            found: 20,
            class_right: 20,
            errors_ns: [vec![5; 18], vec![1000; 2]].concat(),
            mean_limit_ns: Some(mean_limit_ns),
            noise_ns: 30,
            ..tried()
        };
        assert_eq!(status(&drift(5)), Status::NotJudged);
        assert_eq!(status(&drift(4)), Status::Failed, "the others are wrong, too");
    }

    #[test]
    fn a_stop_of_unknown_length_is_no_evidence() {
        let mut tried = Tried { injected: 4, ..tried() };
        tried.of_class[Class::ScheduledOut as usize] = 3;
        tried.add_doubtful(300, Class::ScheduledOut);
        let case = Attempt::judged("x", &tried).case;
        assert_eq!((case.status, case.found, case.class_right), (Status::NotJudged, 4, 4));
        assert!(case.reason.contains("took up to 300 ns to be sent"), "{}", case.reason);
    }

    #[test]
    fn the_mean_of_a_stop_has_a_limit_of_its_own() {
        let with = |mean_limit_ns| Tried { mean_limit_ns: Some(mean_limit_ns), ..tried() };
        assert_eq!(with(4).fault(), None);
        let fault = with(3).fault();
        assert!(matches!(&fault, Some(Fault::Disturbed { text, .. }) if text.contains("the mean")));
        assert_eq!(status(&with(3)), Status::Failed);
        assert_eq!(status(&Tried { noise_ns: 1, ..with(3) }), Status::NotJudged);
    }

    #[test]
    fn a_disturbed_case_is_tried_again_and_a_wrong_meter_is_not() {
        use std::cell::Cell;
        let attempts = |errors_ns: [i64; 3], right_from: u32| {
            let count = Cell::new(0);
            let case = try_case(&|| {
                count.set(count.get() + 1);
                let bad = Tried { errors_ns: errors_ns.to_vec(), ..tried() };
                Attempt::judged("x", &if count.get() < right_from { bad } else { tried() })
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
        assert_eq!(Attempt::broken("x", "no load".into()).case.status, Status::Failed);
        let case = Attempt::skipped("x", "no root").case;
        let json = serde_json::to_value(&case).expect("JSON");
        assert_eq!(
            (json["status"].as_str(), json["reason"].as_str()),
            (Some("skipped"), Some("no root"))
        );
        assert!(json["worst_error_percent"].is_null());
        assert!(line(&case).ends_with("skipped: no root"));
    }
}
