// SPDX-License-Identifier: Apache-2.0
//! Matrices whose trials are made up.

use protocol::job::CoschedRequest;
use results::matrix::MatrixBase;
use results::trials::{Attempt, Trials, folder_name, seed_of};

use super::*;
use crate::alike::tests::assert_names;
use crate::verbs::trials::series::tests::{conditions, whole_conditions};

/// Two kernels with and without a tunable, under a load, with and without cookies.
fn question() -> MatrixQuestion {
    MatrixQuestion {
        metric: Metric::WaitP99,
        min_effect: 0.1,
        trials: 12,
        seed: 7,
        options: "--duration 10s".into(),
        kernels: vec!["old".into(), "new".into()],
        tunings: vec![String::new(), "slice=3ms".into()],
        loads: vec!["busy".into()],
        cookies: vec![Some(CoschedRequest::Prctl), Some(CoschedRequest::None)],
        base: MatrixBase { kernel: Some("old".into()), ..MatrixBase::default() },
    }
}

/// The wait of a cell's trials, in ms, before chance has its part.
type Wait = fn(Place) -> f64;

fn runs_of(question: &MatrixQuestion, trials: u32, wait: Wait) -> Runs {
    let series = Place::all(question).into_iter().zip(1..).map(|(place, number)| {
        let mut of_cell = Trials { planned: question.trials, ..Trials::new(conditions(7)) };
        for trial in 1..=trials {
            let seed = seed_of(7, trial);
            let begun = Attempt::begun(
                trial,
                1,
                folder_name(trial, 1),
                seed,
                "2026-11-30T05:00:00Z".into(),
            );
            // Within 3 %.
            let scatter = u32::try_from(seed_of(number, trial) % 60).expect("small");
            let length_ns = 1e3 * wait(place) * f64::from(970 + scatter);
            let metrics = [(Metric::WaitP99, length_ns), (Metric::Longest, 3.0 * length_ns)];
            of_cell.attempts.push(Attempt {
                state: State::Measured,
                metrics: metrics.into(),
                ..begun
            });
        }
        Series::new(of_cell, format!("cell-{number:03}").into())
    });
    let series: Vec<_> = series.collect();
    let order = cells::order(7, series.len(), question.trials);
    Runs { ended: Some(Ended::All), ..Runs::new(series, order) }
}

fn matrix(wait: Wait) -> Matrix {
    let question = question();
    let runs = runs_of(&question, question.trials, wait);
    found(begin(question, "2026-11-30T05:00:00Z".into(), Vec::new()), &runs).expect("a matrix")
}

/// The new kernel is worse without its tunable and with cookies, and better with both.
fn differs(place: Place) -> f64 {
    match (place.kernel, place.tuning, place.cookies) {
        (1, 0, 0) => 15.0,
        (1, 1, 0) => 7.0,
        _ => 10.0,
    }
}

#[test]
fn each_cell_is_compared_with_its_own_base() {
    let matrix = matrix(differs);
    let bases: Vec<_> = matrix.cells.iter().map(|cell| cell.base).collect();
    assert_eq!(bases, [None, None, None, None, Some(1), Some(2), Some(3), Some(4)]);
    let answers: Vec<_> = matrix.cells.iter().filter_map(answer).collect();
    use Answer::{Better, Same, Worse};
    assert_eq!(answers, [Worse, Same, Better, Same]);
    assert!((matrix.level - 0.05 * 4.0 / 4.0).abs() < 0.026, "{}", matrix.level);
    let found = matrix.cells[4].finding.expect("pairs");
    assert!((found.ratio - 1.5).abs() < 0.05 && found.pairs == 12, "{found:?}");
    assert!(found.p_adjusted >= found.p && found.p_adjusted < 0.05, "{found:?}");
    assert_eq!(status(&matrix), ExitStatus::OverThreshold);
    assert_eq!(words::counts(&matrix), "1 worse, 1 better, 2 same");
}

#[test]
fn a_table_a_file_and_columns_say_the_same() {
    let matrix = matrix(differs);
    let dir = tempfile::tempdir().expect("tempdir");
    keep(&matrix, dir.path()).expect("written");
    let read = Matrix::open(dir.path()).expect("read");
    assert_eq!((&read.question, &read.order), (&matrix.question, &matrix.order));
    // Numbers that are no short ones may be read as their neighbours.
    assert_eq!(words::table(&read, dir.path()), words::table(&matrix, dir.path()));
    let table = words::table(&matrix, dir.path());
    let row = |number: &str| {
        let line = table.lines().find(|line| line.starts_with(number)).expect("a row");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(row("cell").ends_with("kernel tuning cookies median ratio interval p (BH) answer"));
    assert!(row("1 ").starts_with("1 old (default) prctl 9.8 ms") && row("1 ").ends_with("base"));
    assert!(row("5 ").starts_with("5 new (default) prctl ") && row("5 ").ends_with("worse (1)"));
    for told in [
        "load      busy",
        "options   --duration 10s",
        "base      kernel old, all else as in the cell itself",
        "answers   1 worse, 1 better, 2 same (\"same\" is within 10 %; of cells",
    ] {
        assert!(table.contains(told), "{told}: {table}");
    }
    let csv = std::fs::read_to_string(dir.path().join(CSV)).expect("written");
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 9);
    let columns = lines[0].split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() == columns), "{csv}");
    assert!(lines[5].starts_with("5,new,,busy,prctl,cell-005,12,1,worse,1."), "{csv}");
    assert!(lines[1].starts_with("1,old,,busy,prctl,cell-001,12,,,,,,,,"), "{csv}");
}

