// SPDX-License-Identifier: Apache-2.0
//! A result folder read back. Results are files that anybody may have written: what is needed
//! is checked, what is not needed is not looked at.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use ftrace::TraceId;
use gaps::tsc::ns_to_ticks;
use protocol::index::{Kind, Member};
use protocol::job::TraceDump;
use serde::{Deserialize, Serialize};

use crate::core_figures::CoreFigures;
use crate::result_file::{ResultFile, usage};
use crate::status::Failure;

/// What a run that was killed may have left of its trace, the whole one first.
const LEFT: [&str; 2] = ["trace.dat", "trace.dat.raw"];
/// What a run of virtual machines in a virtual machine calls itself: a group is a machine, a
/// thread is a vCPU of it.
const NESTED: &str = "nested";

/// What is needed of a `result.json`; docs/formats.md describes the fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Stored {
    pub schema: String,
    pub target: String,
    /// `None` in one that was written while the run went on.
    pub exit_status: Option<u8>,
    pub working_directory: Option<PathBuf>,
    pub longest_gap: Option<StoredGap>,
    pub threshold_hit: Option<StoredGap>,
    /// What the figures are of, from the load's start on; `None` in older results, and in one of a
    /// run that had not ended.
    pub measured_ns: Option<u64>,
    pub kernel: StoredKernel,
    pub cosched: StoredCosched,
    pub job: StoredJob,
    pub setup: Option<StoredSetup>,
    pub tsc: Option<StoredTsc>,
    pub threads: Vec<StoredThread>,
    pub trace: StoredTrace,
    pub core_figures: CoreFigures,
    /// Of an older result, which counts threads over all groups: who they are, in order.
    #[serde(skip)]
    pub older: Option<Vec<Numbers>>,
}

/// A thread of the load by its numbers, as they are shown and as files have them: the group's,
/// from 1, and its own in the group, from 1 (of a vCPU from 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Numbers {
    pub group: u32,
    pub thread: u32,
}

impl Numbers {
    /// `3.1`: thread 1 of group 3, or vCPU 1 of VM 3.
    ///
    /// # Errors
    /// What is wrong, for clap to show beside the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = "name it as GROUP.THREAD with the numbers that are shown, such as 3.1";
        let Some((group, thread)) = text.split_once('.') else {
            return Err(format!("that does not say in which group; {wanted}"));
        };
        let number =
            |text: &str| text.parse().map_err(|_| format!("\"{text}\" is no number; {wanted}"));
        Ok(Self { group: number(group)?, thread: number(thread)? })
    }

    /// The thread, where the load's groups are this.
    ///
    /// # Errors
    /// There is none with these numbers.
    pub fn member(self, kind: Kind) -> Result<Member, &'static str> {
        Member::of_numbers(kind, self.group, self.thread)
    }

    /// What it is called.
    pub fn name(self, kind: Kind) -> String {
        self.member(kind).map_or_else(|_| format!("thread {self}"), |member| member.to_string())
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.thread)
    }
}

/// What the groups of a load are, by the result's `target`.
pub fn kind(target: &str) -> Kind {
    if target == NESTED { Kind::Vcpus } else { Kind::Threads }
}

/// A gap, of `result.json` or of `gaps.csv`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct StoredGap {
    #[serde(flatten)]
    pub who: Numbers,
    /// From the start of the load.
    pub begin_ns: u64,
    pub length_ns: u64,
    pub tsc_begin: u64,
    pub tsc_end: u64,
}

/// `kernel`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredKernel {
    /// `thread_siblings_list` of each CPU.
    pub siblings: Vec<String>,
}

/// `cosched`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredCosched {
    pub mechanism: Option<String>,
    /// Of each group; 0 for none.
    pub cookies: Vec<u64>,
}

/// `job`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredJob {
    pub load: StoredLoad,
    pub trace: Option<StoredTraceSpec>,
}

