// SPDX-License-Identifier: Apache-2.0
//! What is seen of a search: a line a build and a run, and its end.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use results::bisection::{
    BisectCandidate, BisectEnded, Bisection, BuildState, FoundCommit, Hit, Knowledge, Rate,
};
use results::trials::State;

use crate::terminal::one_line;
use crate::verbs::trials::lines::{self, show, show_time};

/// Digits of a commit that are shown.
const SHORT: usize = 12;
/// So many candidates are shown on the screen.
const SHOWN: usize = 20;

/// Before the first build.
pub fn first(state: &Bisection, folder: &Path) -> String {
    let folder = folder.display();
    let question = &state.question;
    let there = match state.runs.len() {
        0 => String::new(),
        runs => format!(", {runs} runs are there"),
    };
    let trusted = match question.good.len().saturating_sub(1) {
        0 => String::new(),
        others => format!("\n(good and not run, taken on trust: {others} more)"),
    };
    format!(
        "{} commits from {} to {}, hit: {}, seed {}, in {folder}{there}{trusted}\n(called again with --output \
         {folder} it goes on where it was ended)",
        state.commits,
        short(&question.good[0]),
        short(&question.bad),
        hit(question.hit),
        question.seed
    )
}

fn hit(hit: Hit) -> String {
    match hit {
        Hit::Threshold { threshold_ns } => {
            format!("a gap over {:?}", Duration::from_nanos(threshold_ns))
        }
        Hit::Limit { metric, limit } => {
            format!("{} over {}", metric.name(), show(metric, limit))
        }
    }
}

/// After a build.
pub fn built(state: &Bisection) -> String {
    let Some(kernel) = state.kernels.last() else { return String::new() };
    let mut text = format!(
        "build {:>4}  {}  {:>9}",
        state.kernels.len(),
        end_or_commit(state, &kernel.commit),
        show_time(Duration::from_millis(kernel.took_ms))
    );
    if kernel.state != BuildState::Built {
        let _ = write!(text, "  skipped: {}", one_line(&kernel.why));
    }
    text
}

/// After a run: what it found, and what is known.
pub fn ran(state: &Bisection) -> String {
    let Some(run) = state.runs.last() else { return String::new() };
    let attempt = &run.attempt;
    let mut text = format!(
        "run   {:>4}  {}  {:>9}  ",
        state.runs.len(),
        end_or_commit(state, &run.commit),
        show_time(Duration::from_millis(attempt.took_ms))
    );
    // Writing to a String does not fail.
    let _ = match run.hit {
        Some(hit) => {
            let so_far = state.runs_of(&run.commit);
            let word = if hit { "hit   " } else { "no hit" };
            write!(text, "{word}  {} of {}", so_far.hits, so_far.trials)
        }
        None => write!(text, "{}: {}", lines::state(attempt.state), one_line(&attempt.why)),
    };
    if state.kernel(&run.commit).is_some_and(|it| it.state == BuildState::Untestable) {
        text += "; skipped";
    }
    if let Some(known) = &state.known {
        let _ = write!(text, "  {}", known_words(known));
    }
    text
}

/// `leading abc 0.412; about 60 runs, 2 h 3 min to go`.
fn known_words(known: &Knowledge) -> String {
    let Some(leading) = known.candidates.first() else { return String::new() };
    let count = known.candidates.len() + known.more_candidates;
    let mut text =
        format!("leading {} {:.3} of {count}", short(&leading.commit), leading.probability);
    if known.time_to_go_s > 0.0 {
        let time = Duration::try_from_secs_f64(known.time_to_go_s).unwrap_or(Duration::MAX);
        let runs = known.time_to_go_s / known.costs.trial_s;
        let _ = write!(text, "; roughly {} to go (at most {runs:.0} runs)", show_time(time));
    }
    text
}

/// A commit, or which end it is.
fn end_or_commit(state: &Bisection, commit: &str) -> String {
    let end = if state.question.bad == commit {
        " (bad)"
    } else if state.question.good.iter().any(|good| good == commit) {
        " (good)"
    } else {
        ""
    };
    format!("{:<19}", format!("{}{end}", short(commit)))
}

/// The end of a search.
pub fn end(state: &Bisection, folder: &Path) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_end(&mut text, state);
    let _ = writeln!(text, "{:<10} {}", "ends", ends(state));
    let _ = writeln!(text, "{:<10} {}", "spent", spent(state));
    let _ = writeln!(text, "{:<10} {}", "ended", ended(state.ended));
    let log = folder.join(super::LOG);
    let _ = write!(text, "{:<10} {} (git bisect replay)", "log", log.display());
    text
}

