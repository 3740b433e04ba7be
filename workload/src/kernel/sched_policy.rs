// SPDX-License-Identifier: Apache-2.0
//! Scheduling parameters of a group's process, which its threads inherit.

use std::time::Duration;
use std::{io, thread};

use protocol::duration::as_ns;
use protocol::error::Owner;
use protocol::group::{Class, Policy};
use thiserror::Error;

/// `struct sched_attr` (include/uapi/linux/sched/types.h), second version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SchedAttr {
    /// Bytes of it that are in use.
    pub size: u32,
    /// SCHED_OTHER and so on.
    pub policy: u32,
    /// SCHED_FLAG_RESET_ON_FORK and so on.
    pub flags: u64,
    /// Nice value of a fair thread.
    pub nice: i32,
    /// Priority of a real-time thread.
    pub priority: u32,
    /// Slice of a fair thread, in nanoseconds: since Linux 6.12.
    pub runtime: u64,
    /// Of SCHED_DEADLINE.
    pub deadline: u64,
    /// Of SCHED_DEADLINE.
    pub period: u64,
    /// Least utilization the thread is taken for, of 1024: since Linux 5.3.
    pub util_min: u32,
    /// Largest one; 0 as well for a kernel without CONFIG_UCLAMP_TASK.
    pub util_max: u32,
}

/// Size of what is set: without the utilization (SCHED_ATTR_SIZE_VER0).
const SIZE: u32 = 48;

/// Why a thread cannot be scheduled as the load wants it.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct PolicyError {
    /// Its owner.
    pub owner: Owner,
    text: String,
}

/// Whether threads can have these parameters, tried by one that is not needed any more.
///
/// # Errors
/// They are not permitted, or the kernel took others.
pub fn try_out(policy: Policy) -> Result<(), PolicyError> {
    thread::scope(|scope| {
        let tried = scope.spawn(|| apply(policy)).join();
        tried.unwrap_or_else(|_| Err(not_in_force("trying it panicked".into())))
    })
}

/// Gives the calling thread these parameters, and reads them back.
///
/// # Errors
/// They are not permitted, or the kernel took others.
pub fn apply(policy: Policy) -> Result<(), PolicyError> {
    if policy == Policy::default() {
        return Ok(());
    }
    let now = SchedAttr::of_this_thread().map_err(|error| refused(policy, &error))?;
    set(&attributes(policy, now)).map_err(|error| refused(policy, &error))?;
    check(policy)
}

/// Whether the calling thread has these parameters, as one that has inherited them.
///
/// # Errors
/// It has others.
pub fn check(policy: Policy) -> Result<(), PolicyError> {
    if policy == Policy::default() {
        // Nothing was asked for: whatever it has from its caller is meant, real time too.
        return Ok(());
    }
    let effective = SchedAttr::of_this_thread().map_err(|error| refused(policy, &error))?;
    let wanted = attributes(policy, effective);
    let nice_differs = policy.nice.is_some_and(|nice| nice != effective.nice);
    if policy_and_priority(&effective) != policy_and_priority(&wanted) || nice_differs {
        return Err(not_in_force(format!("{} became {}", words(&wanted), words(&effective))));
    }
    let Some(slice) = policy.slice else { return Ok(()) };
    match Duration::from_nanos(effective.runtime) {
        kept if kept == slice => Ok(()),
        Duration::ZERO => Err(not_in_force(format!(
            "slice {slice:?} is not in force: slices of threads need Linux 6.12 and EEVDF"
        ))),
        other => Err(not_in_force(format!(
            "slice {slice:?} is not in force: the kernel made {other:?} of it"
        ))),
    }
}

fn policy_and_priority(attr: &SchedAttr) -> (u32, u32) {
    (attr.policy, attr.priority)
}

/// For people, in the numbers of sched(7).
fn words(attr: &SchedAttr) -> String {
    let SchedAttr { policy, priority, nice, .. } = attr;
    format!("policy {policy} with priority {priority} and nice value {nice}")
}

fn not_in_force(text: String) -> PolicyError {
    PolicyError { owner: Owner::Kernel, text }
}

/// What is not given stays as it is.
fn attributes(policy: Policy, now: SchedAttr) -> SchedAttr {
    let Policy { class, nice, slice } = policy;
    let number = match (class, now.priority) {
        (Some(class), _) => number(class),
        (None, 0) => now.policy.cast_signed(),
        // A thread that is to have a nice value or a slice must be a fair one.
        (None, _) => libc::SCHED_OTHER,
    };
    SchedAttr {
        size: SIZE,
        policy: number.cast_unsigned(),
        nice: if class.is_none_or(Class::is_fair) { nice.unwrap_or(now.nice) } else { 0 },
        priority: class.and_then(Class::priority).unwrap_or(0),
        runtime: slice.map_or(0, as_ns),
        ..SchedAttr::default()
    }
}

fn number(class: Class) -> i32 {
    match class {
        Class::Other => libc::SCHED_OTHER,
        Class::Batch => libc::SCHED_BATCH,
        Class::Idle => libc::SCHED_IDLE,
        Class::Fifo(_) => libc::SCHED_FIFO,
        Class::RoundRobin(_) => libc::SCHED_RR,
    }
}

