// SPDX-License-Identifier: Apache-2.0
//! Many runs of one kernel: each a machine of its own in one process, which may be killed.

use std::collections::BTreeSet;
use std::time::Duration;

use decision::sequential::Answer;
use protocol::tunable::TunableName;
use results::comparison::{Comparison, Versus};
use results::matrix::Matrix;
use results::model::{self, RunResult};
use results::saved::Saved;
use results::set_file::SetFile as _;
use results::trials::{Ended, State, Trials, seed_of};

use crate::case::{Case, NOISY};
use crate::lab::{Group, TestKernel};
use crate::outcome::Outcome;

/// A run that is over soon: few threads are prepared soon, and more than their CPUs.
const SHORT: &str = "--kernel /bzImage --threshold off --duration 1s --noise off --trace off \
    --memory 256M --groups 4 --threads 1 --boot-timeout 2m";
/// Of three runs, two machines and a process that is started again.
const LIMIT: Duration = Duration::from_secs(300);

pub fn group() -> Group {
    let three = format!("schedvmm trials 3 {SHORT} {NOISY} --seed 7 --output r");
    // The main job's option is the same. Killed while the second machine runs; what is called again
    // goes on.
    let runs = format!("schedvmm --runs 3 {SHORT} {NOISY} --output r");
    let killed = format!(
        "{runs} & pid=$!; while kill -0 $pid && ! test -e r/trial-002/console.log; do sleep 0.2; done; \
         kill -9 $pid; wait $pid; {runs}"
    );
    let other = format!("schedvmm trials 2 {}", SHORT.replace("--duration 1s", "--duration 2s"));
    let changed = format!("{runs} --until all > first; {other} {NOISY} --output r");
    let cases = vec![
        Case::new("three", three, three_trials).within(LIMIT),
        Case::new("killed", killed, killed_and_called_again).within(LIMIT),
        Case::new("changed", changed.replace("--runs 3", "--runs 1"), of_other_conditions)
            .within(LIMIT),
        Case::new("decided", decided(), |outcome| {
            outcome.assert_status(1);
            let trials = trials(outcome);
            assert_eq!((trials.ended, trials.attempts.len()), (Some(Ended::Decided), 1));
        })
        .within(LIMIT),
    ];
    let mut cases = cases;
    cases.push(Case::new("compared", compared(), answer_holds).within(3 * LIMIT));
    cases.push(Case::new("matrix", matrix(), cells_hold).within(2 * LIMIT));
    Group::new("trials", TestKernel::V612, cases)
}

/// Gaps of that length are the rule.
fn decided() -> String {
    let short = SHORT.replace("--threshold off", "--threshold 1ms");
    format!("schedvmm trials 5 --until decided {short} {NOISY} --output r")
}

/// A kernel with itself, measured, and asked again of what is stored. What the answer is an emulated host
/// does not tell.
fn compared() -> String {
    const ASKED: &str = "--metric longest --min-effect 99%";
    let short = SHORT.replace("--kernel /bzImage ", "");
    format!(
        "schedvmm compare /bzImage /bzImage {ASKED} --seed 7 --output r -- {short} {NOISY}; first=$?; \
         schedvmm compare r/a r/b {ASKED} --json > again; test $? = $first && exit $first"
    )
}

fn answer_holds(outcome: &Outcome) {
    let measured = Comparison::open(&outcome.path("r")).unwrap_or_else(|error| {
        panic!("{error}{}", outcome.words());
    });
    let again = outcome.file("again").expect("printed");
    let again: Comparison = serde_json::from_str(&again).expect("a comparison");
    let (versus, stored) = (&measured.others[0], &again.others[0]);
    let text = |it: &Versus| {
        serde_json::json!([it.answer, it.pairs, it.finding, it.next_look_pairs]).to_string()
    };
    assert_eq!(text(versus), text(stored), "the same trials, the same answer");
    outcome.assert_status(match versus.answer {
        Answer::Better | Answer::Same => 0,
        Answer::Worse => 1,
        Answer::Undecided => 125,
    });
    let finding = versus.finding.expect("at least one look");
    println!("     {:?} after {} pairs: {finding:?}", versus.answer, versus.pairs);
    assert!(again.notes.is_empty(), "they took turns, with the same seeds: {:?}", again.notes);
    let sides = ["a", "b"].map(|side| Trials::open(&outcome.path("r").join(side)).expect("trials"));
    for (one, other) in sides[0].measured().zip(sides[1].measured()) {
        assert_eq!((one.trial, one.seed), (other.trial, other.seed));
    }
    let told = outcome.stdout.lines().filter(|line| line.starts_with("pair ")).count();
    assert_eq!(told, versus.pairs, "a line each{}", outcome.words());
}

/// Two slices under a load, and the same call again, which finds nothing to do.
fn matrix() -> String {
    // The preset has its own groups.
    let short = SHORT.replace("--kernel /bzImage --threshold off ", "");
    let short = short.replace("--groups 4 --threads 1 ", "");
    format!(
        "printf '%s\\n' 'trials = 2' 'seed = 7' 'kernels = [\"/bzImage\"]' \
         'tunings = [\"slice=1ms\", \"slice=4ms\"]' 'loads = [\"busy\"]' \
         'options = \"{short} {NOISY}\"' > m.toml; \
         schedvmm matrix m.toml --output r; first=$?; \
         schedvmm matrix m.toml --output r --json > again; test $? = $first || exit 99; \
         schedvmm report r --output page.html > told && exit $first"
    )
}

