// SPDX-License-Identifier: Apache-2.0
//! Ways to keep a thread from running for a known time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

use gaps::tsc::{self, ns_to_ticks, ticks_to_ns};
use protocol::cpu_list::CpuSet;
use protocol::duration::as_ns;
use workload::kernel::files::write_file;
use workload::kernel::{affinity, process};

use crate::signals::{self, OnLeave};

/// Real-time priority of threads that measure.
pub const LOAD_PRIORITY: i32 = 1;
/// Of those that stop them, above.
pub const STOPPER_PRIORITY: i32 = 2;
/// Of the one that takes a CPU for itself, above all of these.
pub const HOG_PRIORITY: i32 = 10;

/// From the load's release until all of its threads run their first burst.
const SETTLED: Duration = Duration::from_millis(100);

/// The calling thread's scheduling policy for a while, and that of all it starts.
pub struct Policy(());

impl Policy {
    /// SCHED_FIFO with this priority; `None` where it is not permitted.
    pub fn fifo(priority: i32) -> Option<Self> {
        set_policy(libc::SCHED_FIFO, priority).ok().map(|()| Self(()))
    }

    /// SCHED_RR.
    pub fn round_robin(priority: i32) -> Option<Self> {
        set_policy(libc::SCHED_RR, priority).ok().map(|()| Self(()))
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        // Lowering oneself is always permitted.
        let _ = set_policy(libc::SCHED_OTHER, 0);
    }
}

fn set_policy(policy: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a local that lives until the call returns; 0 is this thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// SCHED_RR's timeslice of the calling thread, which must have that policy.
pub fn round_robin_slice_ns() -> Option<u64> {
    let mut slice = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local timespec that the call fills; 0 is this thread.
    let result = unsafe { libc::sched_rr_get_interval(0, &raw mut slice) };
    let ns = slice.tv_sec.checked_mul(1_000_000_000)?.checked_add(slice.tv_nsec)?;
    (result == 0).then(|| u64::try_from(ns).ok())?.filter(|ns| *ns > 0)
}

/// One stop: TSC before the signals that begin and end it.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// Before SIGSTOP.
    pub begin: u64,
    /// Before SIGCONT.
    pub end: u64,
    /// Longest time until either signal was sent.
    pub doubt: u64,
}

/// Stops the measuring thread of a process some times. Call it in a thread of its own.
pub fn stop_repeatedly(pid: u32, length: Duration, times: usize, cpu: u32) -> Vec<Stop> {
    let tid = measuring_thread(pid);
    let _awake = Awake::keep(cpu);
    tid.map_or_else(Vec::new, |tid| stop_thread(pid, tid, length, times, cpu))
}

/// Keeps a CPU from halting while a thread is stopped on it. One that has halted takes some time to
/// come back, which is no fault of a meter: in a virtual machine more than all that is allowed.
struct Awake(Arc<AtomicBool>);

