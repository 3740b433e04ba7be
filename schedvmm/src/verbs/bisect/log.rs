// SPDX-License-Identifier: Apache-2.0
//! What `git bisect log` prints and `git bisect replay` reads, in both directions.

use std::fmt::Write as _;

use decision::bisect::Search;
use results::bisection::{Bisection, FoundCommit, is_commit};

use super::git::Commits;

/// Kernels are called good or bad in a log if they are with this probability.
const CERTAIN: f64 = 0.95;

/// What somebody's search has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// In the order in which they were called good.
    pub good: Vec<String>,
    /// The last one that was called bad.
    pub bad: Option<String>,
    /// Those that could not be tested.
    pub skipped: Vec<String>,
    /// Only commits that change these.
    pub paths: Vec<String>,
    /// Only first parents are followed.
    pub first_parent: bool,
}

impl Log {
    /// Reads a log.
    ///
    /// # Errors
    /// The line that is none of a log's, and why.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut log = Self::default();
        let mut terms = ["bad".to_owned(), "good".to_owned()];
        // What git says before a line of the commits that it names.
        let mut resolved: Vec<Resolved> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                resolved.extend(Resolved::read(line));
                continue;
            }
            let before = std::mem::take(&mut resolved);
            let words = shlex::split(line).filter(|words| words.len() >= 3 && words[0] == "git");
            let Some(words) = words.filter(|words| words[1] == "bisect") else {
                return Err(format!("line {number} is no line of `git bisect log`: {line}"));
            };
            let known = match words[2].as_str() {
                "start" => log
                    .start(&words[3..], &mut terms, &before)
                    .map_err(|why| format!("line {number} {why}"))?,
                "skip" => {
                    log.skipped.extend_from_slice(&words[3..]);
                    true
                }
                "terms" => true,
                term => log.mark(term, &words[3..], &terms),
            };
            if !known {
                return Err(format!("line {number} has words that are not known here: {line}"));
            }
        }
        Ok(log)
    }

    /// `git bisect start [--first-parent] [--term-…] [BAD [GOOD…]] [--] [PATH…]`, with what git has told
    /// of its commits; false if words are not known.
    ///
    /// # Errors
    /// Nobody knows which commit a word was, and the word.
    fn start(
        &mut self,
        words: &[String],
        terms: &mut [String; 2],
        resolved: &[Resolved],
    ) -> Result<bool, String> {
        let mut ends: Vec<String> = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, value) = word
                .split_once('=')
                .map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            let is_bad = matches!(name, "--term-bad" | "--term-new");
            match name {
                "--" => {
                    self.paths.extend(words.by_ref().cloned());
                }
                "--first-parent" => self.first_parent = true,
                "--no-checkout" => {}
                "--term-bad" | "--term-new" | "--term-good" | "--term-old" => {
                    let value = value.map(str::to_owned).or_else(|| words.next().cloned());
                    let Some(value) = value else { return Ok(false) };
                    terms[usize::from(!is_bad)] = value;
                }
                _ if word.starts_with("--") => return Ok(false),
                _ => ends.push(word.clone()),
            }
        }
        for (place, word) in ends.into_iter().enumerate() {
            let told = resolved.get(place).filter(|told| told.is_bad(terms) == Some(place == 0));
            match told {
                Some(told) if !is_commit(&word) => self.add_end(place, told.commit.clone()),
                _ if is_commit(&word) => self.add_end(place, word),
                // Behind the last commit git takes words for paths.
                _ if !resolved.is_empty() && place >= resolved.len() => self.paths.push(word),
                _ => {
                    return Err(format!(
                        "names `{word}`, which can be another commit by now, and no remark before it \
                         says which it was"
                    ));
                }
            }
        }
        Ok(true)
    }

    /// The first one of a start is the bad one.
    fn add_end(&mut self, place: usize, commit: String) {
        match place {
            0 => self.bad = Some(commit),
            _ => self.good.push(commit),
        }
    }

    /// `git bisect good COMMIT…`; false if the term is none.
    fn mark(&mut self, term: &str, commits: &[String], terms: &[String; 2]) -> bool {
        if commits.is_empty() {
            return false;
        }
        if term == terms[0] || term == "new" || term == "bad" {
            self.bad = commits.last().cloned();
        } else if term == terms[1] || term == "old" || term == "good" {
            self.good.extend_from_slice(commits);
        } else {
            return false;
        }
        true
    }
}

/// A remark `# bad: [COMMIT] …`: which commit a name was when git was told of it.
struct Resolved {
    term: String,
    commit: String,
}

impl Resolved {
    /// `None` if it is another remark.
    fn read(line: &str) -> Option<Self> {
        let (term, rest) = line.strip_prefix("# ")?.split_once(": [")?;
        let (commit, _) = rest.split_once(']')?;
        is_commit(commit).then(|| Self { term: term.to_owned(), commit: commit.to_owned() })
    }

    /// Which of the ends it is; `None` if neither.
    fn is_bad(&self, terms: &[String; 2]) -> Option<bool> {
        let [bad, good] = terms;
        let term = &self.term;
        if term == bad || term == "bad" || term == "new" {
            Some(true)
        } else if term == good || term == "good" || term == "old" {
            Some(false)
        } else {
            None
        }
    }
}

