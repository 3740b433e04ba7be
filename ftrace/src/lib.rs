// SPDX-License-Identifier: Apache-2.0
//! Reads what the Linux kernel traced, and says why a thread did not run.

pub mod attribution;
mod comms;
mod error;
mod format;
mod perfetto;
mod region;
mod ring;
mod sched;
mod symbols;
mod trace;
mod tracedat;

pub use comms::Comms;
pub use error::FtraceError;
pub use format::{EventFormat, Field, FieldKind, FormatFile, Formats, IntField};
pub use region::{Region, RegionReader};
pub use ring::{EntryLayout, Events, Item, LossReason, Lost, PageLayout, Record};
pub use symbols::marker_symbol;
pub use trace::{Metadata, Trace};