fn refused(policy: Policy, error: &io::Error) -> PolicyError {
    let class = policy.class.map_or_else(String::new, |class| format!("policy {class} "));
    let nice = policy.nice.map_or_else(String::new, |nice| format!("nice {nice} "));
    let slice = policy.slice.map_or_else(String::new, |slice| format!("slice {slice:?} "));
    let (owner, next) = match error.raw_os_error() {
        // The latter even for root, with CONFIG_RT_GROUP_SCHED.
        Some(libc::EPERM) => (
            Owner::Host,
            " (needs root, or CAP_SYS_NICE; and a cgroup whose cpu.rt_runtime_us is not 0, where \
             there is such a file)",
        ),
        _ => (Owner::Kernel, ""),
    };
    PolicyError { owner, text: format!("{class}{nice}{slice}cannot be had: {error}{next}") }
}

fn set(attr: &SchedAttr) -> io::Result<()> {
    let (this, flags) = (0, 0);
    // SAFETY: the pointer is to a local of the size that it says; 0 is the calling thread.
    let result =
        unsafe { libc::syscall(libc::SYS_sched_setattr, this, std::ptr::from_ref(attr), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl SchedAttr {
    /// Those of the calling thread.
    ///
    /// # Errors
    /// The error of sched_getattr(2).
    pub fn of_this_thread() -> io::Result<Self> {
        let mut attr = Self::default();
        let (this, flags, size) = (0, 0, size_of::<Self>());
        // SAFETY: the kernel fills at most `size` bytes, which the local has; 0 is the calling
        // thread.
        let result =
            unsafe { libc::syscall(libc::SYS_sched_getattr, this, &raw mut attr, size, flags) };
        if result == 0 { Ok(attr) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: lowering oneself is for good.
    fn in_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(body).join().expect("no panic"))
    }

    #[test]
    fn what_is_asked_for_is_in_force() {
        let policy = |class, nice| Policy { class, nice, slice: None };
        // Whoever started this may have given it another one than 0.
        let own = SchedAttr::of_this_thread().expect("readable").nice;
        for (wanted, class, nice) in [
            (policy(None, Some(own.max(7))), libc::SCHED_OTHER, own.max(7)),
            (policy(Some(Class::Batch), None), libc::SCHED_BATCH, own),
            (policy(Some(Class::Idle), None), libc::SCHED_IDLE, own),
        ] {
            let found = in_a_thread(|| {
                // Threads inherit from the one that starts them.
                apply(wanted).expect("permitted");
                in_a_thread(|| {
                    check(wanted).expect("inherited");
                    SchedAttr::of_this_thread().expect("readable")
                })
            });
            assert_eq!((found.policy.cast_signed(), found.nice), (class, nice), "{wanted:?}");
        }
        in_a_thread(|| apply(Policy::default())).expect("nothing");
        // What a thread has not is seen.
        let error = in_a_thread(|| check(policy(Some(Class::Batch), None))).unwrap_err();
        assert!(error.to_string().contains("became policy 0 with priority 0"), "{error}");
        assert_eq!(error.owner, Owner::Kernel);
    }

    #[test]
    fn a_slice_is_in_force_or_an_error() {
        let slice = Duration::from_millis(3);
        let wanted = Policy { slice: Some(slice), ..Policy::default() };
        let (applied, found) =
            in_a_thread(|| (apply(wanted), SchedAttr::of_this_thread().expect("readable")));
        let kept = u128::from(found.runtime) == slice.as_nanos();
        assert_eq!(applied.is_ok(), kept, "{applied:?}");
        // The kernel cuts what is too long to what it has.
        let long = Policy { slice: Some(Duration::from_secs(1)), ..Policy::default() };
        let error = in_a_thread(|| apply(long)).unwrap_err().to_string();
        let cut = if kept { "the kernel made 100ms of it" } else { "need Linux 6.12" };
        assert!(error.contains("slice 1s is not in force") && error.contains(cut), "{error}");
        try_out(long).unwrap_err();
    }

    #[test]
    fn real_time_is_had_or_refused_with_what_it_needs() {
        let wanted = Policy { class: Some(Class::RoundRobin(3)), ..Policy::default() };
        let had = || {
            apply(wanted)?;
            // As `chrt` starts it: a load that asks for nothing has what its caller has.
            in_a_thread(|| apply(Policy::default()).and_then(|()| check(Policy::default())))
                .expect("nothing was asked for");
            Ok::<_, PolicyError>(SchedAttr::of_this_thread().expect("readable"))
        };
        match in_a_thread(had) {
            Ok(found) => {
                assert_eq!((found.policy.cast_signed(), found.priority), (libc::SCHED_RR, 3));
            }
            Err(error) => {
                assert!(error.to_string().contains("rr:3"), "{error}");
                assert_eq!(error.owner, Owner::Host);
            }
        }
        let found = SchedAttr::of_this_thread().expect("readable").policy;
        // It is the same for one that is tried, and leaves this thread as it is.
        let may = in_a_thread(|| apply(wanted).is_ok());
        assert_eq!(try_out(wanted).is_ok(), may);
        assert_eq!(SchedAttr::of_this_thread().expect("readable").policy, found);
    }
}