impl Awake {
    /// Until this is dropped. Only below real-time threads, which it cannot hold up; and the
    /// stops are too short for the kernel to let it run in spite of them.
    fn keep(cpu: u32) -> Option<Self> {
        drop(Policy::fifo(STOPPER_PRIORITY)?);
        let wanted = Arc::new(AtomicBool::new(true));
        let still = Arc::clone(&wanted);
        // Nobody waits for it: it sees that it is to end when it gets to run again.
        thread::spawn(move || {
            if set_policy(libc::SCHED_IDLE, 0).is_err() {
                return;
            }
            if affinity::confine_this_thread(&CpuSet::from_iter([cpu])).is_ok() {
                while still.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        });
        Some(Self(wanted))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Stops a thread of a process, and the others with it, from another CPU than `cpu`. Call it in
/// a thread of its own.
pub fn stop_thread(pid: u32, tid: u32, length: Duration, times: usize, cpu: u32) -> Vec<Stop> {
    /// The thread runs this long before each stop.
    const PAUSE: Duration = Duration::from_millis(20);
    keep_off(cpu);
    let _above = Policy::fifo(STOPPER_PRIORITY);
    thread::sleep(SETTLED);
    (0..times)
        .map(|_| {
            thread::sleep(PAUSE);
            let begin = tsc::read().tsc;
            // To the thread rather than the process: it stops itself then, and need not wait
            // until another thread has been woken to stop it.
            signal(pid, tid, libc::SIGSTOP);
            let sent = tsc::read().tsc;
            thread::sleep(length);
            let end = tsc::read().tsc;
            signal(pid, tid, libc::SIGCONT);
            let ended = tsc::read().tsc;
            Stop { begin, end, doubt: sent.saturating_sub(begin).max(ended.saturating_sub(end)) }
        })
        .collect()
}

/// Takes the CPU for itself until the time is over.
pub fn hog(cpu: u32, length: Duration, khz: u64) -> io::Result<()> {
    affinity::confine_this_thread(&CpuSet::from_iter([cpu]))?;
    set_policy(libc::SCHED_FIFO, HOG_PRIORITY)?;
    let length_ns = as_ns(length);
    let begin = tsc::read().tsc;
    while tsc::read().tsc.saturating_sub(begin) < ns_to_ticks(length_ns, khz) {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Keeps the calling thread off this CPU, where there is another.
pub fn keep_off(cpu: u32) {
    if let Ok(allowed) = affinity::of_this_thread() {
        let rest = allowed.without(&CpuSet::from_iter([cpu]));
        // On a machine with one CPU its priority has to do.
        let _ = affinity::confine_this_thread(&rest);
    }
}

fn measuring_thread(pid: u32) -> Option<u32> {
    process::threads(pid).into_iter().find(|tid| *tid != pid)
}

fn signal(pid: u32, tid: u32, signal: i32) {
    // SAFETY: takes three integers. It fails only if the load has died, which the load's
    // supervisor reports.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
}

/// A cgroup that may have half a CPU; gone when dropped, or when the process leaves at once.
pub struct HalfCpu {
    path: PathBuf,
    _on_leave: OnLeave,
}

/// Its period: 50 ms of 100 ms.
const PERIOD_US: u64 = 100_000;

/// The most there is: the quota must be what holds its threads back, whatever else runs here.
const MAX_WEIGHT: &str = "10000";
/// The same in the older hierarchies.
const MAX_SHARES: &str = "262144";

impl HalfCpu {
    /// Time for which its threads are throttled in each period.
    pub const GAP_NS: u64 = PERIOD_US * 1000 / 2;

    /// Makes it in the first hierarchy that has the cpu controller.
    ///
    /// # Errors
    /// Why there is none.
    pub fn make() -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut refusals = Vec::new();
        for (root, unified) in cpu_hierarchies(&mounts) {
            match Self::make_in(&root, unified) {
                Ok(half) => return Ok(half),
                Err(error) => refusals.push(format!("{}: {error}", root.display())),
            }
        }
        if refusals.is_empty() {
            return Err("no cgroup hierarchy with the cpu controller is mounted".into());
        }
        Err(format!("no cgroup can be made: {}", refusals.join("; ")))
    }

    fn make_in(root: &Path, unified: bool) -> io::Result<Self> {
        if unified {
            // It may be on already, which is all that counts.
            let _ = write_file(&root.join("cgroup.subtree_control"), "+cpu");
        }
        let path = root.join(format!("schedvmm-selftest-{}", std::process::id()));
        fs::create_dir(&path)?;
        let again = path.clone();
        let half = Self { path, _on_leave: OnLeave::new(move || give_up(&again)) };
        let (period, quota) = (PERIOD_US, PERIOD_US / 2);
        if unified {
            write_file(&half.path.join("cpu.max"), &format!("{quota} {period}"))?;
            write_file(&half.path.join("cpu.weight"), MAX_WEIGHT)?;
        } else {
            write_file(&half.path.join("cpu.cfs_period_us"), &period.to_string())?;
            write_file(&half.path.join("cpu.cfs_quota_us"), &quota.to_string())?;
            write_file(&half.path.join("cpu.shares"), MAX_SHARES)?;
        }
        Ok(half)
    }

    /// The file to enter it by.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for HalfCpu {
    fn drop(&mut self) {
        // Best effort: the load has ended, so nobody is in it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Ends whoever is in a cgroup, and removes it; what stays.
fn give_up(path: &Path) -> Vec<String> {
    let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|pid| pid.parse().ok()).for_each(signals::kill);
    signals::remove_dir_soon(path)
        .err()
        .map(|error| format!("the cgroup {} stays: {error}", path.display()))
        .into_iter()
        .collect()
}

/// Hierarchies that have, or can have, the cpu controller: path, and whether it is unified.
fn cpu_hierarchies(mounts: &str) -> Vec<(PathBuf, bool)> {
    mounts.lines().filter_map(cpu_hierarchy).collect()
}

fn cpu_hierarchy(line: &str) -> Option<(PathBuf, bool)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (path, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
    let path = PathBuf::from(path);
    match kind {
        "cgroup2" => {
            let there = fs::read_to_string(path.join("cgroup.controllers")).ok()?;
            has_cpu(there.trim(), ' ').then_some((path, true))
        }
        "cgroup" => has_cpu(options, ',').then_some((path, false)),
        _ => None,
    }
}

fn has_cpu(list: &str, separator: char) -> bool {
    list.split(separator).any(|name| name == "cpu")
}

/// The length of a stop, and how far off that may be.
pub fn stop_ns(stop: Stop, khz: u64) -> (u64, u64) {
    (ticks_to_ns(stop.end.saturating_sub(stop.begin), khz), ticks_to_ns(stop.doubt, khz))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart_by_their_controllers() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io\n").expect("write");
        let unified = dir.path().display();
        let mounts = format!(
            "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
             cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
             none {unified} cgroup2 rw 0 0\n\
             none /nonexistent cgroup2 rw 0 0\n"
        );
        let found = cpu_hierarchies(&mounts);
        let expected = [("/sys/fs/cgroup/cpu".into(), false), (dir.path().to_owned(), true)];
        assert_eq!(found, expected);
        assert!(cpu_hierarchies("").is_empty());
    }

    #[test]
    fn a_policy_lasts_as_long_as_its_value() {
        // SAFETY: takes one integer; 0 is this thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        thread::spawn(move || {
            let Some(held) = Policy::round_robin(LOAD_PRIORITY) else {
                assert_eq!(policy(), libc::SCHED_OTHER);
                return;
            };
            assert_eq!(policy(), libc::SCHED_RR);
            assert!(round_robin_slice_ns().is_some());
            drop(held);
            assert_eq!(policy(), libc::SCHED_OTHER);
        })
        .join()
        .expect("no panic");
    }
}