fn write_end(text: &mut String, state: &Bisection) -> std::fmt::Result {
    writeln!(text)?;
    match state.found.as_slice() {
        [] => {}
        [found] => {
            let FoundCommit { commit, probability, subject, author, date, .. } = found;
            writeln!(
                text,
                "{commit} is the first bad commit, with a probability of {probability:.3}"
            )?;
            writeln!(text, "{:<10} {}", "subject", one_line(subject))?;
            writeln!(text, "{:<10} {}", "author", one_line(author))?;
            writeln!(text, "{:<10} {}", "date", one_line(date))?;
        }
        several => {
            let sum: f64 = several.iter().map(|found| found.probability).sum();
            let count = several.len();
            writeln!(
                text,
                "one of {count} is the first bad commit, with a probability of {sum:.3}:"
            )?;
            writeln!(text, "kernels that would part them could not be tested")?;
            for found in several {
                let FoundCommit { commit, subject, date, .. } = found;
                writeln!(text, "{}  {date}  {}", short(commit), one_line(subject))?;
            }
        }
    }
    if let Some(known) = &state.known {
        for BisectCandidate { commit, probability } in known.candidates.iter().take(SHOWN) {
            writeln!(text, "{:<10} {commit}  {probability:.3}", "candidate")?;
        }
        let more = known.candidates.len().saturating_sub(SHOWN) + known.more_candidates;
        if more > 0 {
            writeln!(text, "{:<10} {more} more", "candidate")?;
        }
    }
    if let Some(note) = left_out(&state.found) {
        writeln!(text, "{:<10} {note}", "note")?;
    }
    if !state.found.is_empty() {
        writeln!(text, "{:<10} one commit made hits more likely, for good", "assumed")?;
    }
    Ok(())
}

/// That commits which are found stand for others.
fn left_out(found: &[FoundCommit]) -> Option<String> {
    let count = found.iter().fold(0, |sum: u64, it| sum.saturating_add(it.left_out));
    let commits = if count == 1 { "commit" } else { "commits" };
    match found {
        _ if count == 0 => None,
        [_] => Some(format!(
            "it is this, or one of {count} {commits} before it that --path leaves out"
        )),
        // Some can be before more than one of them.
        _ => Some(format!(
            "it is one of these, or of at most {count} {commits} before them that --path leaves out"
        )),
    }
}

/// `good 0 of 40 runs hit (0 % to 5 %), bad 12 of 40 (18 % to 45 %)`.
pub fn ends(state: &Bisection) -> String {
    let rate = |commit: &str| Rate::from(state.runs_of(commit));
    let (good, bad) = (rate(&state.question.good[0]), rate(&state.question.bad));
    format!("good {}, bad {}, with 95 % intervals", rate_words(&good), rate_words(&bad))
}

fn rate_words(rate: &Rate) -> String {
    format!(
        "{} of {} runs hit ({:.0} % to {:.0} %)",
        rate.runs.hits,
        rate.runs.trials,
        100.0 * rate.interval.low,
        100.0 * rate.interval.high
    )
}

/// How much was built and run.
pub fn spent(state: &Bisection) -> String {
    let built = state.kernels.iter().filter(|kernel| kernel.state == BuildState::Built).count();
    let failed = state.kernels.len() - built;
    let mut text = format!("{built} kernels built, {failed} skipped, {} runs", state.runs.len());
    let others =
        [State::Contaminated, State::Untestable, State::Interrupted, State::CutOff, State::Failed];
    for kind in others {
        let count = state.count(kind);
        if count > 0 {
            let _ = write!(text, ", {count} of them {}", lines::state(kind));
        }
    }
    let _ = write!(text, "; {}", show_time(Duration::from_millis(state.spent_ms())));
    text
}

/// Why the last kernel cannot be tested.
pub fn why_given_up(state: &Bisection) -> String {
    let last = state.kernels.iter().rev().find(|kernel| kernel.state != BuildState::Built);
    last.map_or_else(
        || "nothing is known".to_owned(),
        |kernel| format!("{}: {}", end_or_commit(state, &kernel.commit).trim_end(), kernel.why),
    )
}

fn ended(ended: Option<BisectEnded>) -> &'static str {
    match ended {
        Some(BisectEnded::Found) => "the first bad commit is known",
        Some(BisectEnded::Alike) => "the ends cannot be told apart",
        Some(BisectEnded::EndUntestable) => "an end cannot be tested",
        Some(BisectEnded::Spent) => "--max-runs or --max-hours",
        Some(BisectEnded::Interrupted) => "interrupted",
        Some(BisectEnded::HostUnfit) => "the host is unfit: too many were contaminated",
        Some(BisectEnded::Failed) => "failed",
        None => "not yet, or it was killed: the same call goes on",
    }
}

fn short(commit: &str) -> &str {
    commit.get(..SHORT).unwrap_or(commit)
}