#[test]
fn before_all_is_done_nobody_looks() {
    let question = question();
    let mut runs = runs_of(&question, 9, differs);
    runs.ended = Some(Ended::Interrupted);
    let found = found(begin(question, String::new(), Vec::new()), &runs).expect("a matrix");
    assert!(found.cells.iter().all(|cell| cell.finding.is_none() && cell.side.median.is_some()));
    assert_eq!(status(&found), ExitStatus::Untestable);
    assert!(found.notes[0].starts_with("72 of 96 trials are done"), "{:?}", found.notes);
}

#[test]
fn what_is_missing_is_no_chance() {
    let question = question();
    let mut runs = runs_of(&question, question.trials, |_| 10.0);
    let of = |runs: &mut Runs, cell: usize, state, lost: usize| {
        let attempts = runs.series[cell].trials.attempts.iter_mut();
        attempts.take(lost).for_each(|attempt| attempt.state = state);
    };
    of(&mut runs, 4, State::Untestable, 2);
    runs.series[4].trials.ended = Some(Ended::Untestable);
    runs.series[5].trials.attempts[3].metrics.clear();
    let matrix = found(begin(question, String::new(), Vec::new()), &runs).expect("a matrix");
    let why = |cell: usize| matrix.cells[cell].withheld.clone().unwrap_or_default();
    assert_eq!(why(4), "2 of 12 trials of new, (default), cookies prctl are missing");
    assert!(why(5).starts_with("1 pair does not tell wait-p99"), "{}", why(5));
    assert_eq!(why(6), "");
    assert_eq!(answer(&matrix.cells[4]), Some(Answer::Undecided));
    let told = matrix.notes.join("\n");
    assert!(told.contains("new, (default), cookies prctl could not be tested"), "{told}");
}

#[test]
fn too_few_trials_are_told() {
    let question = MatrixQuestion { trials: 6, ..question() };
    let runs = runs_of(&question, 6, differs);
    let matrix = found(begin(question, String::new(), Vec::new()), &runs).expect("a matrix");
    let told = matrix.notes.join("\n");
    assert!(
        told.contains("6 trials cannot tell that one cell of 4 differs") && told.contains("8 can")
    );
    assert_eq!(answer(&matrix.cells[4]), Some(Answer::Undecided));
    assert!(
        words::figures(&matrix.cells[4], Metric::WaitP99).contains(&"too few pairs".to_owned())
    );
}

#[test]
fn another_question_is_refused_by_name() {
    let there = question();
    let other = MatrixQuestion { trials: 13, ..question() };
    let told = check_question(&there, &other, Path::new("r")).expect_err("other").to_string();
    assert!(told.contains("the matrix in r asks something else: trials (12 and 13)"), "{told}");
    assert!(check_question(&there, &question(), Path::new("r")).is_ok());
}

#[test]
fn cells_that_are_compared_differ_in_what_the_lists_say() {
    assert_names(
        &whole_conditions(),
        &["job.tune", "job.cosched", "job.load.name", "job.load.shape"],
    );
    let question = question();
    let mut all: Vec<_> = (0..8).map(|_| conditions(7)).collect();
    assert!(check_alike(&question, &all).is_ok());
    all[5].kernel.crc32 = 99;
    assert!(check_alike(&question, &all).is_ok(), "that is what is compared");
    all[5].machine.memory_mib = 99;
    let told = check_alike(&question, &all).expect_err("unlike").to_string();
    let names = "old, (default), cookies none and new, (default), cookies none";
    assert!(told.contains(names) && told.contains("machine.memory_mib (0 and 99)"), "{told}");
}

#[test]
fn a_heat_map_has_a_colour_where_a_cell_differs() {
    let mut matrix = matrix(differs);
    matrix.cells[0].side.kernel = "<script>".into();
    let page = heat::render(&matrix).into_string();
    let count = |words: &str| page.matches(words).count();
    assert_eq!((count("class=\"h w2\""), count("class=\"h b2\"")), (1, 1), "{page}");
    assert_eq!((count("class=\"h s\""), count("<tr>")), (2, 5), "{page}");
    for told in ["<h1>1 worse, 1 better, 2 same</h1>", "against kernel old, all else", "× 1."] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
}