/// `job.trace`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredTraceSpec {
    /// Results of older versions have none.
    pub id: Option<TraceId>,
    pub dump: TraceDump,
}

/// `job.load`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredLoad {
    pub shape: Vec<StoredShape>,
}

/// One of `job.load.shape[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredShape {
    /// A limit of CPU time, whatever it is.
    pub quota: Option<serde_json::Value>,
}

/// `setup`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredSetup {
    pub trace_events: Vec<String>,
    pub tsc_start: u64,
    pub tsc_khz: u64,
}

/// `tsc`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredTsc {
    pub khz: u64,
}

/// One of `threads[]`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredThread {
    #[serde(flatten)]
    pub who: Numbers,
    pub tid: i32,
}

/// `trace`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct StoredTrace {
    pub file: Option<PathBuf>,
    pub complete: bool,
    pub note: Option<String>,
}

impl Stored {
    /// Reads the result in a folder, or a `result.json`; and the folder it lies in.
    ///
    /// # Errors
    /// It is not there, or no result of a schema that is known here.
    pub fn open(path: &Path) -> Result<(Self, PathBuf), Failure> {
        let file = ResultFile::read(path)?;
        Ok((Self::of(&file)?, file.folder))
    }

    /// What is needed of a result that has been read.
    ///
    /// # Errors
    /// It is not as a result is.
    pub fn of(file: &ResultFile) -> Result<Self, Failure> {
        let stored = Self { older: file.older.clone(), ..file.of_it()? };
        let gaps = [("longest_gap", &stored.longest_gap), ("threshold_hit", &stored.threshold_hit)];
        for (key, gap) in gaps {
            if gap.is_some_and(|gap| gap.tsc_end < gap.tsc_begin) {
                return Err(file.none(&format!("{key} ends before it begins")));
            }
        }
        Ok(stored)
    }

    /// What the groups of the load were.
    pub fn kind(&self) -> Kind {
        kind(&self.target)
    }

    /// Why gaps.csv has no gap of this thread.
    pub fn why_no_gap(&self, who: Numbers) -> String {
        if self.threads.iter().any(|thread| thread.who == who) {
            return format!("{} had no gap that was recorded", who.name(self.kind()));
        }
        let all = || self.threads.iter().map(|thread| thread.who);
        let known = all().min().zip(all().max()).map_or_else(
            || "the result knows no thread".into(),
            |(first, last)| format!("the run's are {first} to {last}"),
        );
        format!("there is no such thread; {known}")
    }

    /// Ticks of the TSC in a millisecond; 0 where the run did not come to find out.
    pub fn tsc_khz(&self) -> u64 {
        let at_setup = self.setup.as_ref().map(|setup| setup.tsc_khz);
        self.tsc.map(|tsc| tsc.khz).or(at_setup).unwrap_or(0)
    }

    /// From the load's start to where the figures end, as far as the result tells, as TSC readings.
    pub fn window_tsc(&self) -> Range<u64> {
        let (start, khz) = (self.setup.as_ref().map_or(0, |setup| setup.tsc_start), self.tsc_khz());
        let measured = self.measured_ns.filter(|_| khz > 0).map(|ns| ns_to_ticks(ns, khz));
        let end = measured.map_or(u64::MAX, |ticks| start.saturating_add(ticks));
        start..self.threshold_hit.as_ref().map_or(end, |hit| hit.tsc_end)
    }

    /// Where the trace is: beside the result, also if the folder has been moved, or where it
    /// was written.
    ///
    /// # Errors
    /// There is none, or it is gone.
    pub fn trace_path(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let Some(file) = &self.trace.file else {
            // Who is killed while the trace comes out has no result that says so.
            let left = LEFT.map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
            return left.filter(|_| self.exit_status.is_none()).ok_or_else(|| {
                usage(format!("this result has no trace: {}", self.why_no_trace()))
            });
        };
        let beside = file.file_name().map(|name| folder.join(name));
        let there = self.working_directory.as_ref().map(|directory| directory.join(file));
        let places = [beside, there, Some(file.clone())];
        let found = places.into_iter().flatten().find(|path| path.is_file());
        found.ok_or_else(|| {
            usage(format!("the trace {} is gone, and is not beside the result", file.display()))
        })
    }
}

