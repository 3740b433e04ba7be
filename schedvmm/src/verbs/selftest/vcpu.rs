// SPDX-License-Identifier: Apache-2.0
//! A vCPU that is stopped from outside: the guest's scheduler must not be blamed for it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use gaps::record::GapRecord;
use results::model::LocatedGap;
use results::saved::Saved;
use rustix::process::{Pid, Signal, kill_process};
use workload::kernel::process;

use crate::signals::{self, OnLeave};
use crate::verbs::selftest::inject::{self, Stop};
use crate::verbs::selftest::measure::Measured;

/// Guest CPU that the load runs on.
const LOAD_CPU: u32 = 3;
/// From the start of the machine to that of its load. The run's own deadlines are shorter.
const STARTED: Duration = Duration::from_secs(150);
/// From SIGTERM to the machine's end.
const ENDED: Duration = Duration::from_secs(30);
/// How often we look.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// One thread that always wants to run, and nothing that ends it.
const OPTIONS: &str = "--groups 1 --threads 1 --load-cpus 3 --busy 60m --sleep fixed:0s \
                       --duration 60m --threshold off --trace off --noise off --cosched none \
                       --json";

/// Boots the kernel, stops the vCPU of its load some times, and takes what was measured.
///
/// # Errors
/// Why nothing was measured.
pub fn stop_repeatedly(
    kernel: &Path,
    length: Duration,
    times: usize,
    cpu: u32,
) -> Result<Measured<Vec<Stop>>, String> {
    let mut machine = Machine::start(kernel)?;
    let tid = machine.wait_for_load()?;
    let pid = machine.child.id();
    let stops = thread::scope(|scope| {
        let stopper = scope.spawn(|| inject::stop_thread(pid, tid, length, times, cpu));
        stopper.join().map_err(|_| "the stopper panicked".to_owned())
    })?;
    // The last one's end must be seen.
    thread::sleep(Duration::from_millis(200));
    let gaps = machine.finish()?;
    Ok(Measured { gaps: vec![gaps], tsc_start: 0, done: stops })
}

/// A run of ours, and its folder; both gone when dropped, or when the process leaves at once.
struct Machine {
    child: Child,
    folder: PathBuf,
    _on_leave: OnLeave,
}

impl Machine {
    fn start(kernel: &Path) -> Result<Self, String> {
        let name = format!("schedvmm-selftest-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.arg("--kernel").arg(kernel).arg("--output").arg(&folder);
        command.args(OPTIONS.split_ascii_whitespace());
        // It says little: what a pipe holds is never exceeded.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("no machine: {error}"))?;
        let (pid, again) = (child.id(), folder.clone());
        let _on_leave = OnLeave::new(move || {
            signals::kill(pid);
            // What it writes meanwhile stays; a folder that is not there yet needs no removal.
            let _ = fs::remove_dir_all(again);
            Vec::new()
        });
        Ok(Self { child, folder, _on_leave })
    }

    /// What it has written so far; `None` before there is anything.
    fn saved(&self) -> Option<Saved> {
        Saved::open(&self.folder).ok()
    }

    /// Until the load runs, which its first result tells. The thread of its vCPU.
    fn wait_for_load(&mut self) -> Result<u32, String> {
        let end = Instant::now() + STARTED;
        while self.saved().is_none_or(|saved| saved.result.setup.is_none()) {
            if let Some(status) = self.status()? {
                return Err(self.why(status));
            }
            if Instant::now() > end {
                return Err(format!(
                    "no load within {} s of the machine's start",
                    STARTED.as_secs()
                ));
            }
            thread::sleep(POLL_INTERVAL);
        }
        let name = format!("CPU {LOAD_CPU}/KVM");
        let tid = named_thread(self.child.id(), &name);
        tid.ok_or_else(|| format!("the machine has no thread {name}"))
    }

    /// Ends it, and reads its gaps.
    fn finish(&mut self) -> Result<Vec<GapRecord>, String> {
        // Not SIGINT, which a shell has what it runs in the background ignore, and so its children.
        // One that is gone already shows below.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + ENDED;
        let status = loop {
            match self.status()? {
                Some(status) => break status,
                None if Instant::now() > end => {
                    return Err(format!("the machine did not end within {} s", ENDED.as_secs()));
                }
                None => thread::sleep(POLL_INTERVAL),
            }
        };
        let Some(saved) = self.saved() else { return Err(self.why(status)) };
        if !saved.result.machine.vm.as_ref().is_some_and(|vm| vm.tsc_equals_host) {
            return Err("the guest's TSC is not the host's: gaps cannot be told apart".into());
        }
        let gaps = saved.gaps().map_err(|error| error.to_string())?;
        Ok(gaps.into_iter().map(LocatedGap::record).collect())
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|error| format!("the machine is lost: {error}"))
    }

    /// Why it has ended, in its own words.
    fn why(&mut self, status: ExitStatus) -> String {
        let mut words = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            // What cannot be read is missing in the message.
            let _ = stderr.read_to_string(&mut words);
        }
        let reason = self.saved().map(|saved| saved.result.reason);
        let words = reason.filter(|reason| !reason.is_empty()).unwrap_or(words);
        format!("the machine ended with {status}: {}", words.trim_end())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended, as a rule; a process that is killed ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn named_thread(pid: u32, name: &str) -> Option<u32> {
    process::threads(pid).into_iter().find(|tid| process::thread_name(pid, *tid) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_options() {
        use clap::Parser;
        let words = ["schedvmm", "--kernel", "x"].into_iter();
        let words = words.chain(OPTIONS.split_ascii_whitespace());
        let load = crate::cli::Cli::try_parse_from(words).expect("parses").run.load;
        assert_eq!((load.groups, load.threads), (1, 1));
    }

    #[test]
    fn a_kernel_that_is_not_there_is_told() {
        // The test's own program is no schedvmm, and ends at once over such words.
        let error = stop_repeatedly(Path::new("/nonexistent"), POLL_INTERVAL, 1, 0).err();
        assert!(error.expect("no machine").contains("ended with"));
    }
}