/// A log of a search: kernels whose side is known are marked, and all have a remark of their runs.
pub fn write(state: &Bisection, search: &Search, commits: &Commits) -> String {
    let question = &state.question;
    let mut text = String::new();
    // Writing to a String does not fail.
    let paths: Vec<_> = question.paths.iter().map(|path| quoted(path)).collect();
    let paths = if paths.is_empty() { String::new() } else { format!(" -- {}", paths.join(" ")) };
    let first = if question.first_parent { " --first-parent" } else { "" };
    let good = question.good.join("' '");
    let _ = writeln!(text, "git bisect start{first} '{}' '{good}'{paths}", question.bad);
    let _ = writeln!(text, "# bad: {}: {}", question.bad, runs(state, &question.bad));
    for good in &question.good {
        let _ = writeln!(text, "# good: {good}: {}", runs(state, good));
    }
    let is_bad = search.probabilities_bad();
    let culprit = most_likely(&search.probabilities());
    let mut told: Vec<&str> = Vec::new();
    for kernel in &state.kernels {
        let commit = kernel.commit.as_str();
        let inner = question.bad != commit && !question.good.iter().any(|good| good == commit);
        let Some(at) = commits.number(commit).filter(|_| inner && !told.contains(&commit)) else {
            continue;
        };
        told.push(commit);
        let found = runs(state, commit);
        let tested = state.runs_of(commit).trials > 0;
        let side = match (tested, search.contains(at, culprit)) {
            (false, _) => "skip",
            (true, true) if is_bad[at] >= CERTAIN => "bad",
            (true, false) if is_bad[at] <= 1.0 - CERTAIN => "good",
            _ => {
                let _ =
                    writeln!(text, "# not certain: {commit}: {found}, bad with {:.3}", is_bad[at]);
                continue;
            }
        };
        let _ = writeln!(text, "# {side}: {commit}: {found}, bad with {:.3}", is_bad[at]);
        let _ = writeln!(text, "git bisect {side} {commit}");
    }
    match state.found.as_slice() {
        [FoundCommit { commit, subject, .. }] => {
            let _ = writeln!(text, "# first bad commit: [{commit}] {}", plain(subject));
        }
        found => {
            for FoundCommit { commit, subject, .. } in found {
                let _ =
                    writeln!(text, "# possible first bad commit: [{commit}] {}", plain(subject));
            }
        }
    }
    text
}

/// The commit that is most likely the first bad one.
fn most_likely(probabilities: &[f64]) -> usize {
    let mut best = 0;
    for (at, probability) in probabilities.iter().enumerate() {
        if *probability > probabilities[best] {
            best = at;
        }
    }
    best
}

/// `3 of 10 runs hit`.
fn runs(state: &Bisection, commit: &str) -> String {
    let found = state.runs_of(commit);
    match state.kernel(commit) {
        Some(kernel) if !kernel.why.is_empty() && found.trials == 0 => plain(&kernel.why),
        _ => format!("{} of {} runs hit", found.hits, found.trials),
    }
}

/// In one line.
fn plain(text: &str) -> String {
    text.replace(|letter: char| letter.is_control(), " ")
}

/// As one word of the shell, as git has it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_git_are_read() {
        let [a, b] = ["a", "b"].map(|digit| digit.repeat(40));
        let text = format!(
            "# bad: [{b}] x\n# status: waiting\n# good: [{a}] y\n\
             git bisect start 'HEAD' 'HEAD~15' 'kernel/sched'\n\
             # good: [c] y\ngit bisect good c\ngit bisect skip d e\ngit bisect bad f\n\
             # first bad commit: [f] z\n"
        );
        let log = Log::read(&text).expect("a log");
        let all = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert_eq!(log.good, all(&[&a, "c"]));
        assert_eq!((log.bad.as_deref(), log.skipped), (Some("f"), all(&["d", "e"])));
        assert_eq!(log.paths, all(&["kernel/sched"]));
    }

    #[test]
    fn other_terms_are_known_by_their_start() {
        let text = "git bisect start '--term-new' 'slow' --term-old=fast --first-parent\n\
                    git bisect slow b\ngit bisect fast a\n";
        let log = Log::read(text).expect("a log");
        assert_eq!((log.bad.as_deref(), log.good.as_slice()), (Some("b"), &["a".to_owned()][..]));
        assert!(log.first_parent && log.paths.is_empty());
    }

    #[test]
    fn what_is_no_log_is_named() {
        // A bad commit that is known is none for the good one.
        let bad = format!("# bad: [{0}] x\n# bad: [{0}] x\n", "b".repeat(40));
        let half = format!("{bad}git bisect start v2 v1 --");
        for (text, told) in [
            ("hello", "line 1 is no line of `git bisect log`: hello"),
            ("git bisect start\ngit bisect slow a", "line 2 has words that are not known here"),
            ("git bisect start --odd", "line 1 has words"),
            ("# x\ngit bisect start HEAD HEAD~15", "line 2 names `HEAD`, which can be another"),
            (&half, "line 3 names `v1`, which can be"),
            ("git bisect good", "line 1 has words"),
            ("git bisect 'good a", "line 1 is no line"),
        ] {
            let why = Log::read(text).expect_err("no log");
            assert!(why.contains(told), "{why}");
        }
    }
}
