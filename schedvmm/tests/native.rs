// SPDX-License-Identifier: Apache-2.0
//! `schedvmm host` and `schedvmm run` on this machine's own kernel, as a user calls them.

mod calls;
mod terminal;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use self::calls::{DEADLINE, call, finish, finish_within, result, schedvmm};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

const QUICK: [&str; 9] =
    ["host", "--groups", "2", "--duration", "1s", "--threshold", "off", "--noise", "100ms"];

fn quick(dir: &TempDir, more: &[&str]) -> Output {
    call(dir.path(), &[&QUICK, more].concat())
}

#[test]
fn a_run_leaves_a_whole_result() {
    let dir = tempfile::tempdir().expect("tempdir");
    let output = quick(&dir, &["--output", "out"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let screen = String::from_utf8_lossy(&output.stdout);
    let gaps = "gaps     half of the time lost in those over ";
    for line in ["expected ", gaps, "; p50 ", "lag      group ", "noise    longest ", "MEASURED"] {
        assert!(screen.contains(line), "{line:?} is not in:\n{screen}");
    }
    assert!(screen.lines().count() <= 24, "more than a screen:\n{screen}");
    let result = result(dir.path(), "out");
    assert_eq!((&result["target"], &result["verdict"]), (&"host".into(), &"measured".into()));
    let threads = result["threads"].as_array().expect("threads");
    let busy: f64 = threads.iter().map(|thread| number(&thread["statistics"]["wanted_ns"])).sum();
    let all = &result["statistics"];
    assert_eq!(all["source"], "records");
    assert!((busy - number(&all["wanted_ns"])).abs() <= 4.0, "{busy} {all}");
    let gaps: f64 = threads.iter().map(|thread| number(&thread["gaps"])).sum();
    let classes = all["classes"].as_array().expect("classes");
    assert_eq!(classes.iter().map(|class| number(&class["gaps"])).sum::<f64>(), gaps);
    // Four threads on one core wait for each other: that is the scheduler's doing.
    let scheduled_out = classes.iter().find(|class| class["class"] == "scheduled-out");
    assert!(number(&scheduled_out.expect("some")["share"]) > 0.5, "{classes:?}");
    let jain = number(&result["fairness"]["threads"]["jain"]);
    assert!((0.25..=1.0 + 1e-9).contains(&jain), "{jain}");
    for noise in [&result["setup"]["noise"], &result["noise_after"]] {
        assert_eq!(noise["duration_ns"], 100_000_000, "{noise}");
        assert!(!noise["cpus"].as_array().expect("CPUs").is_empty(), "{noise}");
    }
    let csv = fs::read_to_string(dir.path().join("out/gaps.csv")).expect("gaps.csv");
    assert_eq!(csv.lines().count() as f64, gaps + 1.0);
    assert!(
        csv.lines().next().expect("a heading").ends_with(",class,after_hit,kind,unfinished,warmup")
    );
    let log = fs::read_to_string(dir.path().join("out/gaps.hlog")).expect("gaps.hlog");
    let tagged = |name: &str| log.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!((tagged("Tag=gap-"), tagged("Tag=wakeup-")), (4, 4));
}

/// Four threads that run for most of the time, on one core, are in gaps for a tenth of it at least.
#[test]
fn figures_have_limits() {
    let dir = tempfile::tempdir().expect("tempdir");
    let limit = |out: &str, limits: &[&str]| {
        let limits = limits.iter().flat_map(|limit| ["--fail-if", limit]);
        let more = ["--busy", "200ms", "--sleep", "fixed:10ms", "--on-contaminated", "report"];
        let options: Vec<_> = more.into_iter().chain(["--output", out]).chain(limits).collect();
        let output = quick(&dir, &options);
        (output.status.code(), result(dir.path(), out), output)
    };
    let (status, kept, output) = limit("kept", &["longest > 100s", "gap.share > 100%"]);
    assert_eq!((status, &kept["verdict"]), (Some(0), &"pass".into()), "{output:?}");
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(
        screen.contains("verdict  PASS") && screen.contains(": no figure over its limit"),
        "{screen}"
    );
    let (status, over, output) = limit("over", &["longest > 100s", "gap-share > 10%"]);
    assert_eq!((status, &over["verdict"]), (Some(1), &"over-limit".into()), "{output:?}");
    let reason = over["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("gap-share is ") && reason.ends_with(", over 10.00 %"), "{reason}");
    // Nobody is woken who never sleeps.
    let never = ["--sleep", "fixed:0s", "--fail-if", "wakeup-p99 > 5ms", "--output", "unknown"];
    let output = quick(&dir, &never);
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let unknown = result(dir.path(), "unknown");
    assert_eq!(unknown["reason_code"], "figure-unknown", "{}", unknown["limits"]);
    let wrong = quick(&dir, &["--fail-if", "p99 > 5ms", "--output", "wrong"]);
    let error = String::from_utf8_lossy(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(200), "{error}");
    assert!(error.contains("there is no figure \"p99\"; there are wait-p99"), "{error}");
}

/// Whatever goes on in it: with what was measured until then.
#[test]
fn a_run_ends_at_its_wall_limit() {
    let dir = tempfile::tempdir().expect("tempdir");
    let words = ["host", "--groups", "2", "--duration", "50s", "--threshold", "off"];
    let more = ["--noise", "off", "--wall-limit", "3s", "--output", "out"];
    let output = call(dir.path(), &[&words[..], &more].concat());
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let result = result(dir.path(), "out");
    assert_eq!(result["reason_code"], "wall-limit");
    let reason = result["reason"].as_str().expect("a reason");
    assert!(reason.contains("3.00 s (--wall-limit)"), "{reason}");
    assert!(number(&result["threads"][0]["statistics"]["wanted_ns"]) > 0.0, "what was measured");
    let csv = fs::read_to_string(dir.path().join("out/gaps.csv")).expect("gaps.csv");
    assert!(csv.lines().count() > 1, "no gaps in {csv}");
}

/// A terminal that was stopped with Ctrl-S takes nothing, and neither does a pipe that is full.
#[test]
fn a_reader_that_takes_nothing_neither_stops_a_run_nor_keeps_signals_from_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (_reader, writer) = full_pipe();
    let mut command = schedvmm(dir.path(), &[&QUICK, &["--output", "out"][..]].concat());
    command.stdout(writer.try_clone().expect("a descriptor")).stderr(writer);
    let mut child = command.spawn().expect("it starts");
    drop(command);
    // It has come to its end, although nobody has read a word.
    let whole = || {
        let text = fs::read(dir.path().join("out/result.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|result| result["verdict"] == "measured")
    };
    calls::until("result", whole);
    let begin = Instant::now();
    let pid = i32::try_from(child.id()).expect("a process ID");
    // SAFETY: takes two integers; the process is a child of ours that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    while child.try_wait().expect("a child of ours").is_none() {
        assert!(begin.elapsed() < DEADLINE, "it does not hear the signal");
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("it ended {:?} after the signal", begin.elapsed());
    assert_eq!(result(dir.path(), "out")["verdict"], "measured");
}

/// A pipe that takes no byte more.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    // SAFETY: takes integers; the descriptor is open.
    let size = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&writer), libc::F_GETPIPE_SZ) };
    let size = usize::try_from(size).expect("a size");
    std::io::Write::write_all(&mut writer, &vec![b'x'; size]).expect("it fits");
    (reader, writer)
}

