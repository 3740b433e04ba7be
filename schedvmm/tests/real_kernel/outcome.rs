// SPDX-License-Identifier: Apache-2.0
//! What a case left behind, and the questions asked of it. Every one panics with the text it
//! found where the answer is wrong.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use results::model::RunResult;
use results::saved::Saved;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Top-level keys of every `result.json`.
const KEYS: [&str; 13] = [
    "schema",
    "target",
    "verdict",
    "reason_code",
    "reason_stage",
    "longest_gap_ns",
    "threads",
    "groups",
    "kernel",
    "cosched",
    "host",
    "machine",
    "phases_ms",
];
/// The part of a long text that is shown.
const SHOWN_BYTES: usize = 4096;

/// What a case left behind.
pub struct Outcome {
    pub status: u8,
    pub seconds: f64,
    pub stdout: String,
    pub stderr: String,
    limit: Duration,
    folder: PathBuf,
}

/// One line of `gaps.csv`.
#[derive(Clone, Copy, Debug)]
pub struct GapLine {
    /// Group and thread.
    pub who: (u64, u64),
    pub length_ns: u64,
    pub tsc_end: u64,
    /// It ended after the gap over the threshold.
    pub after_hit: bool,
}

impl Outcome {
    /// Reads a case's folder.
    pub fn read(folder: &Path, limit: Duration) -> Result<Self, String> {
        let text = |name: &str| {
            let path = folder.join(name);
            fs::read(&path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        let status = text("status")?;
        let times = text("times")?;
        let mut times = times.split_whitespace().filter_map(|time| time.parse::<f64>().ok());
        let (Some(begin), Some(end)) = (times.next(), times.next()) else {
            return Err("the case has no times".into());
        };
        Ok(Self {
            status: status.trim().parse().map_err(|error| format!("status {status}: {error}"))?,
            seconds: end - begin,
            stdout: text("stdout")?,
            stderr: text("stderr")?,
            limit,
            folder: folder.to_owned(),
        })
    }

    /// No crash of ours, no hang.
    #[track_caller]
    pub fn assert_civil(&self) {
        // `timeout -s KILL` reports the signal.
        assert_ne!(self.status, 137, "not done after {:?}{}", self.limit, self.words());
        for text in [&self.stdout, &self.stderr] {
            assert!(!text.contains("panicked at"), "a panic of ours{}", self.words());
        }
    }

    #[track_caller]
    pub fn assert_status(&self, expected: u8) {
        assert_eq!(self.status, expected, "exit status{}", self.words());
    }

    /// Standard error has all these words, in one line.
    #[track_caller]
    pub fn assert_says(&self, words: &[&str]) {
        let said = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(self.stderr.lines().any(said), "no line with {words:?}{}", self.words());
    }

    /// Standard error has all these words, in any lines.
    #[track_caller]
    pub fn assert_explains(&self, words: &[&str]) {
        let all = words.iter().all(|word| self.stderr.contains(word));
        assert!(all, "{words:?} expected{}", self.words());
    }

    /// Both outputs, shortened, for a message.
    pub fn words(&self) -> String {
        format!(
            " (status {}, {:.1} s)\n-- stdout\n{}\n-- stderr\n{}",
            self.status,
            self.seconds,
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }

    /// The result of the run in `r`, if it left one.
    pub fn saved(&self) -> Option<RunResult> {
        Some(Saved::open(&self.folder.join("r")).ok()?.result)
    }

    /// Where a file is that the case wrote.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file the case wrote.
    pub fn file(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.folder.join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `result.json` of the run in `r`, with every key that must be there.
    #[track_caller]
    pub fn result(&self) -> Value {
        self.result_of("user")
    }

    /// The same, of a run with this target.
    #[track_caller]
    pub fn result_of(&self, target: &str) -> Value {
        let Some(text) = self.file("r/result.json") else {
            panic!("no result.json{}", self.words())
        };
        let result: Value = serde_json::from_str(&text).expect("result.json is JSON");
        for key in KEYS {
            assert!(result.get(key).is_some(), "result.json lacks `{key}`");
        }
        assert_eq!(result["schema"], "schedvmm-result/4");
        assert_eq!(result["target"], target);
        assert_eq!(result["exit_status"], self.status, "exit_status{}", self.words());
        result
    }

    /// Verdict and reason of `result.json`.
    #[track_caller]
    pub fn assert_verdict(&self, verdict: &str) -> Value {
        let result = self.result();
        assert_eq!(result["verdict"], verdict, "{}{}", result["reason"], self.words());
        result
    }

    /// The records in `gaps.csv`, without those of the warm-up, which are in no figure.
    #[track_caller]
    pub fn gaps(&self) -> Vec<GapLine> {
        let text = self.file("r/gaps.csv").expect("gaps.csv");
        let mut lines = text.lines();
        let columns = "group,thread,begin_ns,length_ns,tsc_begin,tsc_end,cpu_begin,cpu_end,class,\
                       after_hit,kind,unfinished,warmup";
        assert_eq!(lines.next(), Some(columns));
        lines.filter_map(gap_line).collect()
    }
}

/// Insists on every key being there once: of two with one name, each reader takes the one it
/// likes.
#[track_caller]
pub fn assert_unique_keys(text: &str) {
    if let Err(error) = serde_json::from_str::<UniqueKeys>(text) {
        panic!("not the JSON it should be: {error}");
    }
}

/// Any JSON value without two keys of one name in an object.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Self>()?;
            if let Some(again) = keys.replace(key) {
                return Err(A::Error::custom(format!("the key `{again}` is there twice")));
            }
        }
        Ok(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Self>()?.is_some() {}
        Ok(Self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(Self)
    }
}

/// `None` of one of the warm-up.
#[track_caller]
fn gap_line(line: &str) -> Option<GapLine> {
    let cells: Vec<&str> = line.split(',').collect();
    let [numbers @ .., class, after_hit, kind, unfinished, warmup] = &cells[..] else {
        panic!("gaps.csv has the line {line}")
    };
    assert!(["unknown", "scheduled-out", "host", "irq"].contains(class), "{line}");
    assert!(["preemption", "wake-up"].contains(kind), "{line}");
    assert!(["0", "1"].contains(after_hit) && ["0", "1"].contains(unfinished), "{line}");
    assert!(["0", "1"].contains(warmup), "{line}");
    let fields: Vec<u64> = numbers.iter().map(|field| field.parse().expect("a number")).collect();
    let [group, thread, _begin, length_ns, tsc_begin, tsc_end, _, _] = fields[..] else {
        panic!("gaps.csv has the line {line}")
    };
    assert!(tsc_end > tsc_begin, "{line}");
    let gap = GapLine { who: (group, thread), length_ns, tsc_end, after_hit: *after_hit == "1" };
    (*warmup == "0").then_some(gap)
}

/// The list at `key`.
#[track_caller]
pub fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("`{key}` is no list: {}", value[key]))
}

/// The number at `key`.
#[track_caller]
pub fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("`{key}` is no number: {}", value[key]))
}

/// What a thread or a gap is called: its group, and its number there.
#[track_caller]
pub fn numbers(value: &Value) -> (u64, u64) {
    (number(value, "group"), number(value, "thread"))
}

/// The text at `key`.
#[track_caller]
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("`{key}` is no text: {}", value[key]))
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(SHOWN_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
