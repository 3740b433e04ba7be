// SPDX-License-Identifier: Apache-2.0
//! What the host's kernel tells of a vCPU's thread: records of its context switches, which it
//! writes into memory of ours, and its accounts, one read each.

use std::fs::File;
use std::os::unix::fs::FileExt;

use gaps::accounting::parse_schedstat;
use gaps::tsc::{self, Anchor};
use vmm::vcpu::halts::HaltClock;
use workload::kernel::switches::{Change, Switches};

use super::timeline::{Account, VcpuTimeline};

/// A power of two: 1300 switches, which are taken each 50 ms.
const RING_BYTES: usize = 32 << 10;

/// A moment.
pub fn now() -> u64 {
    tsc::read().tsc
}

/// A thread that is watched.
#[derive(Debug)]
pub struct Watch {
    switches: Switches,
    schedstat: Option<File>,
    halts: Option<HaltClock>,
    start: Anchor,
}

impl Watch {
    /// Watches a thread of this process, and how long its vCPU halts, where that is counted.
    ///
    /// # Errors
    /// Why the kernel does not tell, and what helps.
    pub fn start(tid: i32, halts: Option<HaltClock>) -> Result<Self, String> {
        let start = Anchor::now();
        let switches =
            Switches::of(Some(tid), RING_BYTES).map_err(|why| format!("the host's {why}"))?;
        // Without it a vCPU that is woken late cannot be told from one that halts longer.
        let schedstat = File::open(format!("/proc/self/task/{tid}/schedstat")).ok();
        Ok(Self { switches, schedstat, halts, start })
    }

    /// Takes what was recorded since the last time.
    pub fn take(&mut self, timeline: &mut VcpuTimeline) {
        let now = Anchor::now();
        let Some(ruler) = self.start.ruler(&now) else { return };
        while let Some((change, at_ns)) = self.switches.next_change() {
            let at = ruler.tsc(at_ns);
            match change {
                Change::Out { preempted } => timeline.leaves(at, preempted),
                Change::In => timeline.returns(at),
                Change::Lost => timeline.lost(at),
            }
        }
        if let Some(ns) = self.schedstat.as_ref().and_then(waited_ns) {
            let halted_ns = self.halts.as_ref().and_then(|halts| halts.halted_ns().ok());
            let halted = halted_ns.map(|ns| ruler.ticks(ns));
            timeline.counted(now.tsc(), Account { waited: ruler.ticks(ns), halted });
        }
    }
}

/// Time ready to run and not running, in nanoseconds.
fn waited_ns(schedstat: &File) -> Option<u64> {
    let mut bytes = [0; 96];
    let read = schedstat.read_at(&mut bytes, 0).ok()?;
    Some(parse_schedstat(&bytes[..read])?.waited_ns)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use vmm::vcpu::sched;

    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_absent_and_not_preempted() {
        let tid = rustix::thread::gettid().as_raw_pid();
        let mut watch = match Watch::start(tid, None) {
            Ok(watch) => watch,
            Err(why) => {
                println!("SKIPPED: {why}");
                return;
            }
        };
        let mut timeline = VcpuTimeline::new(now());
        let spin = |time: Duration| {
            let begin = Instant::now();
            while begin.elapsed() < time {}
        };
        spin(Duration::from_millis(5));
        let begin = now();
        thread::sleep(Duration::from_millis(30));
        let end = now();
        spin(Duration::from_millis(5));
        watch.take(&mut timeline);
        let taken = timeline.taken(begin, end).expect("watched");
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
        watch.take(&mut timeline);
        let taken = timeline.taken(begin, end).expect("watched");
        assert!(taken.preempted > (end - begin) / 5, "{taken:?} of {}", end - begin);
    }

    #[test]
    fn a_thread_that_is_not_there_is_an_error() {
        let error = Watch::start(i32::MAX, None).expect_err("no such thread");
        assert!(error.contains("the host's context switches") && error.contains("perf_event_open"));
    }
}
