// SPDX-License-Identifier: Apache-2.0
//! SIGINT and SIGTERM as something to wait for, beside everything else. One that whoever started
//! us ignores stays ignored.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

use anyhow::{Context, Result};

/// A signal ended the run, and the emulated host with it.
#[derive(Debug)]
pub struct Interrupted(pub u8);

impl Interrupted {
    /// The exit status that tells so, as a shell has it.
    pub fn code(&self) -> u8 {
        128 + self.0
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// While this value lives, the two signals do not end the program; they are read from here.
pub(super) struct Signals {
    file: File,
    previous: libc::sigset_t,
}

impl Signals {
    /// Blocks the two signals for the calling thread, which must be the only one that would
    /// take them.
    pub(super) fn catch() -> Result<Self> {
        let mut set = MaybeUninit::uninit();
        let mut previous = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises `set` before anything reads it, and pthread_sigmask
        // initialises `previous` where it succeeds; only then is it assumed to be so. An all-zero
        // sigaction is a valid object for the call to fill, which changes nothing.
        let (fd, previous) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGINT, libc::SIGTERM] {
                // A blocked signal would be kept for us even if it is ignored.
                let mut action: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(signal, std::ptr::null(), &mut action) != 0 {
                    return Err(io::Error::last_os_error()).context("cannot look at a signal");
                }
                if action.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(set.as_mut_ptr(), signal);
                }
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), previous.as_mut_ptr());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error)).context("cannot block signals");
            }
            (libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC), previous.assume_init())
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("cannot make a signalfd");
        }
        // SAFETY: the descriptor is new, and nobody else knows it.
        Ok(Self { file: unsafe { File::from_raw_fd(fd) }, previous })
    }

    /// The signal that has come; call when the descriptor is readable.
    pub(super) fn read(&self) -> Result<u8> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        (&self.file).read_exact(&mut info).context("cannot read a signal")?;
        // `ssi_signo` is the first field, and no signal's number is above 64.
        Ok(info[0])
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: `previous` is the mask that this thread had before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.previous, std::ptr::null_mut()) };
    }
}
