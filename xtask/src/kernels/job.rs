// SPDX-License-Identifier: Apache-2.0
//! The main job on one kernel.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::entry::Entry;
use super::row::Row;
use testhost::host::accident::HostLost;
use testhost::host::{Ended, Stream, TestHost};
use testhost::venue::Venue;
use testhost::{kernel, process, project};

/// Where a kernel's folder lies in the emulated host.
const GUEST_FOLDER: &str = "/kernel";
/// The result folder, in the folder of what a run left.
const RESULT: &str = "result";
/// What it printed, likewise.
const OUTPUT: &str = "output.txt";
/// Short, with nothing that ends it early, and the whole way of the trace.
const OPTIONS: [&str; 6] = ["--duration", "2s", "--threshold", "off", "--trace-dump", "always"];

/// Where kernels are tried.
pub(super) struct Bench {
    pub(super) venue: Venue,
    pub(super) schedvmm: PathBuf,
    /// For one kernel.
    pub(super) timeout: Duration,
}

/// How a run ended, and what it printed.
struct Run {
    status: u8,
    output: String,
}

impl Bench {
    /// Runs the main job on the kernel in `folder`; once more where the emulation let it down.
    pub(super) fn row(&self, entry: &Entry, folder: &Path) -> Result<Row> {
        let left = results().join(entry.name().replace([' ', ','], "-"));
        let row = self.attempt(entry, folder, &left);
        let Some(why) = accident(&row) else { return row };
        eprintln!("{}: once more, after an accident of the emulation: {why}", entry.name());
        self.attempt(entry, folder, &left)
    }

    fn attempt(&self, entry: &Entry, folder: &Path, left: &Path) -> Result<Row> {
        // What an earlier run left must not be taken for ours.
        let _ = fs::remove_dir_all(left);
        fs::create_dir_all(left).with_context(|| format!("cannot make `{}`", left.display()))?;
        let run = match &self.venue {
            Venue::Own => self.run_here(entry, folder, left),
            // Nobody has asked for the simulated one, and it is not chosen unasked.
            Venue::Emulated(_) | Venue::Simulated(_) => self.run_in_host(entry, folder, left),
        }?;
        Row::of(entry, &left.join(RESULT), (run.status, &run.output))
    }

    fn run_in_host(&self, entry: &Entry, folder: &Path, left: &Path) -> Result<Run> {
        let mut host = TestHost::builder()
            .xtask(std::env::current_exe()?)
            .schedvmm(&self.schedvmm)
            .out(left)
            .timeout(self.timeout)
            .forward_signals();
        for (place, file) in kernel::boot_files(folder)? {
            host = host.file(&format!("{GUEST_FOLDER}/{}", place.display()), file);
        }
        let command = self.command(entry, "schedvmm".as_ref(), GUEST_FOLDER.as_ref(), "/out");
        let mut output = Vec::new();
        let run = host.run(command, |_: Stream, bytes| output.extend_from_slice(bytes));
        let output = String::from_utf8_lossy(&output).into_owned();
        // What it said before the host was lost is kept, too.
        fs::write(left.join(OUTPUT), &output).context("cannot keep the output")?;
        Ok(Run { status: run?.ended.code(), output })
    }

    fn run_here(&self, entry: &Entry, folder: &Path, left: &Path) -> Result<Run> {
        let words = self.command(entry, &self.schedvmm, folder, &left.display().to_string());
        let mut command = Command::new("sh");
        // Both streams in one, as they come from the emulated host.
        command.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).args(words).stderr(Stdio::null());
        let (status, output) = process::capture(&mut command, self.timeout)?;
        fs::write(left.join(OUTPUT), &output).context("cannot keep the output")?;
        Ok(Run { status: Ended::from(status).code(), output })
    }

    fn command(&self, entry: &Entry, schedvmm: &Path, kernel: &Path, left: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![schedvmm.into(), "--kernel".into(), kernel.into()];
        words.extend(OPTIONS.map(OsString::from));
        words.extend(["--output".into(), format!("{left}/{RESULT}").into()]);
        if entry.nested {
            words.extend(["--nested", "--l2-count", "2"].map(OsString::from));
        }
        words
    }
}

/// How the emulation let down a run, or the host that it was in.
fn accident(row: &Result<Row>) -> Option<String> {
    match row {
        Err(error) => error.is::<HostLost>().then(|| format!("{error:#}")),
        Ok(row) => row.accident.map(|_| row.reason.clone()),
    }
}

/// Where runs leave what they left.
fn results() -> PathBuf {
    project::root().join("results/kernels")
}
