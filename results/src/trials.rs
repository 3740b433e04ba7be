// SPDX-License-Identifier: Apache-2.0
//! `trials.json`: many runs of one kernel under the same conditions, each in a result folder of its
//! own beside it. Written after every trial, and read again by whoever goes on with them, lists or
//! compares them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use decision::interval::{Interval, Median};
use gaps::pauses::{SPLITMIX64_GAMMA, splitmix64};
use protocol::job::{Job, Pv, Transport};
use serde::{Deserialize, Serialize};

use crate::metric::Metric;
use crate::model::{Answer, Entered, HostFacts, ReasonCode};
use crate::set_file::SetFile;

/// Version of the format; raised when a field changes its meaning or goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrialsSchema {
    /// The first.
    #[default]
    #[serde(rename = "schedvmm-trials/1")]
    V1,
}

/// The whole of `trials.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trials {
    /// Version of the format.
    pub schema: TrialsSchema,
    /// Of the program.
    pub version: String,
    /// As the program was called, the last time that it was.
    pub command_line: Vec<String>,
    /// Where it was called.
    pub working_directory: Option<PathBuf>,
    /// When the first trial was begun.
    pub started_utc: String,
    /// How many trials there are to be.
    pub planned: u32,
    /// When it ends before that.
    pub until: Until,
    /// What every trial is done under.
    pub conditions: Conditions,
    /// Why no trial follows; `None` while trials go on, and of a process that was killed.
    pub ended: Option<Ended>,
    /// What those that count come to; `None` while trials go on.
    pub summary: Option<Summary>,
    /// Every time that a machine was started, in order; a trial is repeated where it is no answer.
    pub attempts: Vec<Attempt>,
}

/// What trials come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many count.
    pub measured: u32,
    /// Attempts that were contaminated.
    pub contaminated: u32,
    /// How many trials had a gap over the threshold; `None` without a threshold, or without trials.
    pub over_threshold: Option<OverThreshold>,
    /// Of each figure that is known of a trial. Trials that ended at a gap over the threshold are
    /// among those of the longest gap only.
    pub metrics: Vec<MetricSummary>,
}

/// How many trials had a gap over the threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverThreshold {
    /// The threshold, where there was one.
    pub threshold_ns: Option<u64>,
    /// Limits on figures, and above: such runs count, too.
    #[serde(default)]
    pub limits: Vec<String>,
    /// So many had one.
    pub hits: u32,
    /// Of so many.
    pub trials: u32,
    /// Of the probability that a trial has one: Clopper and Pearson's, two-sided.
    pub interval: Interval,
    /// It is at most this, one-sided, with the same confidence.
    pub at_most: f64,
    /// The same two numbers with contaminated attempts counted, too.
    pub with_contaminated: (u32, u32),
}

/// A figure of all trials.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricSummary {
    /// Which.
    pub metric: Metric,
    /// Of how many trials it is known.
    pub trials: u32,
    /// Its median, with an exact interval by order statistics where there are enough. Nanoseconds,
    /// or parts of 1.
    #[serde(flatten)]
    pub median: Median,
}

/// When trials end before all have been done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Not.
    #[default]
    All,
    /// As soon as no further trial can change the exit status: at the first gap over the threshold.
    Decided,
}

/// Why no trial follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// All have been done.
    All,
    /// [`Until::Decided`], and it is.
    Decided,
    /// By a signal.
    Interrupted,
    /// Too many were contaminated.
    HostUnfit,
    /// The kernel could not be tested twice in a row.
    Untestable,
    /// A trial could not be done, or its result not be kept.
    Failed,
}

/// What every trial of a set is done under. Trials of other conditions are no trials of this set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// What the seed of each trial is made of ([`seed_of`]).
    pub seed: u64,
    /// The kernel under test.
    pub kernel: TrialKernel,
    /// That of second-level guests, where it is another one.
    #[serde(default)]
    pub l2_kernel: Option<TrialKernel>,
    /// The job of the agent, without a seed and without the identity of a trace: these are each
    /// trial's own.
    pub job: Job,
    /// The machine.
    pub machine: TrialMachine,
    /// Which trials are contaminated.
    pub terms: TrialTerms,
    /// What a run fails by beside the threshold (`--fail-if`).
    #[serde(default)]
    pub limits: Vec<String>,
    /// The host.
    pub host: HostFacts,
}

