// SPDX-License-Identifier: Apache-2.0
//! What others do to a run on this machine: a CPU quota around it, threads that are moved. What
//! cannot be tried here is skipped, and says why.

#[path = "../calls/mod.rs"]
mod calls;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Trial};
use serde_json::Value;
use workload::kernel::cgroup::Version;
use workload::kernel::{affinity, hierarchy};

use self::calls::{finish, result, schedvmm, until};

fn main() -> ExitCode {
    let trial =
        |name: &str, test: fn() -> Completion| Trial::ignorable_test(name, move || Ok(test()));
    let trials = vec![
        trial("a_cpu_quota_makes_no_bad_kernel", a_cpu_quota_makes_no_bad_kernel),
        trial("a_quota_that_comes_is_no_verdict", a_quota_that_comes_is_no_verdict),
        trial("threads_that_are_moved_are_no_measurement", threads_that_are_moved),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A cgroup of this machine with a limit of CPU time; gone when dropped.
struct Limited {
    directory: PathBuf,
    version: Version,
}

impl Limited {
    /// One without a limit; or why there can be none.
    fn make(name: &str) -> Result<Self, String> {
        let hierarchies = hierarchy::own(Path::new("/"));
        let of = |version| {
            move |one: &&hierarchy::Hierarchy| {
                one.version == version && one.has("cpu") && !one.levels.is_empty()
            }
        };
        let v1 = hierarchies.iter().find(of(Version::V1));
        let found = v1.or_else(|| hierarchies.iter().find(of(Version::V2)));
        let found = found.ok_or("no hierarchy with the cpu controller is mounted")?;
        // Beside ours rather than in it: in v2 a cgroup has processes or others in it.
        let parent = &found.levels.last().ok_or("no cgroup to be seen")?.directory;
        if found.version == Version::V2 {
            let control = parent.join("cgroup.subtree_control");
            fs::write(&control, "+cpu")
                .map_err(|error| format!("{}: {error}", control.display()))?;
        }
        let directory = parent.join(format!("schedvmm-test-{name}-{}", std::process::id()));
        let failed = |error| format!("{} cannot be made: {error}", directory.display());
        fs::create_dir(&directory).map_err(failed)?;
        Ok(Self { directory, version: found.version })
    }

    fn limit(&self, quota_us: u32, period_us: u32) {
        let files = match self.version {
            Version::V2 => vec![("cpu.max", format!("{quota_us} {period_us}"))],
            _ => vec![
                ("cpu.cfs_period_us", period_us.to_string()),
                ("cpu.cfs_quota_us", quota_us.to_string()),
            ],
        };
        for (file, text) in files {
            fs::write(self.directory.join(file), text).expect(file);
        }
    }

    /// Calls `schedvmm` in it.
    fn command(&self, dir: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]);
        command.arg(self.directory.join("cgroup.procs"));
        command.arg(env!("CARGO_BIN_EXE_schedvmm")).args(words);
        command.current_dir(dir).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn call(&self, dir: &Path, words: &[&str]) -> Output {
        finish(self.command(dir, words).spawn().expect("it starts"))
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // The last process may take a moment to leave it.
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.directory).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const QUICK: [&str; 9] =
    ["host", "--groups", "2", "--noise", "off", "--threshold", "off", "--trace", "off"];

/// One thread of each of the load's processes.
fn load_threads(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        if field("PPid:").map(str::trim) != Some(&parent.to_string()) {
            continue;
        }
        let pid: u32 = entry.file_name().to_str().and_then(|pid| pid.parse().ok()).expect("PID");
        let threads = fs::read_dir(entry.path().join("task")).into_iter().flatten().flatten();
        let tids = threads.filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok());
        // The first one only waits for the others.
        found.extend(tids.filter(|tid| *tid != pid).max());
    }
    found
}

