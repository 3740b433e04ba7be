// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench loop`: how long it takes from a change in one file to what its crate's tests say.

use std::fmt;
use std::fs::File;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use testhost::{artifacts, process, project};

/// A build of all tests from nothing, on a machine that others use.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Crates that are worked on, a file of each that others of it use, and which tests are run.
const CRATES: [(&str, &str, &[&str]); 9] = [
    ("gaps", "gaps/src/meter.rs", &["--lib"]),
    ("decision", "decision/src/lib.rs", &["--lib"]),
    ("ftrace", "ftrace/src/waits.rs", &["--lib"]),
    ("protocol", "protocol/src/job.rs", &["--lib"]),
    ("results", "results/src/folder.rs", &["--lib"]),
    ("workload", "workload/src/bursts.rs", &["--lib"]),
    ("guest", "guest/src/agent.rs", &["--lib"]),
    ("vmm", "vmm/src/vm.rs", &["--lib"]),
    ("schedvmm", "schedvmm/src/doubt.rs", &["--bin", "schedvmm"]),
];

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The format of this object.
    pub schema: &'static str,
    /// A crate each.
    pub crates: Vec<Row>,
}

/// One crate.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The file that is touched.
    pub touched: &'static str,
    /// Nothing was touched: what Cargo and the tests take.
    pub untouched_ms: u64,
    /// From the touch to the tests' end.
    pub touched_ms: u64,
}

/// Measures. Files of the source get another time of their last change, and nothing else.
///
/// # Errors
/// A crate does not build, or a test of it fails.
pub fn run() -> Result<Report> {
    let mut crates = Vec::new();
    for (name, touched, tests) in CRATES {
        // What it is built on is built by then.
        test(name, tests)?;
        let untouched_ms = test(name, tests)?;
        touch(touched)?;
        crates.push(Row { name, touched, untouched_ms, touched_ms: test(name, tests)? });
    }
    Ok(Report { schema: "schedvmm-bench-loop/1", crates })
}

/// Builds and runs a crate's tests; the time that it takes, in ms.
fn test(name: &str, tests: &[&str]) -> Result<u64> {
    let mut command = artifacts::cargo();
    command.args(["test", "--quiet", "--package", name]).args(tests);
    let begin = Instant::now();
    let (status, text) = process::capture(&mut command, DEADLINE)?;
    ensure!(status.success(), "the tests of {name} ended with {status}: {text}");
    Ok(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn touch(path: &str) -> Result<()> {
    let touched = File::options()
        .append(true)
        .open(project::root().join(path))
        .and_then(|file| file.set_modified(SystemTime::now()));
    touched.with_context(|| format!("cannot touch `{path}`"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10}{:<26}{:>10}{:>11}", "crate", "touched", "seconds", "untouched")?;
        for Row { name, touched, untouched_ms, touched_ms } in &self.crates {
            let [touched_s, untouched_s] =
                [*touched_ms, *untouched_ms].map(|ms| Duration::from_millis(ms).as_secs_f64());
            write!(f, "\n{name:<10}{touched:<26}{touched_s:>10.1}{untouched_s:>11.1}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_there_and_of_its_crate() {
        for (name, touched, _) in CRATES {
            assert!(project::root().join(touched).is_file(), "{touched}");
            assert!(touched.starts_with(&format!("{name}/src/")), "{touched}");
        }
    }
}
