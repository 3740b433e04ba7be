// SPDX-License-Identifier: Apache-2.0
//! The host kernel's records of a thread's context switches: PERF_RECORD_SWITCH of
//! perf_event_open(2), since Linux 4.3; that it was preempted, since 4.17. The kernel writes them
//! into memory of ours: a look takes no system call but one read of each of the host's accounts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use gaps::tsc::{self, Anchor};
use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag, Sampler};
use vmm::vcpu::halts::HaltClock;
use workload::obstacle::is_root;

use super::book::{Account, Book};

/// A power of two: 1300 switches, which are taken each 50 ms.
const RING_BYTES: usize = 32 << 10;

/// include/uapi/linux/perf_event.h.
const PERF_RECORD_LOST: u32 = 2;
const PERF_RECORD_SWITCH: u32 = 14;
const PERF_RECORD_MISC_SWITCH_OUT: u16 = 1 << 13;
const PERF_RECORD_MISC_SWITCH_OUT_PREEMPT: u16 = 1 << 14;

/// A moment.
pub fn now() -> u64 {
    tsc::read().tsc
}

/// A thread that is watched.
pub struct Watch {
    sampler: Sampler,
    schedstat: Option<File>,
    halts: Option<HaltClock>,
    start: Anchor,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches a thread of this process, and how long its vCPU halts, where that is counted.
    ///
    /// # Errors
    /// Why the kernel does not tell, and what helps.
    pub fn start(tid: i32, halts: Option<HaltClock>) -> Result<Self, String> {
        let start = Anchor::now();
        let sampler = open(tid).map_err(|error| why(&error, is_root()))?;
        // Without it a vCPU that is woken late cannot be told from one that halts longer.
        let schedstat = File::open(format!("/proc/self/task/{tid}/schedstat")).ok();
        Ok(Self { sampler, schedstat, halts, start })
    }

    /// Takes what was recorded since the last time.
    pub fn take(&mut self, book: &mut Book) {
        let now = Anchor::now();
        let Some(ruler) = self.start.ruler(&now) else { return };
        while let Some(record) = self.sampler.next_record() {
            let bytes = record.to_contiguous();
            // With sample_id_all the time is the end of every record.
            let Some(&time) = bytes.last_chunk::<8>() else { continue };
            let at = ruler.tsc(u64::from_le_bytes(time));
            match (record.ty(), record.misc()) {
                (PERF_RECORD_SWITCH, misc) if misc & PERF_RECORD_MISC_SWITCH_OUT != 0 => {
                    book.leaves(at, misc & PERF_RECORD_MISC_SWITCH_OUT_PREEMPT != 0);
                }
                (PERF_RECORD_SWITCH, _) => book.returns(at),
                (PERF_RECORD_LOST, _) => book.lost(at),
                _ => {}
            }
        }
        if let Some(ns) = self.schedstat.as_ref().and_then(waited_ns) {
            let halted_ns = self.halts.as_ref().and_then(|halts| halts.halted_ns().ok());
            let halted = halted_ns.map(|ns| ruler.ticks(ns));
            book.counted(now.tsc(), Account { waited: ruler.ticks(ns), halted });
        }
    }
}

fn open(tid: i32) -> io::Result<Sampler> {
    let mut event = Builder::new(Software::DUMMY);
    event.observe_pid(tid).any_cpu().exclude_kernel(true).exclude_hv(true);
    event.context_switch(true).sample_id_all(true).sample(SampleFlag::TIME);
    event.clockid(Clock::MONOTONIC_RAW);
    let mut sampler = event.build()?.sampled(RING_BYTES)?;
    sampler.enable()?;
    Ok(sampler)
}

/// The second field of schedstat (Linux Documentation/scheduler/sched-stats.rst), in nanoseconds.
fn waited_ns(schedstat: &File) -> Option<u64> {
    let mut bytes = [0; 96];
    let read = schedstat.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(&bytes[..read]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn why(error: &io::Error, is_root: bool) -> String {
    let help = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) if is_root => {
            ", although this is root: a container or a security module forbids it"
        }
        Some(libc::EACCES | libc::EPERM) => {
            ": run as root, or `sysctl kernel.perf_event_paranoid=2`"
        }
        Some(libc::ENOSYS) => ": this host's kernel has no CONFIG_PERF_EVENTS",
        _ => "",
    };
    format!("the host's context switches cannot be seen: perf_event_open: {error}{help}")
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use vmm::vcpu::sched;

    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_absent_and_not_preempted() {
        // SAFETY: gettid has no arguments and cannot fail.
        let tid = unsafe { libc::gettid() };
        let mut watch = match Watch::start(tid, None) {
            Ok(watch) => watch,
            Err(why) => {
                println!("SKIPPED: {why}");
                return;
            }
        };
        let mut book = Book::new(now());
        let spin = |time: Duration| {
            let begin = Instant::now();
            while begin.elapsed() < time {}
        };
        spin(Duration::from_millis(5));
        let begin = now();
        thread::sleep(Duration::from_millis(30));
        let end = now();
        spin(Duration::from_millis(5));
        watch.take(&mut book);
        let taken = book.taken(begin, end).expect("watched");
        let length = end - begin;
        assert!(taken.absent > length * 9 / 10 && taken.absent <= length, "{taken:?} of {length}");
        assert!(taken.preempted < length / 10, "{taken:?}");
        // Two threads that always run, on one CPU: half of the time of each is the other's.
        let cpu = *sched::affinity().expect("readable").first().expect("one at least");
        let pin = || sched::pin("a test's thread", cpu).expect("pinned");
        pin();
        let (begin, end) = thread::scope(|scope| {
            let other = scope.spawn(|| {
                pin();
                spin(Duration::from_millis(200));
            });
            spin(Duration::from_millis(50));
            let begin = now();
            spin(Duration::from_millis(100));
            let end = now();
            other.join().expect("spins");
            (begin, end)
        });
        watch.take(&mut book);
        let taken = book.taken(begin, end).expect("watched");
        assert!(taken.preempted > (end - begin) / 5, "{taken:?} of {}", end - begin);
    }

    #[test]
    fn errors_say_what_helps() {
        let told = |errno| why(&io::Error::from_raw_os_error(errno), false);
        assert!(told(libc::EACCES).contains("perf_event_paranoid=2"));
        let root = why(&io::Error::from_raw_os_error(libc::EPERM), true);
        assert!(root.contains("although this is root") && !root.contains("paranoid"), "{root}");
        assert!(told(libc::ENOSYS).contains("CONFIG_PERF_EVENTS"));
        assert!(Watch::start(i32::MAX, None).is_err_and(|why| why.contains("perf_event_open")));
    }
}
