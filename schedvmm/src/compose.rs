// SPDX-License-Identifier: Apache-2.0
//! One result from all that is known of a run, wherever it was measured.

use std::collections::BTreeMap;

use gaps::tsc::DISAGREEMENT_LIMIT_PPM;
use protocol::job::{CoschedRequest, Job};
use protocol::message::{CoschedInterface, Setup};
use results::host_cpus::HostCpus;
use results::metric::Metric;
use results::model::{
    Answer, CallerFacts, Cosched, KernelFacts, Machine, Phase, Pins, RunResult, Schema, Summary,
    Target, Thread, Trace,
};

use crate::analysis::figures::Figures;
use crate::analysis::{run_delay, summary};
use crate::doubt::Terms;
use crate::facts;
use crate::limits::Limit;
use crate::session::Session;
use crate::verdict::Verdict;

/// What a run is of, beside what the load says.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where it was measured.
    pub target: Target,
    /// When it began.
    pub started_utc: String,
    /// The kernel under test.
    pub kernel: KernelFacts,
    /// What it ran on.
    pub machine: Machine,
    /// What its CPUs are.
    pub host_cpus: HostCpus,
    /// What a gap over the threshold must meet to be the kernel's.
    pub terms: Terms,
    /// What figures of it may be.
    pub limits: Vec<Limit>,
    /// Whether threads stayed where they were put.
    pub pins: Pins,
    /// Remark for the reader.
    pub notes: Vec<String>,
}

impl Origin {
    /// Of a run there, of which nothing else is known yet.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            started_utc: String::new(),
            kernel: KernelFacts::default(),
            machine: Machine::default(),
            host_cpus: HostCpus::default(),
            terms: Terms::NONE,
            limits: Vec::new(),
            pins: Pins::default(),
            notes: Vec::new(),
        }
    }
}

/// What is known of a run.
pub struct Account<'a> {
    /// What it is of.
    pub origin: Origin,
    /// Reports of the threads.
    pub session: &'a Session,
    /// What they had been told to do.
    pub job: &'a Job,
    /// What schedvmm itself was given to run with.
    pub caller: Option<CallerFacts>,
    /// The trace, if there is one.
    pub trace: Trace,
    /// Milliseconds in each phase.
    pub phases_ms: BTreeMap<Phase, u64>,
    /// The answer, and whether it is the last one.
    pub verdict: &'a Verdict,
    /// False while the run goes on.
    pub ended: bool,
}

impl<'a> Account<'a> {
    /// Of a run that is over, on this host: its figures, without what it ran on.
    #[cfg(test)]
    pub fn of_figures(session: &'a Session, job: &'a Job, verdict: &'a Verdict) -> Self {
        Self {
            origin: Origin::new(Target::Host),
            session,
            job,
            caller: None,
            trace: Trace::default(),
            phases_ms: BTreeMap::new(),
            verdict,
            ended: true,
        }
    }

