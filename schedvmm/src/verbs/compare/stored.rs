// SPDX-License-Identifier: Apache-2.0
//! Sides that were measured earlier: folders of trials, and whether they may be compared.

use std::path::Path;

use protocol::job::{CoschedRequest, Job, Pv};
use protocol::message::CoschedInterface;
use results::metric::Metric;
use results::model::{HostFacts, Idle, RunResult, Target};
use results::saved::Saved;
use results::set_file::SetFile as _;
use results::trials::{Attempt, State, TrialTerms, Trials};
use serde::Serialize;

use super::judge::{Point, Side};
use crate::alike;
use crate::status::Failure;
use crate::verbs::trials::series::judge;

/// Words of a kernel's command line that depend on its version, and change nothing that is measured.
const OWN_WORDS: [&str; 4] =
    ["reserve_mem=", "trace_instance=", "coresched=", "cosched_max_level="];

/// A kernel's command line without those.
pub fn own_words_apart(cmdline: &str) -> Vec<&str> {
    let words = cmdline.split(' ');
    words.filter(|word| !OWN_WORDS.iter().any(|own| word.starts_with(own))).collect()
}

/// Whether a folder has trials.
pub fn has_trials(folder: &Path) -> bool {
    Trials::is_in(folder)
}

/// What is to be the same of all trials that are compared.
#[derive(Clone, Debug, Serialize)]
pub struct Likeness {
    version: String,
    target: Target,
    job: Job,
    requested: CoschedRequest,
    mechanism: Option<CoschedInterface>,
    host: HostFacts,
    machine: Option<LikeMachine>,
    cmdline: String,
}

#[derive(Clone, Debug, Serialize)]
struct LikeMachine {
    cpus: u32,
    threads_per_core: u32,
    memory_mib: u64,
    idle: Idle,
    pv: Pv,
    transport: &'static str,
    pins: Vec<usize>,
}

impl Likeness {
    /// Of a run: without what belongs to it alone.
    pub fn of(result: &RunResult) -> Self {
        let mut job = result.job.clone();
        (job.load.seed, job.host_tsc_khz) = (0, None);
        if let Some(trace) = &mut job.trace {
            trace.id = None;
        }
        let host = HostFacts { load_average: None, cgroup: None, ..result.host.clone() };
        Self {
            version: result.version.clone(),
            target: result.target,
            job,
            requested: result.cosched.requested,
            mechanism: result.cosched.mechanism,
            host,
            machine: result.machine.vm.as_ref().map(|vm| LikeMachine {
                cpus: vm.cpus,
                threads_per_core: vm.threads_per_core,
                memory_mib: vm.memory_mib,
                idle: vm.idle,
                pv: vm.pv,
                transport: vm.transport.name(),
                pins: vm.pins.clone(),
            }),
            cmdline: own_words_apart(&result.kernel.cmdline_given).join(" "),
        }
    }

    /// Refuses what is not like this, but for what may differ.
    ///
    /// # Errors
    /// The list of differences, by their names.
    pub fn check(
        &self,
        other: &Self,
        (one_name, other_name): (&str, &str),
        allowed: &[String],
    ) -> Result<(), Failure> {
        let allowed: Vec<_> = allowed.iter().map(String::as_str).collect();
        let found = alike::differences(self, other, &allowed)
            .map_err(|error| Failure::internal(error.to_string()))?;
        if found.is_empty() {
            return Ok(());
        }
        Err(Failure::request(format!(
            "{one_name} and {other_name} were not measured alike: {}; measure both anew, or name \
             what may differ with --allow",
            alike::list(&found)
        )))
    }
}

/// Trials that have been read.
pub struct Stored {
    /// With their figures.
    pub side: Side,
    /// What they were measured under.
    pub likeness: Likeness,
    /// One of their results.
    pub example: RunResult,
}

impl Stored {
    /// Reads all trials of a folder that count.
    ///
    /// # Errors
    /// It has none, they are not alike, or one ended before its time.
    pub fn read(folder: &Path, allowed: &[String]) -> Result<Self, Failure> {
        let name = folder.display().to_string();
        let trials = Trials::open(folder)?;
        let mut side = Side { points: Default::default(), ..Side::new(name, &trials) };
        let mut first: Option<(Likeness, RunResult, String)> = None;
        for attempt in trials.measured() {
            let at = folder.join(&attempt.folder);
            let result = Saved::open(&at)?.result;
            check_whole(&at, &result)?;
            check_attempt(&at, attempt, &result, trials.conditions.terms)?;
            let likeness = Likeness::of(&result);
            let place = at.display().to_string();
            match &first {
                None => first = Some((likeness, result.clone(), place)),
                Some((like, one, there)) => {
                    like.check(&likeness, (there, &place), allowed)?;
                    check_kernel(there, one, &place, &result)?;
                }
            }
            side.points.insert(attempt.trial, point(&result));
        }
        let Some((likeness, example, _)) = first else {
            return Err(Failure::request(format!(
                "{} has no trial that counts; do some with `schedvmm trials N --output {}`",
                folder.display(),
                folder.display()
            )));
        };
        check_threshold(folder, &trials)?;
        side.kernel = kernel(&example);
        Ok(Self { side, likeness, example })
    }
}

