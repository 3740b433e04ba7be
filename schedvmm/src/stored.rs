// SPDX-License-Identifier: Apache-2.0
//! A result folder read back. Results are files that anybody may have written: what is needed
//! is checked, what is not needed is not looked at.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::result::SCHEMA;
use crate::status::{ExitStatus, Failure};

/// What is needed of a `result.json`; docs/formats.md describes the fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Stored {
    pub schema: String,
    pub target: String,
    pub working_directory: Option<PathBuf>,
    pub longest_gap: Option<StoredGap>,
    pub threshold_hit: Option<StoredGap>,
    pub kernel: StoredKernel,
    pub cosched: StoredCosched,
    pub job: StoredJob,
    pub setup: Option<StoredSetup>,
    pub tsc: Option<StoredTsc>,
    pub threads: Vec<StoredThread>,
    pub trace: StoredTrace,
}

/// A gap, of `result.json` or of `gaps.csv`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)]
pub struct StoredGap {
    pub thread: usize,
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
    pub thread: usize,
    pub group: u32,
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
        let file = if path.is_dir() { path.join("result.json") } else { path.to_owned() };
        let usage = |text: String| Failure::new(ExitStatus::Usage, text);
        let text = fs::read_to_string(&file).map_err(|error| {
            usage(format!(
                "cannot read {}: {error}; name a result folder or its result.json",
                file.display()
            ))
        })?;
        let stored: Self = serde_json::from_str(&text).map_err(|error| {
            usage(format!("{} is no result.json of schedvmm: {error}", file.display()))
        })?;
        if stored.schema != SCHEMA {
            return Err(usage(format!(
                "{} is of schema `{}`; this program knows {SCHEMA}",
                file.display(),
                stored.schema
            )));
        }
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        Ok((stored, folder))
    }

    /// Ticks of the TSC in a millisecond; 0 where the run did not come to find out.
    pub fn tsc_khz(&self) -> u64 {
        let at_setup = self.setup.as_ref().map(|setup| setup.tsc_khz);
        self.tsc.map(|tsc| tsc.khz).or(at_setup).unwrap_or(0)
    }

    /// Where the trace is: beside the result, also if the folder has been moved, or where it
    /// was written.
    ///
    /// # Errors
    /// There is none, or it is gone.
    pub fn trace_path(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let usage = |text: String| Failure::new(ExitStatus::Usage, text);
        let Some(file) = &self.trace.file else {
            let why = self.trace.note.as_deref().unwrap_or(
                "a trace comes out after a gap over the threshold, or with --trace-dump always",
            );
            return Err(usage(format!("this result has no trace: {why}")));
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

/// Reads `gaps.csv`.
///
/// # Errors
/// It is not there, or a line is none of its.
pub fn gaps(folder: &Path) -> Result<Vec<StoredGap>, Failure> {
    let path = folder.join("gaps.csv");
    let usage =
        |text: String| Failure::new(ExitStatus::Usage, format!("{}: {text}", path.display()));
    let text = fs::read_to_string(&path).map_err(|error| usage(error.to_string()))?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        let place = names.iter().position(|column| *column == name);
        place.ok_or_else(|| usage(format!("it has no column {name}")))
    };
    let columns = ["thread", "begin_ns", "length_ns", "tsc_begin", "tsc_end"]
        .into_iter()
        .map(column)
        .collect::<Result<Vec<usize>, _>>()?;
    let gap = |(number, line): (usize, &str)| {
        let cells: Vec<&str> = line.split(',').collect();
        let value = |index: usize| cells.get(columns[index])?.parse::<u64>().ok();
        let read = || {
            Some(StoredGap {
                thread: usize::try_from(value(0)?).ok()?,
                begin_ns: value(1)?,
                length_ns: value(2)?,
                tsc_begin: value(3)?,
                tsc_end: value(4)?,
            })
        };
        read()
            .filter(|gap| gap.tsc_end >= gap.tsc_begin)
            .ok_or_else(|| usage(format!("line {} is no gap: {line}", number + 2)))
    };
    lines.enumerate().map(gap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_read_by_the_names_of_their_columns() {
        let folder = tempfile::tempdir().expect("tempdir");
        let write = |text: &str| fs::write(folder.path().join("gaps.csv"), text).expect("written");
        write("thread,new,begin_ns,length_ns,tsc_begin,tsc_end\n3,x,10,20,100,200\n");
        let gap =
            StoredGap { thread: 3, begin_ns: 10, length_ns: 20, tsc_begin: 100, tsc_end: 200 };
        assert_eq!(gaps(folder.path()).map_err(|error| error.to_string()), Ok(vec![gap]));
        for (text, says) in [
            ("", "no column thread"),
            ("thread,begin_ns,length_ns,tsc_begin,tsc_end\n1,2\n", "line 2"),
            ("thread,begin_ns,length_ns,tsc_begin,tsc_end\n1,2,3,9,8\n", "line 2"),
        ] {
            write(text);
            let error = gaps(folder.path()).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_no_result_is_refused() {
        let folder = tempfile::tempdir().expect("tempdir");
        let error = Stored::open(folder.path()).expect_err("nothing is there").to_string();
        assert!(error.contains("result.json"), "{error}");
        for (text, says) in [("{", "no result.json"), ("{\"schema\":\"x/9\"}", "schema `x/9`")] {
            fs::write(folder.path().join("result.json"), text).expect("written");
            let error = Stored::open(folder.path()).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_trace_is_found_beside_a_result_that_has_moved() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = Some("results/then/trace.dat".into());
        let mut stored =
            Stored { trace: StoredTrace { file, ..Default::default() }, ..Default::default() };
        let error = stored.trace_path(folder.path()).expect_err("not there").to_string();
        assert!(error.contains("is gone"), "{error}");
        let path = folder.path().join("trace.dat");
        fs::write(&path, "x").expect("written");
        assert_eq!(stored.trace_path(folder.path()).ok(), Some(path));
        stored.trace.file = None;
        let error = stored.trace_path(folder.path()).expect_err("none").to_string();
        assert!(error.contains("--trace-dump always"), "{error}");
    }
}