    /// The result, with every figure that follows from what was measured.
    pub fn result(self) -> RunResult {
        let (session, setup) = (self.session, self.session.setup.as_ref());
        let figures = Figures::of(session, self.job, self.origin.terms.steal_budget);
        let notes = self.all_notes(&figures);
        let Origin { target, started_utc, kernel, machine, host_cpus, pins, .. } = self.origin;
        // What the setup has to say of the trace was told when the load started.
        let mut trace = self.trace;
        trace.note = trace.note.or_else(|| setup?.trace_note.clone());
        let result = RunResult {
            schema: Schema::V4,
            summary: Summary::default(),
            version: env!("CARGO_PKG_VERSION").into(),
            target,
            command_line: std::env::args_os()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
            working_directory: std::env::current_dir().ok(),
            started_utc,
            verdict: self.verdict.answer,
            exit_status: self.ended.then(|| self.verdict.status().code()),
            reason: self.verdict.reason.clone(),
            reason_code: self.verdict.code,
            reason_stage: self.verdict.code.map(|_| session.stage()),
            notes,
            longest_gap_ns: figures.longest.map(|gap| gap.length_ns),
            longest_gap: figures.longest,
            threshold_hit: figures.hit,
            limits: Vec::new(),
            after_hit: figures.after_hit,
            measured_ns: figures.measured_ns,
            warmup: figures.warmup,
            too_short: figures.too_short,
            kernel: KernelFacts { hello: session.hello.clone(), ..kernel },
            cosched: cosched(self.job, setup),
            setup: setup.cloned(),
            noise_after: session.report.as_ref().and_then(|it| it.noise_after.clone()),
            job: self.job.clone(),
            statistics: figures.statistics,
            fairness: figures.fairness,
            service_lag: figures.service_lag,
            forced_idle: figures.forced_idle,
            co_run: None,
            core_figures: host_cpus.core_figures(&figures.steal),
            steal: figures.steal,
            expected: figures.expected,
            threads: figures.threads,
            groups: figures.groups,
            vms: Vec::new(),
            tsc: session.report.as_ref().map(|report| report.tsc),
            meter: session.report.as_ref().and_then(|report| report.meter.clone()),
            trace,
            explanation: None,
            host: facts::host(),
            machine,
            caller: self.caller,
            pins,
            phases_ms: self.phases_ms,
        };
        RunResult { summary: Metric::summary(&result), ..result }
    }

    /// Those of the run, and what is to be said of its figures.
    fn all_notes(&self, figures: &Figures) -> Vec<String> {
        let (session, setup) = (self.session, self.session.setup.as_ref());
        let mut notes = self.origin.notes.clone();
        notes.extend(summary::steal_note(&figures.steal));
        notes.extend(self.verdict.note.clone());
        notes.extend(session.degraded().map(|faults| format!("degraded: {faults}")));
        let missing = setup.filter(|_| cookies_are_missing(self.job, setup));
        notes.extend(missing.map(|setup| {
            let note = setup.cosched_note.as_deref().unwrap_or("no reason is known");
            format!(
                "without cookies, for --cosched auto found none: {note}; --cosched prctl insists"
            )
        }));
        notes.extend(run_delay::note(
            &figures.threads,
            &figures.early,
            &self.job.load,
            session.hit.is_some(),
        ));
        notes.extend(clocks(session, self.origin.target));
        notes.extend(figures.hit.map(|_| STOPPED.to_owned()));
        notes.extend(goes_on(&figures.threads, session));
        notes.extend(hardly_fits(self.job, self.verdict.answer));
        notes
    }
}

/// Cookies asked for and had.
fn cosched(job: &Job, setup: Option<&Setup>) -> Cosched {
    Cosched {
        requested: job.cosched,
        mechanism: setup.map(|setup| setup.cosched),
        note: setup.and_then(|setup| setup.cosched_note.clone()),
        missing: cookies_are_missing(job, setup),
        cookies: setup.map(|setup| setup.cookies.clone()).unwrap_or_default(),
    }
}

/// True if the load wants cookies and runs without: nothing is told of core scheduling then.
fn cookies_are_missing(job: &Job, setup: Option<&Setup>) -> bool {
    job.cosched == CoschedRequest::Auto
        && job.load.groups.iter().any(|group| group.cookie)
        && setup.is_some_and(|setup| setup.cosched == CoschedInterface::None)
}

/// Of a run that a gap ended.
const STOPPED: &str = "the run ended at its gap over the threshold: figures of a run that is stopped at an \
                       extreme are not to be compared with those of runs that went on";

/// What is to be said of clocks that should agree, and go forward.
fn clocks(session: &Session, target: Target) -> Vec<String> {
    let mut notes = Vec::new();
    let Some(report) = &session.report else { return notes };
    let ppm = report.tsc.disagreement_ppm;
    if ppm > DISAGREEMENT_LIMIT_PPM {
        notes.push(format!(
            "the TSC's frequency is taken for {} kHz, and another source of it is {ppm:.0} ppm off \
             (`tsc`): all lengths may be wrong by as much",
            report.tsc.khz,
        ));
    }
    let backwards = report.threads.iter().map(|thread| thread.backwards).sum::<u64>();
    if backwards > 0 {
        notes.push(format!(
            "the TSC went backwards {backwards} times: it is not the same on all CPUs, and gaps \
             across them have wrong lengths"
        ));
    }
    // Clocks that are made of the TSC.
    let known = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", ""];
    let clock = session.hello.as_ref().map_or("", |hello| &hello.clocksource);
    if target == Target::Host && !known.contains(&clock) {
        notes.push(format!(
            "this kernel's clock source is {clock} and not the TSC, which it may have found to be \
             unsteady: dmesg may say why"
        ));
    }
    notes
}