/// Figures are those of the result, and not what another file says of it.
fn point(result: &RunResult) -> Point {
    Point {
        seed: result.job.load.seed,
        started_utc: result.started_utc.clone(),
        metrics: Metric::all_of(result),
    }
}

/// A run that a gap ended has figures of the time until that gap: they are none of a whole run's.
fn check_whole(folder: &Path, result: &RunResult) -> Result<(), Failure> {
    let why = if result.threshold_hit.is_some() {
        "ended at a gap over the threshold, and its figures end there; measure both sides with \
         --threshold off"
    } else if result.exit_status.is_none() {
        "was killed; have it done again with the same call of `schedvmm trials`"
    } else {
        return Ok(());
    };
    Err(Failure::request(format!("the run in {} cannot be compared: it {why}", folder.display())))
}

/// What trials.json says of a run is what the run's own result says.
fn check_attempt(
    folder: &Path,
    attempt: &Attempt,
    result: &RunResult,
    terms: TrialTerms,
) -> Result<(), Failure> {
    let (state, why) = judge(result, terms);
    let why = if state != State::Measured {
        format!("is no measurement: {why}")
    } else if result.job.load.seed != attempt.seed {
        format!("has seed {}, and by trials.json {}", result.job.load.seed, attempt.seed)
    } else {
        return Ok(());
    };
    Err(Failure::request(format!(
        "the run in {} cannot be compared: it {why}; have it done again (remove its folder, and it from \
         trials.json), or compare others",
        folder.display()
    )))
}

/// Where gaps over a threshold were no answer, and trials done again for them, those that are left are
/// those without such gaps.
fn check_threshold(folder: &Path, trials: &Trials) -> Result<(), Failure> {
    let again = trials.attempts.iter().filter(|it| it.state == State::Contaminated).count();
    if trials.conditions.job.load.threshold.is_none() || again == 0 {
        return Ok(());
    }
    Err(Failure::request(format!(
        "the trials in {} cannot be compared: {again} of them were done again, perhaps for gaps over \
         the threshold that were no answer, and what is left is the better for it; measure both sides \
         with --threshold off",
        folder.display()
    )))
}

/// Trials of one side are of one kernel.
fn check_kernel(
    one_place: &str,
    one: &RunResult,
    other_place: &str,
    other: &RunResult,
) -> Result<(), Failure> {
    let same =
        |result: &RunResult| (result.kernel.bytes, result.kernel.build_id.clone(), kernel(result));
    if same(one) == same(other) {
        return Ok(());
    }
    Err(Failure::request(format!(
        "{one_place} and {other_place} are of different kernels ({} and {}); trials of one folder \
         are to be of one",
        kernel(one),
        kernel(other)
    )))
}

/// A kernel as it tells itself.
pub fn kernel(result: &RunResult) -> String {
    let kernel = &result.kernel;
    match (&kernel.hello, &kernel.image_release) {
        (Some(hello), _) => format!("{} {}", hello.release, hello.version),
        (None, Some(release)) => release.clone(),
        (None, None) => kernel.path.clone(),
    }
}

/// What is to be said of when trials were done: those of one side all before those of the other tell
/// two times apart as well as two kernels.
pub fn order_notes(base: &Side, other: &Side) -> Vec<String> {
    let mut notes = Vec::new();
    if is_before(base, other) || is_before(other, base) {
        notes.push(format!(
            "the trials of {} and of {} did not take turns: whatever changed on the host in between \
             is taken for a difference (compare the kernels themselves, and they do)",
            base.name, other.name
        ));
    }
    let both = base.points.iter().filter_map(|(trial, one)| Some((one, other.points.get(trial)?)));
    let unlike = both.filter(|(one, other)| one.seed != other.seed).count();
    if unlike > 0 {
        notes.push(format!(
            "{unlike} pairs of {} and {} had different seeds: what their pauses make of it is part \
             of the difference (give both the same --seed)",
            base.name, other.name
        ));
    }
    notes
}

/// Whether all trials of one side were begun before all of the other.
fn is_before(first: &Side, second: &Side) -> bool {
    let last = first.points.values().map(|point| &point.started_utc).max();
    last < second.points.values().map(|point| &point.started_utc).min()
}
