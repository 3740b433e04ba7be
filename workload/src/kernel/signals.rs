// SPDX-License-Identifier: Apache-2.0
//! Signals that are taken by a thread which waits for them, instead of interrupting one.

use std::{io, mem, ptr};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals that do not end this thread, nor those it starts, until their mask is put back.
#[derive(Debug)]
pub struct Blocked {
    /// Those that are blocked.
    pub set: SigSet,
    /// What was blocked before.
    pub previous: SigSet,
}

/// Blocks those of the signals that are not ignored, in the calling thread and all that it starts
/// from now on. A blocked signal is kept for us even if it is ignored: so whoever started us and
/// ignores it, as `nohup` does, would not have his way if it were among them.
///
/// # Errors
/// The error of sigaction(2) or pthread_sigmask(3).
pub fn block(signals: &[Signal]) -> io::Result<Blocked> {
    let mut set = SigSet::empty();
    for signal in signals {
        if !is_ignored(*signal as libc::c_int)? {
            set.add(*signal);
        }
    }
    let previous = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok(Blocked { set, previous })
}

/// Whether whoever started this process wants it not to be ended by this signal.
fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    // SAFETY: an all-zero sigaction is a valid object for the call to fill.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: nothing is set; `action` is valid for writes.
    if unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_seen() {
        // Of this test process, whoever started it; SIGPIPE is ignored by every Rust program.
        assert!(is_ignored(libc::SIGPIPE).unwrap());
        assert!(!is_ignored(libc::SIGUSR2).unwrap());
        is_ignored(-1).unwrap_err();
    }

    #[test]
    fn what_is_ignored_is_not_blocked() {
        let blocked = block(&[Signal::SIGPIPE, Signal::SIGUSR2]).unwrap();
        assert!(!blocked.set.contains(Signal::SIGPIPE) && blocked.set.contains(Signal::SIGUSR2));
        assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGUSR2));
        blocked.previous.thread_set_mask().unwrap();
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGUSR2));
    }
}
