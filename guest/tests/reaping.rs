// SPDX-License-Identifier: Apache-2.0
//! PID 1 reaps whoever is not its own. In a program of its own: it would reap the children of other
//! tests, too.

use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{fs, thread};

use guest::pid1::reap_strangers;

/// For a shell to end.
const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn strangers_are_reaped_whatever_ended_them_and_ours_are_left() {
    // By number: not every shell knows the signal's name.
    let killed = format!("kill -{} $$; exit 1", libc::SIGRTMIN());
    let strangers = [shell(&killed), shell("exit 4")];
    until("strangers are left", || {
        reap_strangers(&[]);
        strangers.iter().all(|stranger| state(stranger.id()).is_none())
    });
    let mut ours = shell("exit 3");
    until("ours has not ended", || state(ours.id()) == Some('Z'));
    reap_strangers(&[ours.id()]);
    assert_eq!(ours.wait().unwrap().code(), Some(3));
}

fn shell(script: &str) -> Child {
    Command::new("sh").args(["-c", script]).spawn().unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// As in /proc/PID/stat (proc_pid_stat(5)); `None` of a process that is not there any more.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
