// SPDX-License-Identifier: Apache-2.0
//! One trial after the other: which comes next, what becomes of one that is no answer, and when
//! there are enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::error::Owner;
use results::folder::{self, FolderError};
use results::metric::Metric;
use results::model::{Answer, ReasonCode, RunResult};
use results::set_file::SetFile as _;
use results::trials::{Attempt, Conditions, Ended, State, TrialTerms, Trials, Until};
use results::trials::{folder_name, seed_of};

use super::summary;
use crate::doubt::{self, Noise};
use crate::measurement::millis;
use crate::status::{ExitStatus, Failure, chain};

/// More of the attempts than this may not be contaminated.
const CONTAMINATED_SHARE: f64 = 0.3;

/// Starts machines that measure.
pub trait Boot {
    /// One run with this seed, its result in this new folder.
    ///
    /// # Errors
    /// It could not be begun.
    fn boot(&mut self, seed: u64, folder: &Path) -> Result<Run, Failure>;

    /// A signal that has come.
    fn signal(&self) -> Option<i32>;
}

/// A run that was begun.
pub struct Run {
    /// What it came to.
    pub result: RunResult,
    /// Whether that is in its folder.
    pub kept: Result<(), FolderError>,
}

/// Trials that go on.
pub struct Series {
    /// What there is so far, as in the file.
    pub trials: Trials,
    /// Where they are.
    pub folder: PathBuf,
    /// Why they could not go on.
    failure: Option<Failure>,
}

impl Series {
    /// Those in this folder: the ones that are `there`, of this version and under these conditions, or
    /// none yet.
    ///
    /// # Errors
    /// Both versions, or what is not alike.
    pub fn begin(
        folder: PathBuf,
        there: Option<Trials>,
        conditions: Conditions,
    ) -> Result<Self, Failure> {
        let trials = match there {
            Some(there) => {
                check_version(&there, &folder)?;
                check_alike(&there.conditions, &conditions, &folder)?;
                there
            }
            None => Trials { started_utc: folder::started_utc(), ..Trials::new(conditions) },
        };
        let trials = Trials {
            version: env!("CARGO_PKG_VERSION").into(),
            command_line: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect(),
            working_directory: std::env::current_dir().ok(),
            ..trials
        };
        Ok(Self::new(trials, folder))
    }

    /// The same in a folder in the one of a comparison, which is made where it is not there.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin), or it cannot be made.
    pub fn begin_in(folder: PathBuf, conditions: Conditions) -> Result<Self, Failure> {
        let there = Trials::is_in(&folder).then(|| Trials::open(&folder)).transpose()?;
        if there.is_none() {
            fs::create_dir_all(&folder)
                .map_err(|source| FolderError::Create { path: folder.clone(), source })?;
        }
        let series = Self::begin(folder, there, conditions)?;
        series.write()?;
        Ok(series)
    }

    /// Those in this folder. What was under way when an earlier process was killed is done again.
    pub fn new(mut trials: Trials, folder: PathBuf) -> Self {
        for attempt in trials.attempts.iter_mut().filter(|it| it.state == State::Running) {
            attempt.state = State::CutOff;
            "the process was killed while it went on".clone_into(&mut attempt.why);
        }
        (trials.ended, trials.summary) = (None, None);
        Self { trials, folder, failure: None }
    }

    /// Does what is left, and tells of each attempt.
    ///
    /// # Errors
    /// The file cannot be written. What was measured stays.
    pub fn go_on(
        &mut self,
        boot: &mut impl Boot,
        mut tell: impl FnMut(&Self),
    ) -> Result<(), Failure> {
        // What ended an earlier call ends this one only if it happens again.
        self.trials.ended = self.is_decided().then_some(Ended::Decided);
        while self.trials.ended.is_none() {
            let Some((trial, number)) = self.trials.next() else {
                self.trials.ended = Some(Ended::All);
                break;
            };
            if boot.signal().is_some() {
                self.trials.ended = Some(Ended::Interrupted);
                break;
            }
            self.attempt(trial, number, boot)?;
            tell(self);
        }
        let ended = self.trials.ended.unwrap_or(Ended::All);
        self.end(ended)
    }

