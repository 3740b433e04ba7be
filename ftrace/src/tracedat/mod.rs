// SPDX-License-Identifier: Apache-2.0
//! trace.dat: the file of trace-cmd and KernelShark, and the one file form here. Versions 6 and 7
//! are read, version 6 is written.
//!
//! Format: the manual pages trace-cmd.dat.v6(5) and trace-cmd.dat.v7(5); numbers of the options:
//! `include/private/trace-cmd-private.h` of trace-cmd. Only little-endian files.

mod cursor;
mod file;
mod parts;
mod read;
mod v6;
mod v7;
mod write;

pub use read::TraceFile;

/// Buffers of a file, at most.
const MAX_BUFFERS: u64 = 256;

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
    /// A buffer, and where it is.
    pub(super) const BUFFER: u16 = 3;
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
    /// How ticks of the TSC become nanoseconds.
    pub(super) const TSC2NSEC: u16 = 14;
    /// Where sections of version 7 are; these are their numbers, too.
    pub(super) const HEADER_INFO: u16 = 16;
    pub(super) const FTRACE_EVENTS: u16 = 17;
    pub(super) const EVENT_FORMATS: u16 = 18;
    pub(super) const KALLSYMS: u16 = 19;
    pub(super) const PRINTK: u16 = 20;
    pub(super) const CMDLINES: u16 = 21;
    /// A buffer of text.
    pub(super) const BUFFER_TEXT: u16 = 22;
}