/// What is to be said of threads whose figures cannot be told to end at the hit.
fn goes_on(threads: &[Thread], session: &Session) -> Option<String> {
    session.hit?;
    let count = threads
        .iter()
        .filter(|thread| thread.complete && thread.report.gaps_unrecorded > 0)
        .count();
    (count > 0).then(|| {
        format!(
            "record memory was full for {count} threads: gaps that ended after the one over the \
             threshold may be among theirs (--records)"
        )
    })
}

/// What is to be said of a pass that hardly anything could have kept from being one.
fn hardly_fits(job: &Job, answer: Answer) -> Option<String> {
    let duration = job.load.duration.saturating_sub(job.load.warmup);
    let threshold = job.load.threshold.filter(|threshold| duration <= *threshold)?;
    (answer == Answer::Pass).then(|| {
        format!(
            "a gap over --threshold {threshold:?} does not fit into the {duration:?} that were \
             measured: only one that went on beyond them could have been found"
        )
    })
}

#[cfg(test)]
#[path = "compose_properties.rs"]
mod properties;

#[cfg(test)]
#[path = "figures_tests.rs"]
pub mod figures;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use protocol::message::Hello;
    use protocol::report::{LoadReport, ThreadReport, TscReport};

    use super::*;
    use crate::testing::{self, load};

    #[test]
    fn clocks_that_cannot_be_right_are_told() {
        let told = |khz, backwards, clocksource: &str, target| {
            let mut session = Session::new(testing::limits(1), Instant::now());
            let thread = ThreadReport { backwards, ..ThreadReport::default() };
            let tsc = TscReport { khz: 1_000_000, disagreement_ppm: khz, ..TscReport::default() };
            let hello = Hello { clocksource: clocksource.into(), ..Hello::default() };
            session.hello = Some(hello);
            session.report =
                Some(LoadReport { tsc, threads: vec![thread], ..LoadReport::default() });
            clocks(&session, target)
        };
        assert_eq!(told(499.0, 0, "tsc", Target::Host), Vec::<String>::new());
        assert_eq!(told(0.0, 0, "hpet", Target::User), Vec::<String>::new());
        for (found, says) in [
            (told(501.0, 0, "tsc", Target::Host), "501 ppm"),
            (told(0.0, 7, "tsc", Target::User), "backwards 7 times"),
            (told(0.0, 0, "hpet", Target::Host), "hpet"),
        ] {
            let [note] = &found[..] else { panic!("{found:?}") };
            assert!(note.contains(says), "{note}");
        }
    }

    #[test]
    fn a_pass_of_a_run_shorter_than_a_gap_says_so() {
        let seconds = |s| Duration::from_secs(s);
        let told = |duration, threshold: Option<u64>, answer| {
            let load = protocol::job::LoadSpec {
                duration: seconds(duration),
                threshold: threshold.map(seconds),
                ..load(1, 1, 1)
            };
            hardly_fits(&Job::new(load, CoschedRequest::None), answer)
        };
        let note = told(1, Some(20), Answer::Pass).expect("told");
        assert!(note.contains("--threshold 20s") && note.contains("the 1s that"), "{note}");
        assert!(told(20, Some(20), Answer::Pass).is_some());
        for (duration, threshold, answer) in [
            (21, Some(20), Answer::Pass),
            (1, None, Answer::Measured),
            (1, Some(20), Answer::OverThreshold),
        ] {
            assert_eq!(told(duration, threshold, answer), None);
        }
    }
}