    /// Nothing follows, for this reason.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn end(&mut self, ended: Ended) -> Result<(), Failure> {
        self.trials.ended = Some(ended);
        self.trials.summary = Some(summary::of(&self.trials));
        self.write()
    }

    /// One attempt at a trial, on the disk before and after.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn attempt(
        &mut self,
        trial: u32,
        number: u32,
        boot: &mut impl Boot,
    ) -> Result<(), Failure> {
        let folder = folder_name(trial, number);
        let seed = seed_of(self.trials.conditions.seed, trial);
        let attempt = Attempt::begun(trial, number, folder.clone(), seed, folder::started_utc());
        self.trials.attempts.push(attempt);
        self.write()?;
        let begin = Instant::now();
        let run = boot.boot(seed, &self.folder.join(folder));
        let terms = self.trials.conditions.terms;
        let Some(attempt) = self.trials.attempts.last_mut() else { return Ok(()) };
        attempt.took_ms = millis(begin.elapsed());
        match run {
            Ok(run) => {
                fill(attempt, &run.result, terms);
                if let Err(error) = run.kept {
                    (attempt.state, attempt.why) = (State::Failed, chain(&error));
                    self.failure = Some(self.unkept(error));
                }
            }
            Err(failure) => {
                (attempt.state, attempt.why) = (State::Failed, failure.to_string());
                self.failure = Some(failure);
            }
        }
        self.trials.ended = self.is_enough();
        self.write()
    }

    /// Whether another trial has no use, and why.
    fn is_enough(&self) -> Option<Ended> {
        let last = self.trials.attempts.last();
        match last.map(|attempt| attempt.state) {
            _ if self.failure.is_some() => Some(Ended::Failed),
            Some(State::Interrupted) => Some(Ended::Interrupted),
            Some(State::Contaminated) if self.is_host_unfit() => Some(Ended::HostUnfit),
            Some(State::Failed) => Some(Ended::Failed),
            Some(State::Untestable) if self.failed_twice() => Some(Ended::Untestable),
            _ if self.is_decided() => Some(Ended::Decided),
            _ => None,
        }
    }

    /// Whether more of all attempts were contaminated than may be, even if none to come is.
    fn is_host_unfit(&self) -> bool {
        are_too_many(self.trials.count(State::Contaminated), self.trials.planned)
    }

    /// Whether the last two attempts found that the kernel cannot be tested.
    fn failed_twice(&self) -> bool {
        let mut last = self.trials.attempts.iter().rev();
        (0..2).all(|_| last.next().is_some_and(|attempt| attempt.state == State::Untestable))
    }

    /// Whether no further trial can change the exit status.
    fn is_decided(&self) -> bool {
        self.trials.until == Until::Decided && self.trials.measured().any(Attempt::failed)
    }

    /// How it all ends the process.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn status(&mut self, signal: Option<i32>) -> Result<ExitStatus, Failure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let is_over = self.trials.measured().any(Attempt::failed);
        match self.trials.ended {
            Some(Ended::Interrupted) => Ok(ExitStatus::of_signal(signal.unwrap_or(libc::SIGINT))),
            Some(Ended::Failed) => Err(self.failed()),
            // What was found stands, whatever happened afterwards.
            _ if is_over => Ok(ExitStatus::OverThreshold),
            Some(Ended::HostUnfit) => Err(self.unfit()),
            Some(Ended::Untestable) => Err(self.untestable()),
            _ => self.undecided().map_or(Ok(ExitStatus::Pass), Err),
        }
    }

    fn unfit(&self) -> Failure {
        unfit(&self.trials.attempts.iter().collect::<Vec<_>>())
    }

    /// Runs that neither pass nor fail let nobody say that all pass.
    fn undecided(&self) -> Option<Failure> {
        let count = self.trials.measured().filter(|attempt| attempt.is_undecided()).count();
        let limits = self.trials.conditions.limits.join(", ");
        (count > 0).then(|| {
            Failure::kernel(format!(
                "{count} of {} trials come to no answer by --fail-if ({limits}): the host may have \
                 made what is over a limit, or the figure is not known; see their results, and repeat \
                 them on a quieter host, or for longer",
                self.trials.count(State::Measured)
            ))
        })
    }

    fn untestable(&self) -> Failure {
        let why = self.last_reason(State::Untestable);
        Failure::kernel(format!("this kernel could not be tested twice in a row: {why}"))
    }

    /// A run that failed and said so in its result.
    fn failed(&self) -> Failure {
        let owner = owner_of(self.trials.attempts.last());
        Failure::new(owner, self.last_reason(State::Failed).to_owned())
    }

    fn last_reason(&self, state: State) -> &str {
        let last = self.trials.attempts.iter().rev().find(|attempt| attempt.state == state);
        last.map_or("nothing is known", |attempt| &attempt.why)
    }

    /// Keeps what there is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> Result<(), Failure> {
        self.trials.write(&self.folder).map_err(|error| self.unkept(error))
    }

    /// What was measured before stays.
    fn unkept(&self, error: FolderError) -> Failure {
        let full = error.is_full();
        let failure = Failure::from(error);
        if !full {
            return failure;
        }
        Failure::host(format!(
            "{failure}; make room and make the same call again with --output: the trials that are \
             there count"
        ))
    }

    /// For the trials that are left, at the pace of those that were done.
    pub fn time_to_go(&self) -> Option<Duration> {
        Some(self.pace()?.saturating_mul(self.left()))
    }

    /// How long each trial took that was done, counted with those that are done again.
    pub fn pace(&self) -> Option<Duration> {
        let done: Vec<_> = self
            .trials
            .attempts
            .iter()
            .filter(|it| matches!(it.state, State::Measured | State::Contaminated))
            .map(|attempt| attempt.took_ms)
            .collect();
        let all_ms = done.iter().fold(0u64, |sum, ms| sum.saturating_add(*ms));
        Some(Duration::from_millis(all_ms.checked_div(done.len() as u64)?))
    }

    /// How many trials are still to be measured.
    pub fn left(&self) -> u32 {
        self.trials.planned.saturating_sub(self.trials.count(State::Measured))
    }
}

