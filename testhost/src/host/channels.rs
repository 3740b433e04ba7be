// SPDX-License-Identifier: Apache-2.0
//! What either machine gives to whoever drives it: the streams of [`protocol`](super::protocol), a
//! console, and a process that ends with this value.

use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::process::KillOnDrop;

/// A running machine, and our ends of its channels. Each comes to its end with the machine.
pub(super) struct Channels {
    pub console: File,
    pub stdout: UnixStream,
    pub stderr: UnixStream,
    pub out: UnixStream,
    /// Status lines out, numbers of signals in.
    pub status: UnixStream,
    /// Last: what it waits for at its end may be waiting for the streams.
    pub process: Box<dyn Process>,
}

/// A machine's process, which is ended with this value.
pub(super) trait Process {
    /// Why the machine has ended, where that was not for the command's sake.
    fn fault(&self) -> Option<String> {
        None
    }

    /// How many ticks of its own clock the machine has run, as far as it says so.
    fn ticks(&self) -> Option<u64> {
        None
    }
}

impl Process for KillOnDrop {}

/// Lets the child keep descriptors that close at exec otherwise.
pub(super) fn pass_on(command: &mut Command, descriptors: Vec<RawFd>) {
    // SAFETY: the closure runs between fork and exec and only calls fcntl, which is
    // async-signal-safe; it allocates nothing. The descriptors stay open in the parent until
    // after the spawn, so in the child they are the ones that are meant.
    unsafe {
        command.pre_exec(move || {
            for fd in &descriptors {
                if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}
