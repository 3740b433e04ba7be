// SPDX-License-Identifier: Apache-2.0
//! Trials whose machines are made up.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::time::Duration;

use protocol::job::{CoschedRequest, Job};
use protocol::message::Setup;
use protocol::noise::NoiseFloor;
use results::model::{HostFacts, LimitFinding, LimitOutcome};
use results::trials::{TrialKernel, TrialMachine};

use super::*;
use crate::alike::tests::assert_names;
use crate::testing;

/// What a machine does that is started next.
enum Next {
    Ends(Box<RunResult>),
    Lost(Box<RunResult>),
    Cannot(&'static str),
    /// As when the process is killed.
    Dies,
}

struct Machines {
    next: VecDeque<Next>,
    seeds: Vec<u64>,
    signal: Option<i32>,
}

impl Machines {
    fn new(next: impl IntoIterator<Item = Next>) -> Self {
        Self { next: next.into_iter().collect(), seeds: Vec::new(), signal: None }
    }
}

impl Boot for Machines {
    fn boot(&mut self, seed: u64, folder: &Path) -> Result<Run, Failure> {
        self.seeds.push(seed);
        fs::create_dir(folder).expect("a new folder");
        match self.next.pop_front().expect("no more machines were expected") {
            Next::Ends(result) => Ok(Run { result: *result, kept: Ok(()) }),
            Next::Lost(result) => {
                let (path, source) = (folder.to_owned(), io::ErrorKind::StorageFull.into());
                Ok(Run { result: *result, kept: Err(FolderError::Write { path, source }) })
            }
            Next::Cannot(why) => Err(Failure::host(why)),
            Next::Dies => panic!("killed"),
        }
    }

