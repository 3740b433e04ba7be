// SPDX-License-Identifier: Apache-2.0
//! Where host threads run. A pin that fails, fails the run: a benchmark that only logs it lies.

use std::io;

use rustix::process::Pid;
use rustix::thread::{self, CoreSchedulingScope, CpuSet};
use thiserror::Error;

/// A thread is not where it should be.
#[derive(Debug, Error)]
pub enum SchedError {
    /// The kernel refused.
    #[error("cannot pin {thread} to host CPU {cpu}: is it online and in this process's cpuset?")]
    Refused {
        /// Name of the thread.
        thread: String,
        /// Host CPU.
        cpu: usize,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// No cookie.
    #[error("{thread} cannot have a core-scheduling cookie{}", no_cookie(source))]
    Cookie {
        /// Name of the thread.
        thread: String,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// The kernel said yes and did otherwise.
    #[error("{thread} was pinned to host CPU {cpu}, but its affinity reads {actual:?}")]
    Elsewhere {
        /// Name of the thread.
        thread: String,
        /// Host CPU.
        cpu: usize,
        /// Value read back.
        actual: Vec<usize>,
    },
}

/// What the kernel lacks, where its error tells.
fn no_cookie(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) => "; the kernel needs Linux 5.14 or later with CONFIG_SCHED_CORE=y",
        Some(libc::ENODEV) => "; the kernel sees no SMT, without which core scheduling is off",
        _ => "",
    }
}

/// Host CPUs the calling thread may run on, in ascending order.
///
/// # Errors
/// The error of sched_getaffinity(2).
pub fn affinity() -> io::Result<Vec<usize>> {
    affinity_of(None)
}

fn affinity_of(tid: Option<Pid>) -> io::Result<Vec<usize>> {
    let set = thread::sched_getaffinity(tid)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Restricts the calling thread to `cpus`.
///
/// # Errors
/// The error of sched_setaffinity(2); EINVAL for a CPU number that cannot be expressed.
pub fn set_affinity(cpus: &[usize]) -> io::Result<()> {
    set_affinity_of(None, cpus)
}

fn set_affinity_of(tid: Option<Pid>, cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        set.set(cpu);
    }
    Ok(thread::sched_setaffinity(tid, &set)?)
}

/// Pins the calling thread to one CPU and reads it back.
///
/// # Errors
/// The pin was refused, or did not take.
pub fn pin(thread: &str, cpu: usize) -> Result<(), SchedError> {
    set_affinity(&[cpu]).map_err(|source| refused(source, cpu, thread))?;
    let actual = affinity().map_err(|source| refused(source, cpu, thread))?;
    if actual != [cpu] {
        return Err(SchedError::Elsewhere { thread: thread.to_owned(), cpu, actual });
    }
    Ok(())
}

fn refused(source: io::Error, cpu: usize, thread: &str) -> SchedError {
    SchedError::Refused { thread: thread.to_owned(), cpu, source }
}

/// Restricts thread `tid` of this process to `cpus` and reads back what it may use.
///
/// # Errors
/// The errors of sched_setaffinity(2) and sched_getaffinity(2).
pub fn confine(tid: i32, cpus: &[usize]) -> io::Result<Vec<usize>> {
    let tid = Some(pid(tid)?);
    set_affinity_of(tid, cpus)?;
    affinity_of(tid)
}

/// CPUs, name and cookie of a vCPU thread.
#[derive(Clone, Debug)]
pub struct VcpuPlacement {
    /// The thread's name.
    pub name: String,
    /// Number of the vCPU.
    pub cpu: u32,
    /// Host CPUs it may use; empty leaves it where it is.
    pub cpus: Vec<usize>,
    /// Whether it has a core-scheduling cookie: one of its own, or that of the thread named.
    pub cookie: Option<Option<i32>>,
}

/// A vCPU's thread, as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuThread {
    /// Number of the vCPU.
    pub cpu: u32,
    /// Thread ID.
    pub tid: i32,
    /// Its core-scheduling cookie; 0 for none.
    pub cookie: u64,
}

impl VcpuPlacement {
    /// Places the calling thread, and reads back where that is.
    pub(crate) fn apply(self) -> Result<VcpuThread, SchedError> {
        match self.cpus.as_slice() {
            [] => {}
            &[cpu] => pin(&self.name, cpu)?,
            cpus => {
                let actual = set_affinity(cpus).and_then(|()| affinity());
                let actual = actual.map_err(|source| SchedError::Refused {
                    thread: self.name.clone(),
                    cpu: cpus[0],
                    source,
                })?;
                if actual != cpus {
                    return Err(SchedError::Elsewhere { thread: self.name, cpu: cpus[0], actual });
                }
            }
        }
        let tid = thread::gettid().as_raw_nonzero().get();
        let cookie = match self.cookie {
            None => 0,
            Some(from) => take_cookie(from)
                .map_err(|source| SchedError::Cookie { thread: self.name.clone(), source })?,
        };
        Ok(VcpuThread { cpu: self.cpu, tid, cookie })
    }
}

/// Gives the calling thread alone a core-scheduling cookie: a new one, or that of thread
/// `from`. Returns what the kernel reads back.
fn take_cookie(from: Option<i32>) -> io::Result<u64> {
    let (this, alone) = (thread::gettid(), CoreSchedulingScope::Thread);
    match from {
        None => thread::create_core_scheduling_cookie(this, alone)?,
        Some(tid) => thread::pull_core_scheduling_cookie(pid(tid)?, alone)?,
    }
    match thread::core_scheduling_cookie(this, alone)? {
        0 => Err(io::Error::other("the kernel accepted it and reads back none")),
        cookie => Ok(cookie),
    }
}

fn pid(tid: i32) -> io::Result<Pid> {
    Pid::from_raw(tid).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Moves the calling thread, and threads it starts later, off `measured`; stays where it is
/// if no other CPU is left. Returns whether it moved.
pub fn keep_off(measured: &[usize]) -> bool {
    affinity().is_ok_and(|allowed| keep_to(&allowed, measured))
}

/// Moves the calling thread to those of `allowed` that are not `measured`; to all of them if there are
/// none. Returns whether it is off `measured`.
pub fn keep_to(allowed: &[usize], measured: &[usize]) -> bool {
    let rest: Vec<_> = allowed.iter().copied().filter(|cpu| !measured.contains(cpu)).collect();
    if rest.is_empty() {
        let _ = set_affinity(allowed);
        return false;
    }
    set_affinity(&rest).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_back_and_impossible_ones_refused() {
        let before = affinity().expect("affinity");
        let cpu = before[0];
        pin("test", cpu).expect("pin");
        assert_eq!(affinity().expect("affinity"), [cpu]);
        assert!(matches!(pin("test", 1023), Err(SchedError::Refused { cpu: 1023, .. })));
        assert!(matches!(pin("test", 1 << 20), Err(SchedError::Refused { .. })));
        assert!(!keep_off(&[cpu]), "nowhere else to go");
        set_affinity(&before).expect("restore");
        assert_eq!(keep_off(&[cpu]), before.len() > 1);
        // Where it came from counts, and not where it was put before.
        let Some(other) = before.get(1).copied() else { return };
        assert!(keep_to(&before, &[cpu]) && !affinity().expect("affinity").contains(&cpu));
        assert!(keep_to(&before, &[other]) && affinity().expect("affinity").contains(&cpu));
        assert!(!keep_to(&before, &before));
        assert_eq!(affinity().expect("affinity"), before);
    }
}