impl Stored {
    /// The reason, as the result has it.
    fn why_no_trace(&self) -> &str {
        let events = self.setup.as_ref().map(|setup| setup.trace_events.as_slice());
        // What is noted of a trace that was there may be about a part of it.
        let was_there = events.is_some_and(|events| !events.is_empty());
        let wanted = |spec: &StoredTraceSpec| spec.dump.wanted(self.threshold_hit.is_some());
        match (&self.job.trace, self.trace.note.as_deref()) {
            (None, _) => "none was wanted (--trace off)",
            (Some(_), Some(note)) if !was_there => note,
            (Some(_), None) if self.setup.is_none() && self.exit_status.is_some() => {
                "the run ended before its load began"
            }
            (Some(_), _) if self.exit_status.is_none() => {
                "the run was killed, and a trace comes out at the end"
            }
            (Some(spec), _) if !wanted(spec) => {
                "no gap passed the threshold, and the trace of such a run is only kept with \
                 --trace-dump always"
            }
            (Some(_), Some(note)) => note,
            (Some(_), None) => "the result does not say why",
        }
    }

    /// Whether this trace is the one of this result. `Ok` with a remark where nobody can tell.
    ///
    /// # Errors
    /// It is another's.
    pub fn check_identity(
        &self,
        trace: &Path,
        found: Option<TraceId>,
    ) -> Result<Option<String>, Failure> {
        let wanted = self.job.trace.and_then(|trace| trace.id);
        let name = |id: Option<TraceId>| id.map_or_else(|| "none".into(), |id| id.to_string());
        match (wanted, found) {
            (None, None) => Ok(Some(format!(
                "Neither this result nor {} has an identity: that they belong together is taken \
                 for granted.",
                trace.display()
            ))),
            _ if wanted == found => Ok(None),
            _ => Err(usage(format!(
                "{} is the trace of another run: its identity is {}, and the one of this result's \
                 trace is {}; put that one in its place",
                trace.display(),
                name(found),
                name(wanted)
            ))),
        }
    }
}

