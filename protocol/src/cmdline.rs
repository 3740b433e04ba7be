// SPDX-License-Identifier: Apache-2.0
//! The command line that a kernel was given, and the one that it runs with.
//!
//! They need not be the same: a kernel built with `CONFIG_CMDLINE` puts words of its own before
//! ours, one with `CONFIG_CMDLINE_OVERRIDE` runs with those alone, and what gets longer than the
//! kernel's buffer is cut.

/// Longest command line of an x86 kernel, less its NUL (`COMMAND_LINE_SIZE`,
/// arch/x86/include/asm/setup.h).
const MAX_BYTES: usize = 2047;

/// Our words that only save time or make the console quiet or loud. A run without them measures
/// the same.
const CONVENIENCES: [&str; 8] = [
    "quiet",
    "loglevel",
    "ignore_loglevel",
    "earlyprintk",
    "console",
    "no_timer_check",
    "pci",
    "random.trust_cpu",
];

/// Difference between a kernel's command line and the one that it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Given, and not there.
    pub missing: Vec<String>,
    /// Given, and followed by another value for the same name, which is the one that counts.
    pub overridden: Vec<(String, String)>,
    /// Not given.
    pub added: Vec<String>,
    /// Its length.
    running_bytes: usize,
}

impl Drift {
    /// Compares the line that was given with `/proc/cmdline`.
    pub fn between(given: &str, running: &str) -> Self {
        let given: Vec<&str> = given.split_whitespace().collect();
        let words: Vec<&str> = running.split_whitespace().collect();
        let mut drift = Self { running_bytes: running.trim_end().len(), ..Self::default() };
        for word in distinct(&given) {
            if !words.contains(&word) {
                drift.missing.push(word.into());
            } else if let Some(winner) = last_of(&words, word)
                && last_of(&given, word) == Some(word)
                && winner != word
            {
                drift.overridden.push((word.into(), winner.into()));
            }
        }
        let added = words.iter().filter(|word| !given.contains(word));
        drift.added = added.map(|&word| word.into()).collect();
        drift
    }

    /// What of it makes the run another than the one that was asked for.
    pub fn fault(&self) -> Option<String> {
        let missing: Vec<_> = self.missing.iter().filter(matters).map(String::as_str).collect();
        let mut faults = Vec::new();
        if !missing.is_empty() {
            // A blank where it is cut is trimmed.
            let cut = self.running_bytes + 1 >= MAX_BYTES;
            let cause = if cut {
                format!(
                    "with the kernel's own words (CONFIG_CMDLINE) it is cut at {MAX_BYTES} bytes"
                )
            } else {
                "the kernel runs with a line of its own instead: build it without \
                 CONFIG_CMDLINE_OVERRIDE"
                    .into()
            };
            faults.push(format!("`{}` is not there ({cause})", missing.join(" ")));
        }
        for (word, winner) in self.overridden.iter().filter(|(word, _)| matters(&word)) {
            faults.push(format!("`{word}` is followed by `{winner}`, which is what counts"));
        }
        let faults = faults.join("; ");
        (!faults.is_empty())
            .then(|| format!("the kernel ignores what it was told on its command line: {faults}"))
    }

    /// Further remarks.
    pub fn note(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.added.is_empty() {
            parts.push(format!("with words of its own: {}", self.added.join(" ")));
        }
        if !self.missing.is_empty() {
            parts.push(format!("without these of ours: {}", self.missing.join(" ")));
        }
        let parts = parts.join(", and ");
        (!parts.is_empty()).then(|| format!("the kernel runs {parts} (CONFIG_CMDLINE)"))
    }
}

fn matters(word: &&String) -> bool {
    !CONVENIENCES.contains(&name(word))
}

/// Name that a word sets: its part before the `=`.
fn name(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
}

/// The last word that sets what `word` sets.
fn last_of<'a>(words: &[&'a str], word: &str) -> Option<&'a str> {
    words.iter().rev().find(|other| name(other) == name(word)).copied()
}

/// Each word once, in order.
fn distinct<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for &word in words {
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "console=hvc0 panic=-1 nokaslr idle=poll quiet isolcpus=2,3";

    fn fault(running: &str) -> Option<String> {
        Drift::between(GIVEN, running).fault()
    }

    #[test]
    fn the_same_line_is_no_drift() {
        let drift = Drift::between(GIVEN, &format!("{GIVEN}\n"));
        assert_eq!((drift.fault(), drift.note()), (None, None));
        let twice = "quiet panic=-1 panic=5 quiet";
        assert_eq!(Drift::between(twice, twice).fault(), None);
    }

    #[test]
    fn an_override_is_named_with_the_words_it_takes_away() {
        let text = fault("console=ttyS0 root=/dev/vda").unwrap();
        assert!(text.contains("CONFIG_CMDLINE_OVERRIDE"), "{text}");
        assert!(text.contains("`panic=-1 nokaslr idle=poll isolcpus=2,3`"), "{text}");
        // One that happens to have most of our words lacks the others all the same.
        let text = fault("console=hvc0 panic=-1 nokaslr isolcpus=2,3").unwrap();
        assert!(text.contains("`idle=poll` is not there"), "{text}");
        assert!(fault("").is_some());
    }

    #[test]
    fn words_that_only_save_time_may_be_missing() {
        let running = "panic=-1 nokaslr idle=poll isolcpus=2,3";
        let drift = Drift::between(GIVEN, running);
        assert_eq!(drift.fault(), None);
        let note = drift.note().unwrap();
        assert!(note.contains("without these of ours: console=hvc0 quiet"), "{note}");
    }

    #[test]
    fn words_before_ours_are_told_and_words_after_them_win() {
        let drift = Drift::between(GIVEN, &format!("idle=halt nosmt {GIVEN}"));
        assert_eq!(drift.fault(), None);
        let note = drift.note().unwrap();
        assert!(note.contains("words of its own: idle=halt nosmt (CONFIG_CMDLINE)"), "{note}");
        let text = fault(&format!("{GIVEN} isolcpus=1")).unwrap();
        assert!(text.contains("`isolcpus=2,3` is followed by `isolcpus=1`"), "{text}");
    }

    #[test]
    fn a_line_that_was_cut_is_told_apart_from_one_that_was_replaced() {
        let long = format!("{} {GIVEN}", "x".repeat(2000));
        let text = fault(&long[..MAX_BYTES]).unwrap();
        assert!(text.contains("cut at 2047 bytes") && text.contains("isolcpus=2,3"), "{text}");
    }
}
