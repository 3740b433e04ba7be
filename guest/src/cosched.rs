// SPDX-License-Identifier: Apache-2.0
//! Core scheduling: one cookie for each group, by whatever interface the kernel has.

use std::io;

/// `PR_SCHED_CORE` (include/uapi/linux/prctl.h), Linux 5.14.
const PR_SCHED_CORE: libc::c_int = 62;

/// Reads a cookie.
const PR_SCHED_CORE_GET: libc::c_ulong = 0;

/// Makes a new cookie for the target.
const PR_SCHED_CORE_CREATE: libc::c_ulong = 1;

/// The target is one thread.
const SCOPE_THREAD: libc::c_ulong = 0;

/// The target is all threads of a process.
const SCOPE_THREAD_GROUP: libc::c_ulong = 1;

/// Gives the calling process, all its threads, a cookie of its own.
pub fn create_cookie() -> io::Result<()> {
    prctl_sched_core(PR_SCHED_CORE_CREATE, SCOPE_THREAD_GROUP, None)
}

/// The cookie of the calling thread: 0 for none, else a number that means nothing in itself.
pub fn cookie_of_this_thread() -> io::Result<u64> {
    let mut cookie = 0;
    prctl_sched_core(PR_SCHED_CORE_GET, SCOPE_THREAD, Some(&mut cookie))?;
    Ok(cookie)
}

fn prctl_sched_core(
    command: libc::c_ulong,
    scope: libc::c_ulong,
    cookie: Option<&mut u64>,
) -> io::Result<()> {
    let address = cookie.map_or(std::ptr::null_mut(), |cookie| &raw mut *cookie);
    let this: libc::c_ulong = 0;
    // SAFETY: the address is null or that of a u64 which the call may fill.
    let result = unsafe { libc::prctl(PR_SCHED_CORE, command, this, scope, address) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
