// SPDX-License-Identifier: Apache-2.0
//! What a person sees who looks on.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Child, Command, Output};

/// Runs a command, by `finish`, whose stderr is a terminal; what that showed.
pub fn watch(mut command: Command, finish: impl FnOnce(Child) -> Output) -> (Output, String) {
    let (mut ours, theirs) = terminal();
    let child = command.stderr(theirs).spawn().expect("it starts");
    // The other end stays open in the command until that is dropped.
    drop(command);
    let shown = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // A terminal ends with an error (EIO) when its last user has closed it.
        let _ = ours.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let output = finish(child);
    (output, shown.join().expect("a thread of ours"))
}

/// A terminal of 24 lines with 80 columns: our end, and that of a program.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let no_name = std::ptr::null_mut();
    // SAFETY: the descriptors and the size are locals that outlive the call; no name and no
    // settings are asked for.
    let done = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, no_name, std::ptr::null(), &raw const size)
    };
    assert_eq!(done, 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: the call has just opened both, and nobody else knows of them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}