    fn signal(&self) -> Option<i32> {
        self.signal
    }
}

pub fn conditions(seed: u64) -> Conditions {
    let mut job = Job::new(testing::load(2, 2, 2), CoschedRequest::Auto);
    job.load.threshold = Some(Duration::from_millis(100));
    Conditions {
        seed,
        kernel: TrialKernel { path: "bzImage".into(), bytes: 5, crc32: 6 },
        l2_kernel: None,
        job,
        machine: TrialMachine::default(),
        terms: TrialTerms { steal_budget: 0.005, noise_budget: 0.1, report_contaminated: false },
        limits: Vec::new(),
        host: HostFacts::default(),
    }
}

/// Those of runs with a second kernel: all values that there can be.
pub fn whole_conditions() -> Conditions {
    Conditions { l2_kernel: Some(TrialKernel::default()), ..conditions(7) }
}

#[test]
fn what_may_differ_has_the_names_that_files_have() {
    assert_names(&whole_conditions(), &IGNORED);
}

fn planned(count: u32, until: Until) -> Trials {
    Trials { planned: count, until, ..Trials::new(conditions(7)) }
}

fn result(verdict: Answer, longest_ms: u64) -> Box<RunResult> {
    let mut result = testing::result();
    result.verdict = verdict;
    result.exit_status = Some(match verdict {
        Answer::OverThreshold => 1,
        Answer::Untestable => 125,
        _ => 0,
    });
    result.longest_gap_ns = Some(longest_ms * 1_000_000);
    (result.reason, result.reason_code) = (String::new(), None);
    Box::new(result)
}

fn passes(longest_ms: u64) -> Next {
    Next::Ends(result(Answer::Pass, longest_ms))
}

fn untestable(code: ReasonCode) -> Next {
    let mut result = result(Answer::Untestable, 1);
    (result.reason_code, result.reason) = (Some(code), "some reason".into());
    Next::Ends(result)
}

/// Without a gap over the threshold, on a host that took too much.
fn contaminated() -> Next {
    let mut result = result(Answer::Pass, 50);
    (result.steal.share, result.steal.budget, result.steal.contaminated) = (Some(0.2), 0.005, true);
    Next::Ends(result)
}

/// All of it in a folder, and what is there afterwards.
fn done(trials: Trials, machines: &mut Machines) -> (Result<ExitStatus, Failure>, Trials, usize) {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut series = Series::new(trials, dir.path().to_owned());
    let mut told = 0;
    let went_on = series.go_on(machines, |_| told += 1);
    let status = went_on.and_then(|()| series.status(machines.signal));
    let there = Trials::open(dir.path()).expect("trials.json");
    assert_eq!(there.attempts, series.trials.attempts, "the file has what there is");
    assert_eq!((there.ended, there.summary.is_some()), (series.trials.ended, true));
    (status, there, told)
}

fn states(trials: &Trials) -> Vec<(u32, u32, State)> {
    trials.attempts.iter().map(|it| (it.trial, it.attempt, it.state)).collect()
}

#[test]
fn each_trial_has_a_seed_and_a_folder_of_its_own() {
    let mut machines = Machines::new([passes(40), passes(60), passes(50)]);
    let (status, trials, told) = done(planned(3, Until::All), &mut machines);
    assert_eq!(status.expect("an answer"), ExitStatus::Pass);
    assert_eq!((trials.ended, told), (Some(Ended::All), 3));
    assert_eq!(machines.seeds, [1, 2, 3].map(|trial| seed_of(7, trial)));
    let folders: Vec<_> = trials.attempts.iter().map(|it| it.folder.as_str()).collect();
    assert_eq!(folders, ["trial-001", "trial-002", "trial-003"]);
    let summary = trials.summary.expect("a summary");
    let over = summary.over_threshold.expect("there is a threshold");
    assert_eq!((over.hits, over.trials), (0, 3));
    assert!((over.at_most - (1.0 - 0.05f64.powf(1.0 / 3.0))).abs() < 1e-12, "{over:?}");
    let longest = summary.metrics.iter().find(|it| it.metric == Metric::Longest).expect("known");
    assert_eq!((longest.trials, longest.median.median), (3, 50e6));
    assert!(longest.median.interval.is_none(), "three are too few");
}

#[test]
fn one_gap_over_the_threshold_is_a_fail_and_decides() {
    let trials = || [passes(40), Next::Ends(result(Answer::OverThreshold, 120)), passes(50)];
    let (status, all, _) = done(planned(3, Until::All), &mut Machines::new(trials()));
    assert_eq!(status.expect("an answer"), ExitStatus::OverThreshold);
    let summary = all.summary.expect("a summary");
    let over = summary.over_threshold.expect("there is a threshold");
    assert_eq!((over.hits, over.trials), (1, 3));
    let mut machines = Machines::new(trials());
    let (status, trials, _) = done(planned(3, Until::Decided), &mut machines);
    assert_eq!(status.expect("an answer"), ExitStatus::OverThreshold);
    assert_eq!((trials.ended, machines.next.len()), (Some(Ended::Decided), 1));
}

#[test]
fn a_contaminated_trial_is_done_again_with_its_seed_and_kept() {
    let doubted = untestable(ReasonCode::HostTook);
    let mut machines = Machines::new(
        [passes(1), contaminated(), doubted, passes(2), passes(3)]
            .into_iter()
            .chain((0..7).map(|_| passes(4))),
    );
    let (status, trials, _) = done(planned(10, Until::All), &mut machines);
    assert_eq!(status.expect("an answer"), ExitStatus::Pass);
    let expected = [
        (1, 1, State::Measured),
        (2, 1, State::Contaminated),
        (2, 2, State::Contaminated),
        (2, 3, State::Measured),
        (3, 1, State::Measured),
    ];
    assert_eq!(states(&trials)[..5], expected);
    assert_eq!(machines.seeds[1..4], [seed_of(7, 2); 3]);
    assert_eq!(trials.attempts[3].folder, "trial-002-3");
    assert!(trials.attempts[1].why.contains("--steal-budget"), "{}", trials.attempts[1].why);
    let over = trials.summary.expect("one").over_threshold.expect("a threshold");
    assert_eq!((over.hits, over.trials, over.with_contaminated), (0, 10, (1, 12)));
    // Who lets them count has none.
    let mut trials = planned(2, Until::All);
    trials.conditions.terms.report_contaminated = true;
    let (status, ..) = done(trials, &mut Machines::new([contaminated(), contaminated()]));
    assert_eq!(status.expect("an answer"), ExitStatus::Pass);
}

/// Threads that were moved, or a quota, are no gap over the threshold.
#[test]
fn what_disturbed_a_trial_is_no_hit() {
    let disturbed = untestable(ReasonCode::Disturbed);
    let all = [disturbed].into_iter().chain((0..10).map(|_| passes(1)));
    let (_, trials, _) = done(planned(10, Until::All), &mut Machines::new(all));
    let over = trials.summary.expect("one").over_threshold.expect("a threshold");
    assert_eq!((over.hits, over.with_contaminated), (0, (0, 11)));
}

#[test]
fn noise_without_a_load_contaminates_too() {
    let (mut before, mut after) = (result(Answer::Pass, 5), result(Answer::OverLimit, 5));
    let noise = NoiseFloor { gap_share: 0.3, ..NoiseFloor::default() };
    after.noise_after = Some(noise.clone());
    before.setup = Some(Setup { noise: Some(noise), ..Setup::default() });
    for noisy in [before, after] {
        let (state, why) = judge(&noisy, conditions(7).terms);
        assert_eq!(state, State::Contaminated);
        assert!(why.contains("--noise-budget"), "{why}");
    }
}

/// A figure over its limit is a failure of the kernel as a gap over the threshold is, and its figures
/// are those of a whole run.
#[test]
fn runs_over_a_limit_are_counted_and_decide() {
    let over = Next::Ends(result(Answer::OverLimit, 50));
    let mut planned = planned(3, Until::Decided);
    planned.conditions.limits = vec!["longest > 40ms".into()];
    let (status, trials, _) = done(planned, &mut Machines::new([passes(30), over]));
    assert_eq!(status.expect("an answer"), ExitStatus::OverThreshold);
    assert_eq!(trials.ended, Some(Ended::Decided));
    let summary = trials.summary.expect("one");
    let over = summary.over_threshold.expect("a limit");
    assert_eq!((over.hits, over.trials), (1, 2));
    assert_eq!(over.limits, ["longest > 40ms"]);
    assert!(summary.metrics.iter().all(|it| it.trials == 2), "{:?}", summary.metrics);
}

/// Who left out the runs whose figures may be the host's would keep those with small ones.
#[test]
fn runs_in_doubt_by_a_limit_count_with_their_figures_and_are_no_pass() {
    let mut doubtful = result(Answer::Untestable, 50);
    doubtful.reason_code = Some(ReasonCode::HostTook);
    doubtful.limits = vec![LimitFinding {
        metric: Metric::Longest,
        bound: 4e7,
        value: Some(5e7),
        least: Some(0.0),
        outcome: LimitOutcome::Doubtful,
    }];
    let mut planned = planned(2, Until::All);
    planned.conditions.limits = vec!["longest > 40ms".into()];
    let (status, trials, _) = done(planned, &mut Machines::new([passes(30), Next::Ends(doubtful)]));
    let failure = status.expect_err("no answer");
    assert_eq!(failure.status(), ExitStatus::Untestable);
    assert!(failure.to_string().starts_with("1 of 2 trials come to no answer"), "{failure}");
    assert_eq!(states(&trials), [(1, 1, State::Measured), (2, 1, State::Measured)]);
    let summary = trials.summary.expect("one");
    let over = summary.over_threshold.expect("a limit");
    assert_eq!((over.hits, over.trials, over.with_contaminated), (0, 1, (1, 2)));
    let longest = summary.metrics.iter().find(|it| it.metric == Metric::Longest);
    assert_eq!(longest.map(|it| it.trials), Some(2));
}

/// Of 10, five are more than 30 % even if no other is.
#[test]
fn a_host_that_contaminates_too_many_is_unfit() {
    let mut machines = Machines::new((0..5).map(|_| contaminated()));
    let (status, trials, _) = done(planned(10, Until::All), &mut machines);
    let failure = status.expect_err("no answer");
    assert_eq!(failure.status(), ExitStatus::Host);
    assert!(failure.to_string().contains("5 of 5 runs were contaminated"), "{failure}");
    assert_eq!(trials.ended, Some(Ended::HostUnfit));
    // Four are not.
    let four = (0..4).map(|_| contaminated()).chain((0..10).map(|_| passes(1)));
    let (status, ..) = done(planned(10, Until::All), &mut Machines::new(four));
    assert_eq!(status.expect("an answer"), ExitStatus::Pass);
}

#[test]
fn a_kernel_that_cannot_be_tested_has_a_second_try_and_no_third() {
    let panics = || untestable(ReasonCode::KernelPanic);
    let (status, trials, _) =
        done(planned(2, Until::All), &mut Machines::new([panics(), passes(1), passes(1)]));
    assert_eq!(status.expect("an answer"), ExitStatus::Pass);
    assert_eq!(states(&trials)[1], (1, 2, State::Measured));
    let (status, trials, _) =
        done(planned(2, Until::All), &mut Machines::new([passes(1), panics(), panics()]));
    let failure = status.expect_err("no answer");
    assert_eq!(failure.status(), ExitStatus::Untestable);
    assert!(failure.to_string().contains("twice in a row: some reason"), "{failure}");
    assert_eq!((trials.ended, trials.count(State::Measured)), (Some(Ended::Untestable), 1));
}

#[test]
fn what_was_cut_off_is_done_again_and_nothing_is_lost() {
    let dir = tempfile::tempdir().expect("tempdir");
    let begin = |trials| Series::new(trials, dir.path().to_owned());
    let mut machines = Machines::new([passes(40), Next::Dies]);
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        begin(planned(3, Until::All)).go_on(&mut machines, |_| {})
    }));
    assert!(killed.is_err());
    let there = Trials::open(dir.path()).expect("trials.json");
    assert_eq!(states(&there), [(1, 1, State::Measured), (2, 1, State::Running)]);
    assert_eq!((there.ended, &there.summary), (None, &None));
    let mut machines = Machines::new([passes(50), passes(60)]);
    let mut series = begin(there);
    series.go_on(&mut machines, |_| {}).expect("goes on");
    let expected = [
        (1, 1, State::Measured),
        (2, 1, State::CutOff),
        (2, 2, State::Measured),
        (3, 1, State::Measured),
    ];
    assert_eq!(states(&series.trials), expected);
    assert_eq!(machines.seeds, [2, 3].map(|trial| seed_of(7, trial)));
    // More of them may be asked for later.
    let more = Trials { planned: 4, ..Trials::open(dir.path()).expect("trials.json") };
    let mut series = begin(more);
    series.go_on(&mut Machines::new([passes(70)]), |_| {}).expect("goes on");
    assert_eq!(series.trials.count(State::Measured), 4);
    // And all of them once more is nothing to do.
    let mut series = begin(Trials::open(dir.path()).expect("trials.json"));
    series.go_on(&mut Machines::new([]), |_| {}).expect("nothing to do");
    assert_eq!(series.status(None).expect("an answer"), ExitStatus::Pass);
}

