// SPDX-License-Identifier: Apache-2.0
//! SIGINT and SIGTERM as something to wait for, beside everything else. One that whoever started
//! us ignores stays ignored.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use workload::kernel::signals::{Blocked, block};

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
    file: SignalFd,
    previous: SigSet,
}

impl Signals {
    /// Blocks the two signals for the calling thread, which must be the only one that would
    /// take them.
    pub(super) fn catch() -> Result<Self> {
        let Blocked { set, previous } =
            block(&[Signal::SIGINT, Signal::SIGTERM]).context("cannot block signals")?;
        let file = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC);
        Ok(Self { file: file.context("cannot make a signalfd")?, previous })
    }

    /// The signal that has come; call when the descriptor is readable.
    pub(super) fn read(&self) -> Result<u8> {
        let info = self.file.read_signal().context("cannot read a signal")?;
        let number = info.context("no signal has come")?.ssi_signo;
        u8::try_from(number).context("no signal's number is above 64")
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It has been set before.
        let _ = self.previous.thread_set_mask();
    }
}
