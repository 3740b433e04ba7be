// SPDX-License-Identifier: Apache-2.0
//! Reads what the Linux kernel traced, and says why a thread did not run.
//!
//! - **Reads** raw ring-buffer pages (`per_cpu/cpuN/trace_pipe_raw`) of Linux 5.4 and later, by
//!   the kernel's own `header_page`, `header_event` and `format` files, on 64-bit and 32-bit
//!   little-endian machines; trace.dat, versions 6 and 7, compressed or not, with all its buffers
//!   ([`TraceFile`]); and [`dump`], the same as one stream. All CPUs come in order of time, without
//!   a copy or an allocation for each event, in bounded memory whatever the trace's size.
//! - **Finds** who waited for a CPU, and when: [`waits()`].
//! - **Explains** gaps of threads, to the tick: [`attribution`]. It knows core scheduling.
//! - **Writes** trace.dat ([`Trace::write_trace_dat`]) for trace-cmd and KernelShark, and
//!   Perfetto ([`Trace::write_perfetto`]) for ui.perfetto.dev.
//!
//! Traces are input from elsewhere: sizes are limited, contradictions are errors or
//! [`Item::Lost`], and nothing panics.
//!
//! ```no_run
//! use ftrace::Trace;
//! use ftrace::attribution::{Context, Gap, Topology, Units, explain};
//!
//! # fn main() -> Result<(), ftrace::FtraceError> {
//! // A copy of what the tracing file system has; or `Trace::open` for a trace.dat.
//! let trace = Trace::from_directory("dump".as_ref())?;
//! let context = Context {
//!     topology: Topology::from_cores([&[0, 1][..], &[2, 3]]),
//!     groups: [(81, 1), (82, 1), (91, 2), (92, 2)].into(),
//!     core_scheduling: true,
//!     ..Context::default()
//! };
//! // In units of the trace clock: with `x86-tsc`, what the thread itself read by RDTSC.
//! let gaps = [Gap { tid: 81, begin: 31_344_665_005, end: 31_532_431_413 }];
//! for explanation in explain(&trace, &gaps, &context)? {
//!     println!("{}", explanation.paragraph(&context, Units::tsc(2_445_406)));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! To make such a copy, read `header_page` and `header_event` with one large read each, and
//! `trace_pipe_raw` without waiting, a page a read, after tracing was switched off; the example
//! `record` does.

pub mod attribution;
mod byte_source;
mod co_run;
mod comms;
mod cpu_lanes;
pub mod dump;
mod error;
mod format;
mod kallsyms;
mod markers;
mod packed;
mod perfetto;
mod persistent_ring;
mod ring;
mod sched;
mod trace;
mod trace_id;
mod tracedat;
mod waits;

pub use byte_source::{ByteSource, ByteSourceReader};
pub use co_run::{CoRun, co_run};
pub use comms::Comms;
pub use cpu_lanes::{Lane, Lanes, Slice, lanes};
pub use error::FtraceError;
pub use format::{EventFormat, Field, FieldKind, FormatFile, Formats, IntField};
pub use kallsyms::marker_symbol;
pub use persistent_ring::PersistentRings;
pub use ring::{EntryLayout, Events, Item, LossReason, Lost, PageLayout, Record};
pub use trace::{Metadata, Trace, TscScale};
pub use trace_id::TraceId;
pub use tracedat::TraceFile;
pub use waits::{Losses, Recorded, Wait, WaitKind, WaitSum, Waiter, Waits, Wanted, waits};
