// SPDX-License-Identifier: Apache-2.0
//! The trace in the guest's memory: whether it can be read there, while the guest can still send
//! it, and the reading, when the machine has stopped.

use std::{fs, io};

use protocol::message::{Command, TraceRing};
use results::model::TraceVia;

use super::Attempt;
use crate::mapped_trace::GuestRings;
use crate::status::chain;
use crate::trace_file::Arrival;

impl Attempt {
    /// Answers a guest that has stopped tracing: it is to send its trace where we cannot read it.
    /// Once, whatever it asks.
    pub(super) fn answer_about_ring(&mut self) {
        let ring = self.measurement.session.setup.as_ref().and_then(|setup| setup.trace_ring);
        let (Some(ring), None) = (ring, &self.ring_answer) else { return };
        let checked = self.with_rings(ring, |rings| rings.check().map_err(|error| chain(&error)));
        let command = if checked.is_ok() { Command::KeepTrace } else { Command::SendTrace };
        if let Err(reason) = &checked {
            self.measurement.note(format!("trace: {reason}; the guest sends it"));
        }
        self.ring_answer = Some(checked);
        // One that takes no answer goes on without.
        self.tell(command);
    }

    /// Takes the pages out of guest memory, as after a run that sends its trace, and after one that
    /// did not come to its end.
    pub(super) fn take_ring(&self, ring: TraceRing, arrival: &mut Arrival<'_>) {
        arrival.via = TraceVia::MappedRing;
        let dump = self.plan.job.trace.as_ref().map(|trace| trace.dump);
        let hit = self.measurement.session.hit.is_some();
        let died = self.measurement.session.report.is_none();
        if arrival.bytes == 0 || !died && !dump.is_some_and(|dump| dump.wanted(hit)) {
            arrival.bytes = 0;
            // What would be needed to read the trace; if it cannot go, it does no harm.
            let _ = fs::remove_file(self.trace_file.raw());
            return;
        }
        let (raw, first) = (self.trace_file.raw(), &self.plan.job.load.cpus);
        match self.with_rings(ring, |rings| rings.append(raw, first)) {
            Ok(bytes) => (arrival.bytes, arrival.sent) = (bytes, Some(bytes)),
            Err(error) => {
                let file = fs::metadata(raw);
                arrival.bytes = file.map_or(arrival.bytes, |file| file.len());
                arrival.error = arrival.error.take().or_else(|| Some(chain(&error)));
            }
        }
    }

    fn with_rings<T>(&self, ring: TraceRing, use_them: impl FnOnce(&GuestRings<'_>) -> T) -> T {
        use_them(&GuestRings {
            ring,
            most_bytes: self.trace_memory.map_or(0, |memory| memory.bytes()),
            cpus: self.plan.args.machine.cpus,
            read_ram: &|address: u64, buffer: &mut [u8]| -> io::Result<()> {
                self.running.read_ram(address, buffer)
            },
        })
    }
}
