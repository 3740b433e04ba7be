// SPDX-License-Identifier: Apache-2.0
//! The kernel's ring buffer: pages as `per_cpu/cpuN/trace_pipe_raw` hands them out.

mod events;
mod layout;
mod page;
mod stream;

pub use events::{Events, Item, Record};
pub use layout::{EntryLayout, PageLayout};
pub(crate) use stream::Watch;
pub use stream::{LossReason, Lost};
