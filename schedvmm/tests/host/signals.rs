// SPDX-License-Identifier: Apache-2.0
//! Signals from outside: those that are ignored, and those that come twice.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::calls::{finish, has_begun, result, schedvmm, until};
use crate::place::{self, Place, TUNABLE};

/// Longer than anybody waits who has pressed Ctrl-C twice; the load's processes that do not end
/// are given ten seconds.
const AT_ONCE: Duration = Duration::from_secs(4);

pub fn trials(place: &Place) -> Vec<Trial> {
    let changed = Trial::test("what_was_changed_is_put_back", what_was_changed_is_put_back);
    vec![
        Trial::test("what_the_parent_ignores_stays_ignored", what_the_parent_ignores),
        Trial::test("a_second_signal_ends_it_at_once", a_second_signal_ends_it_at_once),
        Trial::test("one_signal_that_comes_twice_is_one", one_signal_that_comes_twice_is_one),
        Trial::test("a_self_test_ends_at_once", a_self_test_ends_at_once),
        changed.with_ignored_flag(!(place.tracefs && place.tunable)),
    ]
}

fn kill(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a process ID");
    // SAFETY: takes two integers; the process is a child of ours that has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn host(duration: &str) -> [&str; 9] {
    ["host", "--groups", "2", "--duration", duration, "--threshold", "off", "--output", "out"]
}

/// As `nohup` and a shell's `&` start a program; and without them.
fn what_the_parent_ignores() -> Result<(), Failed> {
    let signals = [libc::SIGHUP, libc::SIGINT];
    for (ignored, status) in [(true, 0), (false, 143)] {
        let dir = tempfile::tempdir()?;
        let mut command = schedvmm(dir.path(), &host("3s"));
        // SAFETY: signal(2) is async-signal-safe, and nothing else is called.
        unsafe {
            command.pre_exec(move || {
                let action = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
                for signal in signals {
                    libc::signal(signal, action);
                }
                Ok(())
            })
        };
        let child = command.spawn()?;
        until("result", || has_begun(dir.path()));
        let sent: &[i32] = if ignored { &signals } else { &signals[..1] };
        sent.iter().for_each(|signal| kill(child.id(), *signal));
        let output = finish(child);
        assert_eq!(output.status.code(), Some(status), "ignored: {ignored}, {output:?}");
        let verdict = &result(dir.path(), "out")["verdict"];
        assert_eq!(verdict == "interrupted", !ignored, "{verdict}");
    }
    Ok(())
}

/// Sends a signal to a run whose load does not end, because one of its processes is stopped, and
/// after a while a second one. How it ended, and how soon.
fn end_twice(child: Child, dir: &Path) -> (Output, Duration, Vec<i32>) {
    until("result", || has_begun(dir));
    let load = place::children(child.id());
    assert_eq!(load.len(), 2, "processes of the load");
    kill(u32::try_from(load[0]).expect("a process ID"), libc::SIGSTOP);
    kill(child.id(), libc::SIGINT);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(place::children(child.id()), load[..1], "it waits for its load");
    let begin = Instant::now();
    kill(child.id(), libc::SIGTERM);
    let output = finish(child);
    (output, begin.elapsed(), load)
}

fn is_alive(pid: &i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn a_second_signal_ends_it_at_once() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let child = schedvmm(dir.path(), &host("60s")).spawn()?;
    let (output, took, load) = end_twice(child, dir.path());
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert_eq!(output.status.signal(), None);
    assert!(took < AT_ONCE, "{took:?}");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("a second signal: ended at once"), "{words}");
    until("end of the load's processes", || !load.iter().any(is_alive));
    // What was written while the run went on is there.
    assert_eq!(result(dir.path(), "out")["verdict"], "interrupted");
    Ok(())
}

/// timeout(1) sends its signal to the process and, right after that, to its group.
fn one_signal_that_comes_twice_is_one() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let child = schedvmm(dir.path(), &host("60s")).spawn()?;
    until("result", || has_begun(dir.path()));
    kill(child.id(), libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(5));
    kill(child.id(), libc::SIGTERM);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert_eq!(result(dir.path(), "out")["exit_status"], 143, "a whole result");
    Ok(())
}

/// It has no results to wait for; its load ends with it.
fn a_self_test_ends_at_once() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let child = schedvmm(dir.path(), &["selftest"]).spawn()?;
    let pid = child.id();
    until("load", || !place::children(pid).is_empty());
    let load = place::children(pid);
    let begin = Instant::now();
    kill(pid, libc::SIGINT);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    until("end of the load's processes", || !load.iter().any(is_alive));
    Ok(())
}

fn what_was_changed_is_put_back() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let tunable = || fs::read_to_string(TUNABLE).map(|text| text.trim().to_owned());
    let before = tunable()?;
    let wanted = if before == "4000" { "3ms" } else { "4ms" };
    let tune = format!("bandwidth-slice={wanted}");
    let words = [&host("60s")[..], &["--tune", &tune]].concat();
    let child = place::schedvmm(&["tracefs"], dir.path(), &words).spawn()?;
    until("result", || has_begun(dir.path()));
    assert_ne!(tunable()?, before);
    let own = format!("schedvmm-{}\n", child.id());
    assert!(place::trace_buffers(dir.path()).contains(&own), "no trace buffers {own}");
    let (output, took, _) = end_twice(child, dir.path());
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(took < AT_ONCE, "{took:?}");
    assert_eq!(tunable()?, before);
    let left = place::trace_buffers(dir.path());
    assert!(!left.contains(&own), "{left}");
    Ok(())
}