#[test]
fn a_signal_ends_it_after_what_was_measured_is_written() {
    let interrupted = Next::Ends(result(Answer::Interrupted, 30));
    let mut machines = Machines::new([passes(1), interrupted]);
    let (status, trials, _) = done(planned(3, Until::All), &mut machines);
    assert_eq!(status.expect("a status"), ExitStatus::Interrupted);
    assert_eq!(states(&trials)[1], (2, 1, State::Interrupted));
    assert_eq!(trials.next(), Some((2, 2)));
    // Called again, it goes on.
    let mut machines = Machines::new([passes(1), passes(1)]);
    let (status, trials, _) = done(trials, &mut machines);
    assert_eq!(status.expect("an answer"), ExitStatus::Pass);
    assert_eq!(trials.count(State::Measured), 3);
    // One that comes between two trials has no result to tell of it.
    let mut machines = Machines::new([]);
    machines.signal = Some(libc::SIGTERM);
    let (status, trials, _) = done(planned(3, Until::All), &mut machines);
    assert_eq!(status.expect("a status"), ExitStatus::Terminated);
    assert_eq!((trials.ended, trials.attempts.len()), (Some(Ended::Interrupted), 0));
}

#[test]
fn a_full_disk_and_a_host_that_cannot_end_it_with_their_reason() {
    let lost = Next::Lost(result(Answer::Pass, 1));
    let (status, trials, _) = done(planned(3, Until::All), &mut Machines::new([passes(1), lost]));
    let failure = status.expect_err("no answer");
    assert_eq!(failure.status(), ExitStatus::Host);
    assert!(
        failure.to_string().contains("make room and make the same call again with --output"),
        "{failure}"
    );
    assert_eq!(states(&trials)[1], (2, 1, State::Failed));
    let cannot = Next::Cannot("no /dev/kvm");
    let (status, trials, _) = done(planned(3, Until::All), &mut Machines::new([cannot]));
    assert_eq!(status.expect_err("no answer").to_string(), "no /dev/kvm");
    assert_eq!(trials.attempts[0].why, "no /dev/kvm");
    let mut of_host = result(Answer::HostError, 1);
    of_host.reason = "something of the host".into();
    let (status, ..) = done(planned(3, Until::All), &mut Machines::new([Next::Ends(of_host)]));
    let failure = status.expect_err("no answer");
    assert_eq!(failure.status(), ExitStatus::Host);
    assert_eq!(failure.to_string(), "something of the host");
}