/// The kernel under test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialKernel {
    /// The file that was read.
    pub path: PathBuf,
    /// Length of the kernel itself.
    pub bytes: u64,
    /// Checksum of it.
    pub crc32: u32,
}

/// The machine that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialMachine {
    /// How many.
    pub cpus: u32,
    /// Hyperthreads.
    pub threads_per_core: u32,
    /// Its memory.
    pub memory_mib: u64,
    /// Host CPUs of its vCPUs; empty where they are not pinned.
    pub pins: Vec<usize>,
    /// KVM paravirtual features that it sees.
    pub pv: Pv,
    /// How it reaches its devices; `None` leaves it to the kernel.
    pub transport: Option<Transport>,
    /// How the kernel is to be entered.
    pub entered: Entered,
    /// The kernel's command line, without what the machine itself adds.
    pub cmdline: String,
}

/// Which trials are contaminated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrialTerms {
    /// Greatest share of the time that the host may take, of 1.
    pub steal_budget: f64,
    /// Greatest share of the time that may be lost without a load, of 1.
    pub noise_budget: f64,
    /// None is (`--on-contaminated report`).
    pub report_contaminated: bool,
}

/// A machine that was started for a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Of which trial, from 1.
    pub trial: u32,
    /// The how many-eth of this trial, from 1.
    pub attempt: u32,
    /// Its result folder, beside `trials.json`.
    pub folder: String,
    /// Seed of its pauses: that of its trial.
    pub seed: u64,
    /// When it began.
    pub started_utc: String,
    /// How long it took, from before the machine was built to after it was gone.
    pub took_ms: u64,
    /// What it is for its trial.
    pub state: State,
    /// Why it does not count, for a person; empty where it does.
    pub why: String,
    /// The answer of the run; `None` where it left none.
    pub verdict: Option<Answer>,
    /// As the run alone would have exited.
    pub exit_status: Option<u8>,
    /// What kept it from an answer, for programs; `None` where nothing did.
    pub reason_code: Option<ReasonCode>,
    /// Whether it ended at a gap over the threshold: its figures end there, too.
    pub over_threshold: bool,
    /// Cookies were wanted, and the kernel has none: it says nothing of core scheduling.
    pub cookies_missing: bool,
    /// Its figures; those that are not known are left out.
    pub metrics: BTreeMap<Metric, f64>,
}

impl Attempt {
    /// Of a machine that is about to be started, with nothing found.
    pub fn begun(trial: u32, attempt: u32, folder: String, seed: u64, started_utc: String) -> Self {
        Self {
            trial,
            attempt,
            folder,
            seed,
            started_utc,
            took_ms: 0,
            state: State::Running,
            why: String::new(),
            verdict: None,
            exit_status: None,
            reason_code: None,
            over_threshold: false,
            cookies_missing: false,
            metrics: BTreeMap::new(),
        }
    }

    /// Whether its kernel failed: a gap over the threshold, or a figure over its limit.
    pub fn failed(&self) -> bool {
        self.over_threshold || self.verdict == Some(Answer::OverLimit)
    }

    /// Whether it was measured and yet says nothing of that: a figure that has a limit may be the
    /// host's, or is not known. Its figures are those of a whole run all the same.
    pub fn is_undecided(&self) -> bool {
        self.state == State::Measured && self.verdict == Some(Answer::Untestable)
    }
}

/// What an attempt is for its trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It goes on.
    Running,
    /// It counts.
    Measured,
    /// Others had a part in it: the trial is done again.
    Contaminated,
    /// The kernel could not be tested: the trial is done again, once.
    Untestable,
    /// Ended by a signal: the trial is done again when the trials go on.
    Interrupted,
    /// The process was killed while it went on: the same.
    CutOff,
    /// It counted, but for one of another kernel that was to be compared with it: both are done
    /// again.
    Unpaired,
    /// It could not be done, or its result not be kept.
    Failed,
}