/// Reads the `gaps.csv` of a result. A last line without an end was being written when the run was
/// killed, and is left out.
///
/// # Errors
/// It is not there, or a line is none of its.
pub fn gaps(folder: &Path, stored: &Stored) -> Result<Vec<StoredGap>, Failure> {
    let path = folder.join("gaps.csv");
    let fault = |text: String| usage(format!("{}: {text}", path.display()));
    let text = fs::read_to_string(&path).map_err(|error| fault(error.to_string()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        let place = names.iter().position(|column| *column == name);
        place.ok_or_else(|| fault(format!("it has no column {name}")))
    };
    let columns = ["group", "thread", "begin_ns", "length_ns", "tsc_begin", "tsc_end"]
        .into_iter()
        .map(column)
        .collect::<Result<Vec<usize>, _>>()?;
    let gap = |(number, line): (usize, &str)| {
        let cells: Vec<&str> = line.split(',').collect();
        let value = |index: usize| cells.get(columns[index])?.parse::<u64>().ok();
        let read = || {
            Some(StoredGap {
                who: stored.who(value(0)?, value(1)?)?,
                begin_ns: value(2)?,
                length_ns: value(3)?,
                tsc_begin: value(4)?,
                tsc_end: value(5)?,
            })
        };
        read()
            .filter(|gap| gap.tsc_end >= gap.tsc_begin)
            .ok_or_else(|| fault(format!("line {} is no gap: {line}", number + 2)))
    };
    lines.enumerate().map(gap).collect()
}

impl Stored {
    /// Whether a gap had ended when the one over the threshold did, which ended the run.
    pub fn counts(&self, gap: &StoredGap) -> bool {
        self.threshold_hit.is_none_or(|hit| gap.tsc_end <= hit.tsc_end)
    }

    /// Whose a gap with these numbers is.
    fn who(&self, group: u64, thread: u64) -> Option<Numbers> {
        match &self.older {
            Some(threads) => threads.get(usize::try_from(thread).ok()?).copied(),
            None => {
                Some(Numbers { group: group.try_into().ok()?, thread: thread.try_into().ok()? })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `explain` says of a result without a trace is what kept it from having one.
    #[test]
    fn the_reason_for_no_trace_is_the_one_that_applies() {
        let hit = r#""threshold_hit":{"group":1,"thread":1,"begin_ns":1,"length_ns":1,
                   "tsc_begin":1,"tsc_end":2},"#;
        let traced = r#""setup":{"trace_events":["sched"]},"#;
        let wanted = r#""job":{"trace":{"dump":"hit"}},"#;
        let note = |text: &str| format!(r#""trace":{{"note":"{text}"}}"#);
        for (parts, says) in [
            (format!(r#""exit_status":1,{hit}"trace":{{}}"#), "--trace off"),
            // There was none to begin with, and whether one was wanted does not matter.
            (format!(r#""exit_status":0,{wanted}{}"#, note("not mounted")), "not mounted"),
            // Nothing had a threshold to pass.
            (format!(r#""exit_status":201,{wanted}"trace":{{}}"#), "before its load began"),
            (format!(r#""exit_status":1,{hit}{wanted}{}"#, note("not mounted")), "not mounted"),
            (format!(r#""exit_status":null,{traced}{wanted}"trace":{{}}"#), "was killed"),
            // A note about one of the events is no reason for a run without a hit.
            (format!(r#""exit_status":0,{traced}{wanted}{}"#, note("no event x")), "no gap passed"),
            (format!(r#""exit_status":1,{hit}{traced}{wanted}{}"#, note("disk full")), "disk full"),
            (format!(r#""exit_status":1,{hit}{traced}{wanted}"trace":{{}}"#), "does not say"),
        ] {
            let text = format!("{{{parts}}}");
            let stored: Stored = serde_json::from_str(&text).expect("a result");
            let error = stored.trace_path(Path::new("/nonexistent")).expect_err("none");
            let error = error.to_string();
            assert!(error.starts_with("this result has no trace: "), "{error}");
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn gaps_are_read_by_the_names_of_their_columns() {
        let folder = tempfile::tempdir().expect("tempdir");
        let write = |text: &str| fs::write(folder.path().join("gaps.csv"), text).expect("written");
        let stored = Stored::default();
        let read = || gaps(folder.path(), &stored).map_err(|error| error.to_string());
        // The last line was being written.
        write("thread,new,group,begin_ns,length_ns,tsc_begin,tsc_end\n3,x,2,10,20,100,200\n3,x");
        let who = Numbers { group: 2, thread: 3 };
        let gap = StoredGap { who, begin_ns: 10, length_ns: 20, tsc_begin: 100, tsc_end: 200 };
        assert_eq!(read(), Ok(vec![gap]));
        for (text, says) in [
            ("", "no column group"),
            ("group,thread,begin_ns,length_ns,tsc_begin,tsc_end\n1,1,2\n", "line 2"),
            ("group,thread,begin_ns,length_ns,tsc_begin,tsc_end\n1,1,2,3,9,8\n", "line 2"),
        ] {
            write(text);
            let error = read().expect_err("refused");
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn gaps_that_ended_after_the_hit_do_not_count() {
        let gap = |tsc_end| StoredGap { tsc_end, ..StoredGap::default() };
        let stored = Stored { threshold_hit: Some(gap(500)), ..Stored::default() };
        assert!(stored.counts(&gap(500)) && !stored.counts(&gap(501)));
        assert!(Stored::default().counts(&gap(501)));
    }

    #[test]
    fn threads_are_named_as_they_are_shown() {
        assert_eq!(Numbers::parse("3.1"), Ok(Numbers { group: 3, thread: 1 }));
        for bad in ["3", "", "3.", ".1", "3.1.1", "a.b", "-1.1", "4294967296.1"] {
            let error = Numbers::parse(bad).expect_err(bad);
            assert!(error.contains("GROUP.THREAD"), "{error}");
        }
        assert!(Numbers::parse("5").is_err_and(|error| error.contains("in which group")));
        let who = Numbers { group: 3, thread: 1 };
        assert_eq!(who.name(kind("host")), "group 3 thread 1");
        assert_eq!(who.name(kind("nested")), "VM 3 vCPU 1");
        assert_eq!(Numbers::default().name(Kind::Threads), "thread 0.0");
    }

    #[test]
    fn a_trace_is_found_beside_a_result_that_has_moved() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = Some("results/then/trace.dat".into());
        let stored =
            Stored { trace: StoredTrace { file, ..Default::default() }, ..Default::default() };
        let error = stored.trace_path(folder.path()).expect_err("not there").to_string();
        assert!(error.contains("is gone"), "{error}");
        let path = folder.path().join("trace.dat");
        fs::write(&path, "x").expect("written");
        assert_eq!(stored.trace_path(folder.path()).ok(), Some(path));
    }

    #[test]
    fn a_trace_that_did_not_come_out_says_why() {
        let folder = tempfile::tempdir().expect("tempdir");
        let why = |stored: &Stored| {
            stored.trace_path(folder.path()).expect_err("there is none").to_string()
        };
        let mut stored = Stored { exit_status: Some(0), ..Default::default() };
        assert!(why(&stored).contains("--trace off"), "{}", why(&stored));
        stored.job.trace = Some(StoredTraceSpec::default());
        assert!(why(&stored).contains("before its load began"), "{}", why(&stored));
        stored.setup = Some(StoredSetup::default());
        assert!(why(&stored).contains("--trace-dump always"), "{}", why(&stored));
        stored.threshold_hit = Some(StoredGap::default());
        assert!(why(&stored).contains("does not say why"), "{}", why(&stored));
        stored.exit_status = None;
        assert!(why(&stored).contains("was killed"), "{}", why(&stored));
        stored.trace.note = Some("no tracing file system".into());
        assert!(why(&stored).ends_with("no trace: no tracing file system"), "{}", why(&stored));
        // Whoever was killed then has what had come; another's file is not taken for it.
        let raw = folder.path().join("trace.dat.raw");
        fs::write(&raw, "x").expect("written");
        assert_eq!(stored.trace_path(folder.path()).ok(), Some(raw));
        stored.exit_status = Some(1);
        assert!(why(&stored).contains("no tracing file system"));
    }

    #[test]
    fn a_trace_is_known_by_its_identity() {
        let path = Path::new("t/trace.dat");
        let [one, other] = [1, 2].map(TraceId::of);
        let check = |wanted, found| {
            let mut stored = Stored::default();
            stored.job.trace = Some(StoredTraceSpec { id: wanted, ..Default::default() });
            stored.check_identity(path, found).map_err(|failure| failure.to_string())
        };
        assert_eq!(check(one, one), Ok(None));
        let remark = check(None, None).expect("nobody can tell").expect("a remark");
        assert!(remark.contains("taken for granted"), "{remark}");
        for (wanted, found) in [(one, other), (one, None), (None, other)] {
            let error = check(wanted, found).expect_err("another's");
            let name = |id: Option<TraceId>| id.map_or_else(|| "none".into(), |id| id.to_string());
            let says = format!("its identity is {}, and the one of", name(found));
            assert!(error.contains(&says) && error.contains("t/trace.dat"), "{error}");
            assert!(error.contains(&format!("trace is {};", name(wanted))), "{error}");
        }
    }
}