fn cells_hold(outcome: &Outcome) {
    // Two trials decide nothing.
    outcome.assert_status(125);
    let matrix = Matrix::open(&outcome.path("r")).unwrap_or_else(|error| {
        panic!("{error}{}", outcome.words());
    });
    let again: Matrix =
        serde_json::from_str(&outcome.file("again").expect("printed")).expect("a matrix");
    assert_eq!(matrix, again, "the same trials, the same answer");
    let cells: Vec<_> = matrix.cells.iter().map(|cell| (cell.base, cell.side.trials)).collect();
    assert_eq!(cells, [(None, 2), (Some(1), 2)]);
    let mut times = Vec::new();
    for (number, cell) in (1..).zip(&matrix.cells) {
        let folder = outcome.path("r").join(&cell.folder);
        let trials = Trials::open(&folder).expect("trials");
        for attempt in trials.measured() {
            times.push((attempt.started_utc.clone(), (number, attempt.trial)));
            let result = Saved::open(&folder.join(&attempt.folder)).expect("a result").result;
            assert_eq!(result.job.load.seed, seed_of(7, attempt.trial), "the same in all cells");
            assert_eq!(result.job.load.name.as_deref(), Some("busy"));
            let tune = &result.job.tune;
            let slice = tune.iter().find(|it| it.name == TunableName::Slice).expect("a slice");
            assert_eq!(format!("slice={}", slice.value), cell.tuning);
        }
    }
    times.sort();
    let done: Vec<_> = times.into_iter().map(|(_, trial)| trial).collect();
    assert_eq!(done, matrix.order, "in the order that was drawn");
    let told = outcome.stdout.lines().filter(|line| line.starts_with("trial ")).count();
    assert_eq!(told, 4, "a line each{}", outcome.words());
    for page in ["page.html", "r/matrix.html"] {
        let page = outcome.file(page).expect("written");
        assert!(page.contains("slice=4ms") && page.contains("1 undecided"), "{page}");
    }
    println!("     {:?}", matrix.cells[1].finding);
}

fn trials(outcome: &Outcome) -> Trials {
    Trials::open(&outcome.path("r")).unwrap_or_else(|error| panic!("{error}{}", outcome.words()))
}

/// The results of those that count.
fn results(outcome: &Outcome, trials: &Trials) -> Vec<RunResult> {
    let folder = outcome.path("r");
    trials
        .measured()
        .map(|attempt| Saved::open(&folder.join(&attempt.folder)).expect("a result").result)
        .collect()
}

fn three_trials(outcome: &Outcome) {
    outcome.assert_status(0);
    let trials = trials(outcome);
    assert_eq!((trials.ended, trials.count(State::Measured)), (Some(Ended::All), 3));
    let results = results(outcome, &trials);
    assert_eq!(results.len(), 3);
    for (trial, result) in (1..).zip(&results) {
        assert_eq!(result.job.load.seed, seed_of(7, trial));
        assert_eq!((result.verdict, result.exit_status), (model::Answer::Measured, Some(0)));
        // Unpacked once, and the same kernel to every eye.
        let kernel = (&result.kernel.build_id, &result.kernel.banner, result.kernel.entered);
        let first = &results[0].kernel;
        assert_eq!(kernel, (&first.build_id, &first.banner, first.entered));
        assert!(result.kernel.build_id.is_some() && result.caller.is_some());
        assert_eq!(result.caller, results[0].caller, "each finds this process as it was");
        let build = result.phases_ms[&model::Phase::Build];
        println!("     trial {trial}: {build} ms to the first instruction");
    }
    let longest: BTreeSet<_> = results.iter().map(|result| result.longest_gap_ns).collect();
    assert_eq!(longest.len(), 3, "three machines");
    let took_ms: u64 = trials.attempts.iter().map(|attempt| attempt.took_ms).sum();
    println!("     {} trials an hour", 3 * 3_600_000 / took_ms.max(1));
    let told = outcome.stdout.lines().filter(|line| line.starts_with("trial ")).count();
    assert_eq!(told, 3, "a line each{}", outcome.words());
    assert!(outcome.stdout.contains("3 of 3 measured"), "a table{}", outcome.words());
}

fn killed_and_called_again(outcome: &Outcome) {
    outcome.assert_status(0);
    let trials = trials(outcome);
    let states: Vec<_> = trials.attempts.iter().map(|it| (it.trial, it.state)).collect();
    let expected =
        [(1, State::Measured), (2, State::CutOff), (2, State::Measured), (3, State::Measured)];
    assert_eq!(states, expected, "{}", outcome.words());
    assert_eq!(results(outcome, &trials).len(), 3);
    // What the machine that was cut off has left is there.
    assert!(outcome.path("r/trial-002/console.log").exists());
    assert_eq!(trials.attempts[1].seed, trials.attempts[2].seed);
}

fn of_other_conditions(outcome: &Outcome) {
    outcome.assert_status(200);
    outcome.assert_says(&["done under other conditions", "job.load.duration_ns", "1000000000"]);
    assert_eq!(trials(outcome).count(State::Measured), 1, "what is there stays");
}
