// SPDX-License-Identifier: Apache-2.0
//! CPUs that are online, and those that threads are confined to.

use std::{fs, io};

use protocol::cpu_list::{CpuSet, MAX_CPUS};
use rustix::process::Pid;
use rustix::thread::{self, CpuSet as Mask};

/// CPUs online, as the kernel lists them.
///
/// # Errors
/// /sys is not mounted.
pub fn online() -> io::Result<CpuSet> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online")?;
    list.parse().map_err(io::Error::other)
}

/// The number of the calling thread.
pub fn this_thread() -> u32 {
    thread::gettid().as_raw_nonzero().get().cast_unsigned()
}

/// Confines the calling thread to this set.
///
/// # Errors
/// None of its CPUs can be used.
pub fn confine_this_thread(cpus: &CpuSet) -> io::Result<()> {
    let mut mask = Mask::new();
    for cpu in cpus.iter().filter(|&cpu| cpu < MAX_CPUS) {
        mask.set(cpu as usize);
    }
    Ok(thread::sched_setaffinity(None, &mask)?)
}

/// The set that the calling thread is confined to, as the kernel has it.
///
/// # Errors
/// Those of sched_getaffinity(2).
pub fn of_this_thread() -> io::Result<CpuSet> {
    of(None)
}

/// The same of another thread, by its number.
///
/// # Errors
/// There is no such thread.
pub fn of_thread(tid: u32) -> io::Result<CpuSet> {
    let tid = Pid::from_raw(tid.cast_signed());
    of(Some(tid.ok_or(io::ErrorKind::InvalidInput)?))
}

fn of(tid: Option<Pid>) -> io::Result<CpuSet> {
    let mask = thread::sched_getaffinity(tid)?;
    Ok((0..MAX_CPUS).filter(|&cpu| mask.is_set(cpu as usize)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_is_set_and_read_back() {
        std::thread::spawn(|| {
            let all = of_this_thread().unwrap();
            let one: CpuSet = all.iter().take(1).collect();
            confine_this_thread(&one).unwrap();
            assert_eq!(of_this_thread().unwrap(), one);
            assert_eq!(of_thread(this_thread()).unwrap(), one);
            assert!(!all.is_empty() && all.without(&one).iter().all(|cpu| !one.contains(cpu)));
            confine_this_thread(&CpuSet::default()).expect_err("no CPU at all");
            of_thread(0).expect_err("no thread has this number");
        })
        .join()
        .unwrap();
    }
}
