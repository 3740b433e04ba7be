// SPDX-License-Identifier: Apache-2.0
//! The kernel's records of a thread's context switches: PERF_RECORD_SWITCH of perf_event_open(2),
//! since Linux 4.3; that it was preempted, since 4.17. The kernel writes them into memory of ours
//! while it switches: whoever reads them makes no system call.

use std::io;

use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag, Sampler};

use crate::kernel::obstacle::is_root;

/// include/uapi/linux/perf_event.h.
const PERF_RECORD_LOST: u32 = 2;
const PERF_RECORD_SWITCH: u32 = 14;
const PERF_RECORD_MISC_SWITCH_OUT: u16 = 1 << 13;
const PERF_RECORD_MISC_SWITCH_OUT_PREEMPT: u16 = 1 << 14;

/// What happened to the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was switched out.
    Out {
        /// It was still ready to run.
        preempted: bool,
    },
    /// It was switched in.
    In,
    /// Changes before this moment are missing.
    Lost,
}

/// Records of one thread.
pub struct Switches(Sampler);

impl std::fmt::Debug for Switches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switches").finish_non_exhaustive()
    }
}

impl Switches {
    /// Of the calling thread from now on, or of another one. So many bytes are kept, a power of two
    /// and at least a page; a record takes 16.
    ///
    /// # Errors
    /// Why the kernel does not tell, and what helps.
    pub fn of(tid: Option<i32>, ring_bytes: usize) -> Result<Self, String> {
        open(tid, ring_bytes).map(Self).map_err(|error| why(&error, is_root()))
    }

    /// The next change, and when it was on CLOCK_MONOTONIC_RAW, in nanoseconds. Reads memory only.
    pub fn next_change(&mut self) -> Option<(Change, u64)> {
        while let Some(record) = self.0.next_record() {
            // In one piece, since records of switches have 16 bytes: nothing is allocated. One of
            // losses has 32, and may be in two.
            let bytes = record.to_contiguous();
            // With sample_id_all the time is the end of every record.
            let Some(&time) = bytes.last_chunk::<8>() else { continue };
            let change = match (record.ty(), record.misc()) {
                (PERF_RECORD_SWITCH, misc) if misc & PERF_RECORD_MISC_SWITCH_OUT != 0 => {
                    Change::Out { preempted: misc & PERF_RECORD_MISC_SWITCH_OUT_PREEMPT != 0 }
                }
                (PERF_RECORD_SWITCH, _) => Change::In,
                (PERF_RECORD_LOST, _) => Change::Lost,
                _ => continue,
            };
            return Some((change, u64::from_le_bytes(time)));
        }
        None
    }
}

fn open(tid: Option<i32>, ring_bytes: usize) -> io::Result<Sampler> {
    let mut event = Builder::new(Software::DUMMY);
    match tid {
        Some(tid) => event.observe_pid(tid),
        None => event.observe_self(),
    };
    event.any_cpu().exclude_kernel(true).exclude_hv(true);
    event.context_switch(true).sample_id_all(true).sample(SampleFlag::TIME);
    event.clockid(Clock::MONOTONIC_RAW);
    let mut sampler = event.build()?.sampled(ring_bytes)?;
    sampler.enable()?;
    Ok(sampler)
}

fn why(error: &io::Error, is_root: bool) -> String {
    let help = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) if is_root => {
            ", although this is root: a container or a security module forbids it"
        }
        Some(libc::EACCES | libc::EPERM) => {
            ": run as root, or `sysctl kernel.perf_event_paranoid=2`"
        }
        Some(libc::ENOSYS) => ": the kernel has no CONFIG_PERF_EVENTS",
        _ => "",
    };
    format!("context switches cannot be seen: perf_event_open: {error}{help}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_helps() {
        let told = |errno| why(&io::Error::from_raw_os_error(errno), false);
        assert!(told(libc::EACCES).contains("perf_event_paranoid=2"));
        let root = why(&io::Error::from_raw_os_error(libc::EPERM), true);
        assert!(root.contains("although this is root") && !root.contains("paranoid"), "{root}");
        assert!(told(libc::ENOSYS).contains("CONFIG_PERF_EVENTS"));
        let nobody = Switches::of(Some(i32::MAX), 4096);
        assert!(nobody.is_err_and(|why| why.contains("perf_event_open")));
    }
}
