// SPDX-License-Identifier: Apache-2.0
//! SIGINT, SIGTERM and SIGHUP as events.

use std::io;
use std::mem;
use std::ptr;
use std::sync::mpsc::SyncSender;
use std::thread;

use crate::session::Event;

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Blocks the signals in this thread and all it starts, and hands them to `events` instead.
/// To be called before any other thread exists.
///
/// # Errors
/// The error of pthread_sigmask(3), or no thread left.
pub fn forward(events: SyncSender<Event>) -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is a valid object for sigemptyset to fill.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is valid for writes; every number is a signal.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in SIGNALS {
            libc::sigaddset(&raw mut set, signal);
        }
    }
    // SAFETY: `set` is initialised; the old mask is not asked for.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    thread::Builder::new().name("svmm-signals".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the call.
        while unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    })?;
    Ok(())
}