/// Waits until a run has told that it measures.
fn measuring(folder: &Path) {
    let csv = || fs::read_to_string(folder.join("gaps.csv")).unwrap_or_default();
    until("gap", || csv().lines().count() >= 2);
}

fn reason(result: &Value) -> String {
    assert_eq!((&result["verdict"], &result["exit_status"]), (&"untestable".into(), &125.into()));
    result["reason"].as_str().expect("a reason").to_owned()
}

fn a_cpu_quota_makes_no_bad_kernel() -> Completion {
    let limited = match Limited::make("quota") {
        Ok(limited) => limited,
        Err(why) => return Completion::ignored_with(why),
    };
    let dir = tempfile::tempdir().expect("tempdir");
    limited.limit(5_000, 50_000);
    // Whatever it would find, even a gap over the threshold.
    let output = limited.call(dir.path(), &["host", "--threshold", "1ms", "--output", "refused"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("0.10 CPUs") && told.contains("--allow-quota"), "{told}");
    assert!(!dir.path().join("refused").exists(), "nothing was measured");
    let output = limited.call(dir.path(), &["selftest"]);
    assert_eq!(output.status.code(), Some(125), "{output:?}");

    let words = [&QUICK[..], &["--duration", "2s", "--output", "allowed", "--allow-quota"]];
    let output = limited.call(dir.path(), &words.concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let allowed = result(dir.path(), "allowed");
    let caller = &allowed["caller"];
    let with_quota = |cgroup: &&Value| cgroup["quota_us"] == 5_000 && cgroup["period_us"] == 50_000;
    let cgroups = caller["cgroups"].as_array().expect("cgroups");
    assert_eq!(cgroups.iter().filter(with_quota).count(), 1, "{caller:#}");
    assert!(caller["throttled"]["times"].as_u64() > Some(0), "{caller:#}");
    let notes = allowed["notes"].to_string();
    for words in ["limits this process to 0.10 CPUs", "throttled this process"] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    Completion::Completed
}

fn a_quota_that_comes_is_no_verdict() -> Completion {
    let limited = match Limited::make("later") {
        Ok(limited) => limited,
        Err(why) => return Completion::ignored_with(why),
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let words = [&QUICK[..], &["--duration", "3s", "--output", "out"]].concat();
    let child = limited.command(dir.path(), &words).spawn().expect("it starts");
    measuring(&dir.path().join("out"));
    limited.limit(5_000, 50_000);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let reason = reason(&result(dir.path(), "out"));
    assert!(reason.contains("a quota was changed, while the load ran"), "{reason}");
    Completion::Completed
}

fn threads_that_are_moved() -> Completion {
    let cpus: Vec<_> = affinity::of_this_thread().expect("affinity").iter().collect();
    let [first, .., last] = cpus[..] else {
        return Completion::ignored_with("this process has one CPU");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let on = last.to_string();
    let words = [&QUICK[..], &["--duration", "3s", "--load-cpus", &on, "--output", "out"]].concat();
    let child = schedvmm(dir.path(), &words).spawn().expect("it starts");
    measuring(&dir.path().join("out"));
    let moved = load_threads(child.id())[0];
    let mut taskset = Command::new("taskset");
    taskset.args(["-p", "-c", &first.to_string(), &moved.to_string()]).stdout(Stdio::null());
    let status = taskset.status().expect("taskset of util-linux");
    assert!(status.success(), "{status}");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let result = result(dir.path(), "out");
    let reason = reason(&result);
    assert!(reason.contains("threads were moved while they were measured"), "{reason}");
    let lost = result["pins"]["lost"].as_array().expect("a list");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(
        (&lost[0]["bound_to"], &lost[0]["found_on"]),
        (&on.into(), &first.to_string().into())
    );
    let moved = |thread: &&Value| thread["tid"] == moved;
    let threads = result["threads"].as_array().expect("threads");
    let moved = threads.iter().find(moved).expect("one of the load's");
    assert_eq!(moved["affinity_end"], first.to_string());
    Completion::Completed
}
