// SPDX-License-Identifier: Apache-2.0
//! trace.dat, version 6: the file of trace-cmd and KernelShark, and the one file form here.
//!
//! Format: the manual page trace-cmd.dat.v6(5); numbers of the options:
//! `include/private/trace-cmd-private.h` of trace-cmd. Only little-endian files.

mod read;
mod write;

/// The first ten bytes: three that no text has, and a name.
const MAGIC: &[u8; 10] = b"\x17\x08\x44tracing";
/// The version, as it stands in the file.
const VERSION: &[u8; 2] = b"6\0";
/// Before `events/header_page`.
const HEADER_PAGE: &[u8] = b"header_page\0";
/// Before `events/header_event`.
const HEADER_EVENT: &[u8] = b"header_event\0";
/// The system whose formats come before the others'.
const FTRACE_SYSTEM: &str = "ftrace";
/// Before the options, which are optional.
const OPTIONS: &[u8; 10] = b"options  \0";
/// Before the table of pages.
const FLYRECORD: &[u8; 10] = b"flyrecord\0";
/// Before text in the place of pages.
const LATENCY: &[u8; 10] = b"latency  \0";

/// Numbers of options that are written or read.
mod option {
    /// No more options.
    pub(super) const DONE: u16 = 0;
    /// The clocks in the words of the file `trace_clock`.
    pub(super) const TRACECLOCK: u16 = 4;
    /// The words of `uname`.
    pub(super) const UNAME: u16 = 5;
    /// The number of CPUs, 32 bits.
    pub(super) const CPUCOUNT: u16 = 8;
    /// The program that wrote the file.
    pub(super) const VERSION: u16 = 9;
    /// What tells this trace from others, 64 bits.
    pub(super) const TRACEID: u16 = 11;
}