/// Every file has a size that it does not pass, and a note says so.
#[test]
fn files_have_a_size_that_they_do_not_pass() {
    let dir = tempfile::tempdir().expect("tempdir");
    let output = quick(&dir, &["--output", "out", "--max-gaps-csv", "2K"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let csv = fs::read_to_string(dir.path().join("out/gaps.csv")).expect("gaps.csv");
    assert!(csv.len() <= 2048 && csv.ends_with('\n'), "{} bytes", csv.len());
    let result = result(dir.path(), "out");
    let notes = result["notes"].as_array().expect("notes");
    let cut = |note: &&Value| note.as_str().is_some_and(|note| note.contains("--max-gaps-csv"));
    assert_eq!(notes.iter().filter(cut).count(), 1, "{notes:?}");
    let threads = result["threads"].as_array().expect("threads");
    let whole: f64 = threads.iter().map(|thread| number(&thread["gaps"])).sum();
    assert!(whole > csv.lines().count() as f64, "all {whole} are counted");
}

/// A person at a terminal sees that it goes on.
#[test]
fn a_terminal_has_a_progress_bar_and_a_file_has_none() {
    let dir = tempfile::tempdir().expect("tempdir");
    let command = schedvmm(dir.path(), &[&QUICK[..], &["--output", "out"]].concat());
    let (output, shown) = terminal::watch(command, finish);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(shown.contains("run [") && shown.contains('='), "no bar: {shown:?}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(!stdout.contains('\x1b'), "a file gets no control sequences: {stdout:?}");
    let piped = quick(&dir, &["--output", "out2"]);
    assert!(!String::from_utf8_lossy(&piped.stderr).contains("run ["), "{piped:?}");
}

/// What lies in the warm-up is in gaps.csv and in nothing else, and a fair share of the rest is known.
#[test]
fn the_warm_up_is_in_no_figure() {
    let dir = tempfile::tempdir().expect("tempdir");
    let words =
        ["host", "--groups", "2", "--duration", "3s", "--threshold", "off", "--noise", "off"];
    let more = ["--sleep", "fixed:100ms", "--busy", "300ms", "--output", "out", "--warmup", "1s"];
    let output = call(dir.path(), &[&words[..], &more].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let result = result(dir.path(), "out");
    assert_eq!(result["job"]["load"]["warmup_ns"], 1_000_000_000);
    let measured_ns = number(&result["measured_ns"]);
    assert!((2e9..2.2e9).contains(&measured_ns), "{measured_ns}");
    let csv = fs::read_to_string(dir.path().join("out/gaps.csv")).expect("gaps.csv");
    let (early, counted): (Vec<&str>, Vec<&str>) =
        csv.lines().skip(1).partition(|line| line.ends_with(",1"));
    assert!(!early.is_empty(), "four threads on a core wait for each other");
    let cell = |line: &str, at: usize| -> f64 {
        line.split(',').nth(at).and_then(|cell| cell.parse().ok()).expect("a number")
    };
    let (begin_ns, length_ns) = (|line: &&str| cell(line, 2), |line: &&str| cell(line, 3));
    assert!(counted.iter().all(|line| begin_ns(line) >= 999_999_999.0), "{counted:?}");
    let warmup = &result["warmup"];
    assert_eq!(number(&warmup["time_ns"]), 1e9);
    assert_eq!(number(&warmup["gaps"]), early.len() as f64, "{early:?}");
    let lengths_ns: Vec<f64> = early.iter().map(length_ns).collect();
    let [sum_ns, longest_ns] =
        [lengths_ns.iter().sum(), lengths_ns.iter().copied().fold(0.0, f64::max)];
    // Each line is cut to a nanosecond.
    assert!((number(&warmup["gap_ns"]) - sum_ns).abs() <= early.len() as f64 + 1.0, "{warmup}");
    assert!(number(&warmup["longest_ns"]) >= longest_ns - 1.0, "{warmup}");
    let divided = number(&warmup["divided"]);
    assert!(divided <= 4.0 && (divided > 0.0 || number(&warmup["longest_ns"]) <= longest_ns + 1.0));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.lines().any(|line| line.starts_with("warm-up  in no figure: ")), "{told}");
    let threads = result["threads"].as_array().expect("threads");
    let gaps: f64 = threads.iter().map(|thread| number(&thread["gaps"])).sum();
    assert_eq!(gaps, counted.len() as f64);
    for thread in threads {
        let wanted_ns = number(&thread["statistics"]["wanted_ns"]);
        assert!(wanted_ns <= measured_ns && number(&thread["cpu_time_ns"]) <= 1.1 * wanted_ns);
    }
    let windows = result["service_lag"]["windows"].as_array().expect("windows");
    assert_eq!(result["service_lag"]["note"], Value::Null, "{}", result["service_lag"]);
    assert_eq!(windows.len(), 3, "{windows:?}");
    assert_eq!(result["summary"]["lag-max"].as_f64(), windows[1]["max_ns"].as_f64());
    let nothing = [&words[..], &["--output", "none", "--warmup", "3s"]].concat();
    let refused = call(dir.path(), &nothing);
    assert_eq!(refused.status.code(), Some(200), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--warmup 3s leaves nothing"));
}

/// The meter and the kernel tell independently who ran for how long.
#[test]
fn cpu_shares_are_those_of_the_kernel() {
    /// Half a percent of the CPU time of all threads.
    const MAX_SHARE: f64 = 0.005;
    let dir = tempfile::tempdir().expect("tempdir");
    // The kernel's accounting is of all of it.
    let words = ["host", "--preset", "busy", "--duration", "3s", "--threshold", "off"];
    let more = ["--output", "out", "--noise", "off", "--warmup", "0s"];
    let output = call(dir.path(), &[&words[..], &more].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let result = result(dir.path(), "out");
    let threads = result["threads"].as_array().expect("threads");
    // Time that no scheduler took. A kernel that is told of its host's time keeps that out of
    // its accounting, another takes it for the thread's: both are right.
    let unseen = |thread: &Value| {
        let classes = thread["statistics"]["classes"].as_array().expect("classes");
        let unseen = classes.iter().filter(|class| class["class"] != "scheduled-out");
        unseen.map(|class| number(&class["gap_ns"])).sum::<f64>()
    };
    let ran = |thread: &Value| {
        // The only burst is counted from its planned begin, before the thread woke up for it; from
        // the floor on that is a gap.
        let late = number(&thread["wakeup_longest_ns"]);
        let late = if late < 100e3 { late } else { 0.0 };
        number(&thread["statistics"]["wanted_ns"]) - late - number(&thread["gap_ns"])
    };
    let accounted = |thread: &Value| number(&thread["run_ns"]);
    let all = |of: &dyn Fn(&Value) -> f64| threads.iter().map(of).sum::<f64>();
    let (all_ran, all_accounted, all_unseen) = (all(&ran), all(&accounted), all(&unseen));
    for thread in threads {
        let (ours, theirs) = (ran(thread) / all_ran, accounted(thread) / all_accounted);
        let undecided = (unseen(thread) + ours * all_unseen) / all_accounted;
        println!(
            "thread {}: {ours:.5} by the meter, {theirs:.5} by schedstat, {undecided:.5} either's",
            thread["thread"]
        );
        assert!((ours - theirs).abs() <= MAX_SHARE + undecided, "{ours} {theirs}: {thread}");
    }
}

/// All memory of the load's processes is there, and locked, before the load begins.
#[test]
fn memory_of_the_load_is_constant() {
    let dir = tempfile::tempdir().expect("tempdir");
    let words = ["host", "--duration", "4s", "--threshold", "off", "--floor", "10us"];
    let words = [&words[..], &["--noise", "off", "--output", "out"]].concat();
    let child = schedvmm(dir.path(), &words).spawn().expect("it starts");
    let resident = || {
        let kib = |pid: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
            let parent = field("PPid:").map(str::trim) == Some(&child.id().to_string());
            let kib = field("VmRSS:")?.trim().split(' ').next()?.parse::<u64>().ok()?;
            parent.then_some((pid.parse::<u32>().ok()?, kib))
        };
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let mut all: Vec<_> =
            entries.filter_map(|entry| kib(entry.file_name().to_str()?)).collect();
        all.sort_unstable();
        all
    };
    let csv = || fs::read_to_string(dir.path().join("out/gaps.csv")).unwrap_or_default();
    let end = Instant::now() + DEADLINE;
    while csv().lines().count() < 2 {
        assert!(Instant::now() < end, "no gap within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let early = resident();
    std::thread::sleep(Duration::from_millis(1500));
    let late = resident();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(early.len(), 8, "{early:?}");
    assert_eq!(early, late, "processes and their memory in KiB");
}

#[test]
fn full_record_memory_is_told_and_loses_no_statistics() {
    let dir = tempfile::tempdir().expect("tempdir");
    let output = quick(&dir, &["--output", "out", "--records", "1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("records overflowed"));
    let result = result(dir.path(), "out");
    let (all, threads) = (&result["statistics"], result["threads"].as_array().expect("threads"));
    assert_eq!(all["source"], "histogram");
    let gap_ns: f64 = threads.iter().map(|thread| number(&thread["gap_ns"])).sum();
    let share = gap_ns / number(&all["wanted_ns"]);
    let found = number(&all["gap_share"]);
    assert!(found >= share * 0.9999 && found <= share * 1.016, "{found} {share}");
}

#[test]
fn a_gap_over_the_threshold_and_bad_input_have_their_status() {
    let dir = tempfile::tempdir().expect("tempdir");
    // However busy this machine is.
    let count = ["--on-contaminated", "report"];
    let over = ["host", "--duration", "20s", "--threshold", "1ms", "--output", "over"];
    let output = call(dir.path(), &[&over[..], &count].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let over = result(dir.path(), "over");
    assert!(number(&over["threshold_hit"]["length_ns"]) > 1e6);
    // Figures end at the hit, and what ended later is told apart.
    let longest = number(&over["longest_gap_ns"]);
    let quantiles = over["statistics"]["quantiles"].as_object().expect("there are gaps");
    assert!(quantiles.values().filter_map(Value::as_f64).all(|ns| ns <= longest), "{over:#}");
    let csv = fs::read_to_string(dir.path().join("over/gaps.csv")).expect("gaps.csv");
    let marked = csv.lines().filter(|line| line.split(',').nth(9) == Some("1")).count();
    assert_eq!(over["after_hit"]["gaps"].as_u64().unwrap_or(0), marked as u64, "{csv}");
    let screen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(screen.contains("; after the hit: "), marked > 0, "{screen}");
    if number(&over["measured_ns"]) < 999e6 {
        assert!(screen.contains("lag      run too short"), "{screen}");
        assert!(over["groups"][0]["cpu_share"].is_null(), "{}", over["groups"][0]);
    }
    for bad in [
        &["host", "--groups", "0"][..],
        &["host", "--cosched", "tag"],
        &["host", "--tune", "nonsense=1"],
        &["host", "--load-cpus", "8000", "--output", "cpu"],
        &["host", "--output", "over"],
        &["host", "--trace-file", "/nonexistent/trace"],
        &["run", "--from", "/nonexistent/result.json"],
        &["selftest", "--no-such-option"],
    ] {
        let output = call(dir.path(), bad);
        assert_eq!(output.status.code(), Some(200), "{bad:?}: {output:?}");
        assert!(!output.stderr.is_empty() || !output.stdout.is_empty(), "{bad:?}");
    }
}

#[test]
fn a_signal_ends_it_with_what_was_measured() {
    let dir = tempfile::tempdir().expect("tempdir");
    let words = ["host", "--duration", "60s", "--threshold", "off", "--output", "out"];
    let child = schedvmm(dir.path(), &words).spawn().expect("it starts");
    let pid = i32::try_from(child.id()).expect("a process ID");
    let csv = || fs::read_to_string(dir.path().join("out/gaps.csv")).unwrap_or_default();
    let end = Instant::now() + DEADLINE;
    // How long it takes to prepare depends on the machine.
    while csv().lines().count() < 2 {
        assert!(Instant::now() < end, "no gap within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: takes two integers; the child has not been waited for.
    unsafe { libc::kill(pid, libc::SIGINT) };
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let result = result(dir.path(), "out");
    assert_eq!(result["verdict"], "interrupted");
    assert!(number(&result["statistics"]["wanted_ns"]) > 0.0);
}

#[test]
fn whoever_is_killed_leaves_what_was_measured() {
    let dir = tempfile::tempdir().expect("tempdir");
    let words = ["host", "--duration", "60s", "--threshold", "off", "--output", "out"];
    let mut command = schedvmm(dir.path(), &words);
    // Who is killed does not read what its children still say.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().expect("it starts");
    let pid = i32::try_from(child.id()).expect("a process ID");
    let csv = || fs::read_to_string(dir.path().join("out/gaps.csv")).unwrap_or_default();
    let end = Instant::now() + DEADLINE;
    while csv().lines().count() < 2 {
        assert!(Instant::now() < end, "no gap within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: takes two integers; the child has not been waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(finish(child).status.code(), None, "it was killed");
    let result = result(dir.path(), "out");
    assert_eq!((&result["verdict"], &result["exit_status"]), (&"interrupted".into(), &Value::Null));
    let reason = result["reason"].as_str().expect("a reason");
    assert!(reason.contains("under way, in second"), "{reason}");
    assert_eq!(result["threads"].as_array().map(Vec::len), Some(16));
    assert_eq!(result["threads"][0]["complete"], false);
    assert!(number(&result["setup"]["tsc_khz"]) > 0.0);
    let text = csv();
    assert!(
        text.ends_with('\n') && text.lines().all(|line| line.split(',').count() == 13),
        "{text}"
    );
    // A reader of results can read it, by its folder or its file.
    for result in ["out", "out/result.json"] {
        let output = call(dir.path(), &["report", result]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let page = fs::read_to_string(dir.path().join("out/report.html")).expect("a report");
        assert!(page.contains("INTERRUPTED") && page.contains("group 8"), "{page}");
        let output = call(dir.path(), &["explain", result]);
        assert_eq!(output.status.code(), Some(200), "{output:?}");
        let says = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(says.contains("this result has no trace: "), "{says}");
    }
}

/// The process whose threads have names that begin so, once there is one.
fn process_with_thread(parent: u32, comm: &str) -> i32 {
    let has = |pid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let of_parent = status.lines().any(|line| line == format!("PPid:\t{parent}"));
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        of_parent && names.any(|name| name.trim_end() == comm)
    };
    let end = Instant::now() + DEADLINE;
    loop {
        let names = fs::read_dir("/proc").expect("/proc").flatten().map(|it| it.file_name());
        let mut pids = names.filter_map(|name| name.into_string().ok());
        if let Some(pid) = pids.find(|pid| has(pid)) {
            return pid.parse().expect("a process ID");
        }
        assert!(Instant::now() < end, "no thread {comm} within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One number for a group, wherever it is named: to the kernel, in the error, in the table, in
/// files.
#[test]
fn the_third_group_is_group_3_everywhere() {
    let dir = tempfile::tempdir().expect("tempdir");
    let words = ["host", "--groups", "4", "--duration", "60s", "--threshold", "off"];
    let words = [&words[..], &["--noise", "off", "--output", "out"]].concat();
    let child = schedvmm(dir.path(), &words).spawn().expect("it starts");
    let pid = process_with_thread(child.id(), "load-3.1");
    let csv = || fs::read_to_string(dir.path().join("out/gaps.csv")).unwrap_or_default();
    let end = Instant::now() + DEADLINE;
    while !csv().lines().any(|line| line.starts_with("3,2,")) {
        assert!(Instant::now() < end, "no gap of group 3 thread 2 within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: takes two integers; the process is a child of ours, or gone.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    let output = finish(child);
    let result = result(dir.path(), "out");
    let reason = result["reason"].as_str().expect("a reason");
    let names_it = format!("group 3 (process {pid}) ended early with signal: 9");
    assert!(reason.contains(&names_it), "{reason}");
    let screen = String::from_utf8_lossy(&output.stdout);
    let verdict = screen.lines().find(|line| line.starts_with("verdict ")).expect("a verdict");
    assert!(verdict.contains(&names_it), "{screen}");
    // Only who lives to the end tells how much CPU time it had; without it nobody has a share.
    for (number, group) in (1..).zip(result["groups"].as_array().expect("groups")) {
        assert_eq!(group["group"], number);
        assert!(group["cpu_share"].is_null(), "{group}");
        // Its row of the table is the one with its number.
        let row = |line: &&str| line.trim_start().starts_with(&format!("{number}  "));
        let row = screen.lines().find(row).expect("a row of the table");
        let gaps = row.split_whitespace().nth(2).expect("a number of gaps");
        assert_eq!(gaps, group["gaps"].to_string(), "{row}");
    }
    let threads = result["threads"].as_array().expect("threads");
    for thread in threads {
        assert_eq!(thread["complete"] == false, thread["group"] == 3, "{thread}");
    }
    let named: Vec<_> =
        threads.iter().map(|it| format!("{}.{}", it["group"], it["thread"])).collect();
    assert_eq!(named, ["1.1", "1.2", "2.1", "2.2", "3.1", "3.2", "4.1", "4.2"]);
    // Only who lives to the end tells how much CPU time it had.
    let told = threads.iter().filter(|it| number(&it["cpu_time_ns"]) > 0.0);
    let told: Vec<_> = told.map(|it| it["group"].to_string()).collect();
    assert_eq!(told, ["1", "1", "2", "2", "4", "4"]);
    let log = fs::read_to_string(dir.path().join("out/gaps.hlog")).expect("gaps.hlog");
    assert!(log.contains("Tag=gap-3.2,"), "{log}");
}

#[test]
fn an_ordinary_user_measures_too() {
    const NOBODY: u32 = 65_534;
    let dir = tempfile::tempdir().expect("tempdir");
    // Its own copy: the build's folder may be out of its reach.
    let program = dir.path().join("schedvmm");
    fs::copy(env!("CARGO_BIN_EXE_schedvmm"), &program).expect("copied");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("permitted");
    let mut command = Command::new(&program);
    command.args(QUICK).args(["--output", "out"]).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = finish(command.spawn().expect("it starts"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let result = result(dir.path(), "out");
    let notes = result["notes"].to_string();
    // Which reason it is, root alone or a tracing file system, depends on the machine.
    assert!(notes.contains("trace: ") && notes.contains("all figures are there"), "{notes}");
}

#[test]
fn the_self_test_says_what_it_cannot_try() {
    // On a busy machine each case is tried three times.
    let child = schedvmm(Path::new("/"), &["selftest", "--json"]).spawn().expect("it starts");
    let output = finish_within(child, 4 * DEADLINE);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let cases = report["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 7);
    let with = |status: &str| cases.iter().filter(|case| case["status"] == status).count();
    let (passed, failed, skipped) = (with("passed"), with("failed"), with("skipped"));
    let not_judged = with("not-judged");
    assert_eq!(passed + failed + skipped + not_judged, cases.len());
    assert_eq!(report["skipped"].as_u64(), Some(skipped as u64));
    let whole = failed == 0 && not_judged == 0;
    assert_eq!(report["passed"], whole, "{report:#}");
    assert_eq!(report["verdict"] == "pass", whole, "{report:#}");
    assert_eq!(output.status.code(), Some(if whole { 0 } else { 201 }));
    for case in cases {
        let whole = case["status"] == "passed";
        assert_eq!(whole, case["reason"] == "", "{case}");
        if whole {
            assert_eq!(case["found"], case["injected"], "{case}");
            assert!(number(&case["worst_error_ns"]) >= number(&case["mean_error_ns"]));
            // What is printed beside it is what was allowed, on a busy machine as on a quiet one.
            assert!(number(&case["worst_error_ns"]) <= number(&case["limit_ns"]), "{case}");
            assert!(case["name"] != "stop-1ms" || number(&case["limit_ns"]) <= 120_000.0, "{case}");
        }
    }
    // Stops need no rights: whoever runs this has had them found. How exactly depends on the
    // machine, and is `cargo xtask test`'s to judge.
    assert!(cases.iter().take(4).all(|case| case["found"] == case["injected"]), "{report:#}");
}

#[test]
fn a_run_is_repeated_with_its_options_elsewhere() {
    let (first, second) = (tempfile::tempdir().expect("one"), tempfile::tempdir().expect("two"));
    let output = quick(&first, &["--output", "out", "--seed", "77", "--groups", "1"]);
    assert_ne!(output.status.code(), Some(0), "an option given twice is refused");
    let once =
        ["host", "--seed", "77", "--duration", "500ms", "--noise", "off", "--threshold", "off"];
    let shape = "[[group]]\nthreads = 2\nbusy = \"100ms\"\n";
    fs::write(first.path().join("shape.toml"), shape).expect("written");
    let more = ["--trace-file", "t.dat", "--load", "shape.toml", "--output", "out"];
    let output = call(first.path(), &[&once[..], &more].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    fs::write(first.path().join("t.dat"), "the first run's trace").expect("written");
    let from = first.path().join("out");
    // As of a version that had another one by default.
    let file = from.join("result.json");
    let text = fs::read_to_string(&file).expect("it is there");
    let warmup = |ns| format!("\"warmup_ns\": {ns}");
    assert_eq!(text.matches(&warmup(0)).count(), 1, "the load's");
    fs::write(&file, text.replace(&warmup(0), &warmup(30_000_000))).expect("written");
    let again = |from: &Path, output: &str| {
        let from = from.to_str().expect("UTF-8");
        let output = call(second.path(), &["run", "--from", from, "--output", output]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    };
    again(&from, "again");
    let (one, two) = (result(first.path(), "out"), result(second.path(), "again"));
    assert_eq!(one["job"]["load"]["shape"], two["job"]["load"]["shape"]);
    assert_eq!(one["job"]["load"]["seed"], two["job"]["load"]["seed"]);
    assert_eq!(two["job"]["load"]["warmup_ns"], 30_000_000);
    assert_ne!(one["job"]["trace"]["id"], two["job"]["trace"]["id"], "each has a trace of its own");
    // What the first wrote is as it was, and is written to no more.
    let kept = fs::read_to_string(first.path().join("t.dat")).expect("it is there");
    assert_eq!(kept, "the first run's trace");
    let line = two["command_line"].to_string();
    assert!(!line.contains("t.dat") && line.contains("/shape.toml"), "{line}");
    // And that one can be repeated in its turn, by its file.
    again(&second.path().join("again/result.json"), "third");
}
