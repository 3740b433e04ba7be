// SPDX-License-Identifier: Apache-2.0
//! A Perfetto trace, for ui.perfetto.dev: the system's name, scheduling, wake-ups, interrupts and
//! markers as the kernel traced them, and tracks of our own.
//!
//! Own tracks: for each group a lane for each CPU with what of the group ran there; for each
//! explained thread its gaps, with the pieces of each; for each CPU when it was forced idle.
//!
//! Format: `protos/perfetto/trace/perfetto_trace.proto` of Perfetto.

mod ftrace_events;
mod packets;
mod tracks;
mod wire;

use std::io::Write;

use crate::attribution::{Context, Explanation, Units};
use crate::error::FtraceError;
use crate::ring::Item;
use crate::trace::Trace;
use ftrace_events::FtraceEvents;
use packets::Packets;
use tracks::Lanes;

impl Trace {
    /// Writes the trace as a Perfetto trace, with lanes for the groups of `context` and
    /// tracks for `explanations`. These need their segments:
    /// [`Context::max_segments`] when they were made.
    ///
    /// Memory is that of [`Self::events`] and up to 16 MiB.
    ///
    /// # Errors
    /// [`FtraceError::Write`], [`FtraceError::ReadPages`], [`FtraceError::TooLarge`].
    pub fn write_perfetto(
        &self,
        explanations: &[Explanation],
        context: &Context,
        units: Units,
        out: &mut impl Write,
    ) -> Result<(), FtraceError> {
        let mut packets = Packets::new(out, units);
        packets.system(&self.metadata().uname)?;
        tracks::write_gaps(&mut packets, explanations, context)?;
        tracks::write_forced_idle(&mut packets, explanations, context)?;
        let mut lanes = Lanes::new(context);
        let mut ftrace = FtraceEvents::new(self);
        let mut events = self.events()?;
        let mut end = 0;
        while let Some(item) = events.next()? {
            match item {
                Item::Record(record) => {
                    end = record.time;
                    let event = ftrace.take(&mut packets, &record)?;
                    lanes.take(&mut packets, &record, event)?;
                }
                Item::Lost(lost) => {
                    lanes.lost(&mut packets, &lost)?;
                    ftrace.lost(&mut packets, &lost)?;
                }
            }
        }
        lanes.finish(&mut packets, end)?;
        ftrace.finish(&mut packets)?;
        packets.finish()?;
        Ok(())
    }
}