#[test]
fn trials_of_other_conditions_cannot_go_on() {
    let (there, folder) = (conditions(7), Path::new("r"));
    let mut now = there.clone();
    now.kernel.path = "elsewhere/bzImage".into();
    now.host.load_average = Some("1.00".into());
    now.job.host_tsc_khz = Some(2_000_001);
    assert!(check_alike(&there, &now, folder).is_ok(), "the same kernel, at another time");
    now.kernel.crc32 = 9;
    now.job.load.duration = Duration::from_secs(2);
    now.seed = 8;
    let failure = check_alike(&there, &now, folder).expect_err("not alike");
    assert_eq!(failure.status(), ExitStatus::Usage);
    let text = failure.to_string();
    for told in [
        "job.load.duration_ns (1000000000 and 2000000000)",
        "kernel.crc32 (6 and 9)",
        "seed (7 and 8)",
        "in r were done under other conditions",
    ] {
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn the_time_to_go_is_that_of_trials_so_far() {
    let mut series = Series::new(planned(5, Until::All), "r".into());
    assert_eq!(series.time_to_go(), None);
    let dir = tempfile::tempdir().expect("tempdir");
    series.folder = dir.path().to_owned();
    series.trials.planned = 2;
    series.go_on(&mut Machines::new([passes(1), passes(1)]), |_| {}).expect("goes on");
    series.trials.planned = 5;
    for attempt in &mut series.trials.attempts {
        attempt.took_ms = 30_000;
    }
    assert_eq!(series.time_to_go(), Some(Duration::from_secs(90)));
}