/// Whether more of all attempts were contaminated than may be, even if none to come is.
pub fn are_too_many(contaminated: u32, planned: u32) -> bool {
    let contaminated = f64::from(contaminated);
    contaminated > CONTAMINATED_SHARE * (f64::from(planned) + contaminated)
}

/// Why no more of these attempts are made.
pub fn unfit(attempts: &[&Attempt]) -> Failure {
    let mut contaminated = attempts.iter().filter(|it| it.state == State::Contaminated);
    let (count, all) = (contaminated.clone().count(), attempts.len());
    let last = contaminated.next_back();
    // A gap that may be the host's is contaminated whatever is asked for.
    let by_budget = last.is_some_and(|it| it.reason_code.is_none_or(ReasonCode::is_budget));
    let allow = if by_budget { "; or in a new folder, with --on-contaminated report" } else { "" };
    let why = last.map_or("nothing is known", |attempt| &attempt.why);
    Failure::host(format!(
        "this host is unfit to measure on: {count} of {all} runs were contaminated, the last one \
         because {why}; repeat it on a quieter host, with vCPUs pinned{allow}"
    ))
}

/// The owner of the error by which an attempt failed.
pub fn owner_of(attempt: Option<&Attempt>) -> Owner {
    match attempt.and_then(|attempt| attempt.verdict) {
        Some(Answer::UsageError) => Owner::Request,
        Some(Answer::InternalError) => Owner::Internal,
        _ => Owner::Host,
    }
}

/// What a run is for its trial. Judged by the rule, before any figure of it is looked at.
pub fn fill(attempt: &mut Attempt, result: &RunResult, terms: TrialTerms) {
    (attempt.state, attempt.why) = judge(result, terms);
    attempt.verdict = Some(result.verdict);
    attempt.exit_status = result.exit_status;
    attempt.reason_code = result.reason_code;
    attempt.over_threshold = result.verdict == Answer::OverThreshold;
    attempt.cookies_missing = result.cosched.missing;
    attempt.metrics = Metric::all_of(result);
}

/// Whether a run counts, and why not.
pub fn judge(result: &RunResult, terms: TrialTerms) -> (State, String) {
    let code = result.reason_code;
    let others = code.is_some_and(|code| code.is_doubt() || code == ReasonCode::Disturbed);
    match result.verdict {
        Answer::Interrupted => (State::Interrupted, result.reason.clone()),
        // It went to its end, and would be chosen by its figures if it did not count.
        Answer::Untestable if !result.limits.is_empty() => counts(result, terms),
        Answer::Untestable if others => (State::Contaminated, result.reason.clone()),
        Answer::Untestable => (State::Untestable, result.reason.clone()),
        Answer::UsageError | Answer::HostError | Answer::InternalError => {
            (State::Failed, result.reason.clone())
        }
        Answer::Pass | Answer::Measured | Answer::OverThreshold | Answer::OverLimit => {
            counts(result, terms)
        }
    }
}

/// Of a run that went as it should.
fn counts(result: &RunResult, terms: TrialTerms) -> (State, String) {
    match contamination(result, terms) {
        Some(why) => (State::Contaminated, why),
        None => (State::Measured, String::new()),
    }
}

/// Why a run that went as it should says less than another: the host had more than its budget.
fn contamination(result: &RunResult, terms: TrialTerms) -> Option<String> {
    if terms.report_contaminated {
        return None;
    }
    // A run that is no fail may have had noise of any length.
    let noise = Noise::of(result);
    doubt::of_run(&result.steal, noise, terms.noise_budget, Duration::MAX).map(doubt::Doubt::remark)
}

/// Refuses to go on with what another version measured.
///
/// # Errors
/// Both versions.
fn check_version(there: &Trials, folder: &Path) -> Result<(), Failure> {
    let now = env!("CARGO_PKG_VERSION");
    if there.version == now {
        return Ok(());
    }
    Err(Failure::request(format!(
        "the trials in {} were done by schedvmm {}, and this is {now}: go on with that, or name another \
         folder with --output",
        folder.display(),
        there.version
    )))
}

/// What may differ between two calls.
const IGNORED: [&str; 5] =
    ["kernel.path", "l2_kernel.path", "job.host_tsc_khz", "host.load_average", "host.cgroup"];

/// Whether the trials that are there are of these conditions.
///
/// # Errors
/// What is not alike.
fn check_alike(there: &Conditions, now: &Conditions, folder: &Path) -> Result<(), Failure> {
    let found = crate::alike::differences(there, now, &IGNORED)
        .map_err(|error| Failure::internal(error.to_string()))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::request(format!(
        "the trials in {} were done under other conditions, and cannot go on: {}; call it as it was \
         called, or name another folder with --output",
        folder.display(),
        crate::alike::list(&found)
    )))
}

#[cfg(test)]
#[path = "series_tests.rs"]
pub mod tests;