impl Trials {
    /// None yet, under these conditions.
    pub fn new(conditions: Conditions) -> Self {
        Self {
            schema: TrialsSchema::V1,
            version: String::new(),
            command_line: Vec::new(),
            working_directory: None,
            started_utc: String::new(),
            planned: 0,
            until: Until::All,
            conditions,
            ended: None,
            summary: None,
            attempts: Vec::new(),
        }
    }

    /// Those that count, by the number of their trial.
    pub fn measured(&self) -> impl Iterator<Item = &Attempt> {
        let mut measured: Vec<_> =
            self.attempts.iter().filter(|it| it.state == State::Measured).collect();
        measured.sort_by_key(|attempt| attempt.trial);
        measured.into_iter()
    }

    /// How many attempts are so.
    pub fn count(&self, state: State) -> u32 {
        let count = self.attempts.iter().filter(|attempt| attempt.state == state).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The next trial that has no answer, and the how many-eth attempt at it that will be; `None`
    /// when all have one.
    pub fn next(&self) -> Option<(u32, u32)> {
        let measured: BTreeSet<_> = self.measured().map(|attempt| attempt.trial).collect();
        let trial = (1..=self.planned).find(|trial| !measured.contains(trial))?;
        let last = self.attempts.iter().filter(|it| it.trial == trial).map(|it| it.attempt).max();
        Some((trial, last.unwrap_or(0).saturating_add(1)))
    }
}

impl SetFile for Trials {
    const NAME: &'static str = "trials.json";
    const SCHEMA: &'static str = "schedvmm-trials/1";
    const VERB: &'static str = "trials";

    /// What types alone do not say: nobody is led out of the folder by what a file says.
    fn fault(&self) -> Option<String> {
        let strange = self.attempts.iter().find(|attempt| {
            attempt.folder != folder_name(attempt.trial, attempt.attempt) || attempt.trial == 0
        });
        let strange = strange.map(|it| format!("`{}` is no folder of a trial", it.folder));
        let known: Vec<_> = self.attempts.iter().map(|it| (it.trial, it.attempt)).collect();
        let twice = (1..known.len()).find(|at| known[..*at].contains(&known[*at]));
        let counts: Vec<_> = self.measured().map(|it| it.trial).collect();
        let again = (1..counts.len()).find(|at| counts[..*at].contains(&counts[*at]));
        let again = again.map(|at| format!("trial {} was measured twice", counts[at]));
        let twice = twice.map(|at| format!("attempt {} is there twice", at + 1));
        strange.or(twice).or(again)
    }
}

/// What an attempt's folder is called.
pub fn folder_name(trial: u32, attempt: u32) -> String {
    match attempt {
        1 => format!("trial-{trial:03}"),
        _ => format!("trial-{trial:03}-{attempt}"),
    }
}

/// The seed of a trial (from 1), from that of its set: `SplitMix64`'s output number `trial`, short enough
/// to be typed. Seeds of one set that are near each other make trials that have nothing in common.
pub fn seed_of(set: u64, trial: u32) -> u64 {
    const SEEDS: u64 = 1_000_000_000;
    let before = u64::from(trial).wrapping_sub(1);
    let mut state = set.wrapping_add(before.wrapping_mul(SPLITMIX64_GAMMA));
    splitmix64(&mut state) % SEEDS
}

#[cfg(test)]
mod tests {
    use protocol::job::CoschedRequest;

    use super::*;
    use crate::testing;

    fn attempt(trial: u32, number: u32, state: State) -> Attempt {
        Attempt {
            trial,
            attempt: number,
            folder: folder_name(trial, number),
            seed: seed_of(7, trial),
            started_utc: "2026-11-22T20:15:00Z".into(),
            took_ms: 35_000,
            state,
            why: String::new(),
            verdict: Some(Answer::Pass),
            exit_status: Some(0),
            reason_code: None,
            cookies_missing: false,
            over_threshold: false,
            metrics: BTreeMap::from([(Metric::Longest, 41_900_000.0)]),
        }
    }

