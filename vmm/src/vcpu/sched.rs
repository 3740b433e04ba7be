// SPDX-License-Identifier: Apache-2.0
//! Where host threads run. A pin that fails, fails the run: a benchmark that only logs it lies.

use std::io;
use std::mem;

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
    /// The kernel said yes and did otherwise.
    #[error("{thread} was pinned to host CPU {cpu}, but its affinity reads {actual:?}")]
    Elsewhere {
        /// Name of the thread.
        thread: String,
        /// Host CPU.
        cpu: usize,
        /// What was read back.
        actual: Vec<usize>,
    },
}

/// Host CPUs the calling thread may run on, in ascending order.
///
/// # Errors
/// The error of sched_getaffinity(2).
pub fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is valid for writes of its own size.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: every index is below CPU_SETSIZE.
    Ok((0..most).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Restricts the calling thread to `cpus`.
///
/// # Errors
/// The error of sched_setaffinity(2); EINVAL for a CPU number that cannot be expressed.
pub fn set_affinity(cpus: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for &cpu in cpus {
        if cpu >= usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the index is below CPU_SETSIZE.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: `set` is valid for reads of its own size.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Pins the calling thread to one CPU and reads it back.
///
/// # Errors
/// The pin was refused, or did not take.
pub fn pin(thread: &str, cpu: usize) -> Result<(), SchedError> {
    let refused = |source| SchedError::Refused { thread: thread.to_owned(), cpu, source };
    set_affinity(&[cpu]).map_err(refused)?;
    let actual = affinity().map_err(refused)?;
    if actual != [cpu] {
        return Err(SchedError::Elsewhere { thread: thread.to_owned(), cpu, actual });
    }
    Ok(())
}

/// Moves the calling thread, and threads it starts later, off `measured`; stays where it is
/// if no other CPU is left. Returns whether it moved.
pub fn keep_off(measured: &[usize]) -> bool {
    let Ok(allowed) = affinity() else { return false };
    let rest: Vec<_> = allowed.into_iter().filter(|cpu| !measured.contains(cpu)).collect();
    !rest.is_empty() && set_affinity(&rest).is_ok()
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
    }
}
