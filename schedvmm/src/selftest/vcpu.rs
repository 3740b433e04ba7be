// SPDX-License-Identifier: Apache-2.0
//! A vCPU that is stopped from outside: the guest's scheduler must not be blamed for it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use gaps::evidence::Class;
use gaps::record::GapRecord;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::inject::{self, Stop};
use super::measure::Measured;
use crate::signals::{self, OnLeave};

/// Guest CPU that the load runs on.
const LOAD_CPU: u32 = 3;
/// From the start of the machine to that of its load. The run's own deadlines are shorter.
const STARTED: Duration = Duration::from_secs(150);
/// From SIGTERM to the machine's end.
const ENDED: Duration = Duration::from_secs(30);
/// How often we look.
const LOOK: Duration = Duration::from_millis(20);
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
    (length, times): (Duration, usize),
    cpu: u32,
) -> Result<Measured<Vec<Stop>>, String> {
    let mut machine = Machine::start(kernel)?;
    let tid = machine.wait_for_load()?;
    let pid = machine.child.id();
    let stops = thread::scope(|scope| {
        let stopper = scope.spawn(|| inject::stop_thread((pid, tid), length, times, cpu));
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

    fn result(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.folder.join("result.json")).ok()?).ok()
    }

    /// Until the load runs, which its first result tells. The thread of its vCPU.
    fn wait_for_load(&mut self) -> Result<u32, String> {
        let end = Instant::now() + STARTED;
        while self.result().is_none_or(|result| result["setup"].is_null()) {
            if let Some(status) = self.status()? {
                return Err(self.why(status));
            }
            if Instant::now() > end {
                return Err(format!(
                    "no load within {} s of the machine's start",
                    STARTED.as_secs()
                ));
            }
            thread::sleep(LOOK);
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
                None => thread::sleep(LOOK),
            }
        };
        let Some(result) = self.result() else { return Err(self.why(status)) };
        if result["machine"]["tsc_equals_host"] != true {
            return Err("the guest's TSC is not the host's: gaps cannot be told apart".into());
        }
        let path = self.folder.join("gaps.csv");
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        Ok(text.lines().skip(1).filter_map(gap).collect())
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
        let reason = self.result().and_then(|result| Some(result["reason"].as_str()?.to_owned()));
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
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut named = tasks.filter(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    named.next()?.file_name().to_str()?.parse().ok()
}

/// A line of gaps.csv.
fn gap(line: &str) -> Option<GapRecord> {
    let fields: Vec<&str> = line.split(',').collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    let cpu = |n: usize| u32::try_from(number(n)?).ok();
    Some(GapRecord {
        tsc_begin: number(4)?,
        tsc_end: number(5)?,
        cpu_begin: cpu(6)?,
        cpu_end: cpu(7)?,
        class: Class::ALL.into_iter().find(|class| Some(&class.name()) == fields.get(8))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_gaps_come_back() {
        let found = gap("0,0,5,20,10,30,2,3,host").expect("a gap");
        let expected =
            GapRecord { tsc_begin: 10, tsc_end: 30, cpu_begin: 2, cpu_end: 3, class: Class::Host };
        assert_eq!(found, expected);
        for bad in ["", "0,0,5,20,10,30,2,3", "0,0,5,20,x,30,2,3,host", "0,0,5,20,1,3,2,3,what"] {
            assert_eq!(gap(bad), None, "{bad}");
        }
    }

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
        let error = stop_repeatedly(Path::new("/nonexistent"), (LOOK, 1), 0).err();
        assert!(error.expect("no machine").contains("ended with"));
    }
}