    fn trials(attempts: Vec<Attempt>) -> Trials {
        Trials {
            schema: TrialsSchema::V1,
            version: "0.1.0".into(),
            command_line: vec!["schedvmm".into()],
            working_directory: None,
            started_utc: "2026-11-22T20:15:00Z".into(),
            planned: 4,
            until: Until::All,
            conditions: Conditions {
                seed: 7,
                kernel: TrialKernel { path: "bzImage".into(), bytes: 5, crc32: 6 },
                l2_kernel: None,
                job: Job::new(testing::load(2, 2), CoschedRequest::Auto),
                machine: TrialMachine { cmdline: "quiet".into(), ..TrialMachine::default() },
                terms: TrialTerms { steal_budget: 0.005, ..TrialTerms::default() },
                limits: Vec::new(),
                host: HostFacts::default(),
            },
            ended: None,
            summary: None,
            attempts,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let written = trials(vec![
            attempt(1, 1, State::Measured),
            attempt(2, 1, State::Contaminated),
            attempt(2, 2, State::Measured),
        ]);
        written.write(dir.path()).expect("written");
        assert_eq!(Trials::open(dir.path()).expect("read"), written);
        assert_eq!(written.measured().map(|it| it.attempt).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((written.next(), written.count(State::Contaminated)), (Some((3, 1)), 1));
    }

    #[test]
    fn a_trial_without_an_answer_is_done_again() {
        let next = |attempts| trials(attempts).next();
        assert_eq!(next(Vec::new()), Some((1, 1)));
        assert_eq!(next(vec![attempt(1, 1, State::CutOff)]), Some((1, 2)));
        let all: Vec<_> = (1..=4).map(|trial| attempt(trial, 1, State::Measured)).collect();
        assert_eq!(next(all.clone()), None);
        assert_eq!(next(all[1..].to_vec()), Some((1, 1)));
    }

    #[test]
    fn seeds_are_each_trials_own() {
        let seeds: std::collections::BTreeSet<_> =
            (0..20).flat_map(|set| (1..=50).map(move |trial| seed_of(set, trial))).collect();
        assert_eq!(seeds.len(), 1000);
        // They are in files: they never change.
        assert_eq!([1, 2, 3].map(|trial| seed_of(1_234_567, trial)), SEEDS);
    }

    /// The first three outputs of splitmix64.c with seed 1234567, by 10^9.
    const SEEDS: [u64; 3] = [
        6_457_827_717_110_365_317 % 1_000_000_000,
        3_203_168_211_198_807_973 % 1_000_000_000,
        9_817_491_932_198_370_423 % 1_000_000_000,
    ];

    #[test]
    fn what_is_none_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let refused = |text: &str| {
            std::fs::write(dir.path().join(Trials::NAME), text).expect("written");
            Trials::open(dir.path()).expect_err("none").to_string()
        };
        assert!(refused("{").contains("trials.json is no trials.json"), "{}", refused("{"));
        assert!(refused(r#"{"schema": "schedvmm-trials/9"}"#).contains("schedvmm-trials/9"));
        assert!(refused(r#"{"schema": "schedvmm-trials/1"}"#).contains("missing field"));
        let mut led_away = trials(vec![attempt(1, 1, State::Measured)]);
        led_away.attempts[0].folder = "../other".into();
        let text = serde_json::to_string(&led_away).expect("JSON");
        assert!(refused(&text).contains("`../other` is no folder of a trial"));
        let twice = trials(vec![attempt(1, 1, State::Measured), attempt(1, 1, State::Measured)]);
        let text = serde_json::to_string(&twice).expect("JSON");
        assert!(refused(&text).contains("attempt 2 is there twice"));
        let both = trials(vec![attempt(1, 1, State::Measured), attempt(1, 2, State::Measured)]);
        let text = serde_json::to_string(&both).expect("JSON");
        assert!(refused(&text).contains("trial 1 was measured twice"));
        let none = Trials::open(&dir.path().join("none")).expect_err("none").to_string();
        assert!(none.contains("cannot read"), "{none}");
    }
}
