// SPDX-License-Identifier: Apache-2.0
//! Where threads are when a trace begins, from what they do first in it.
//!
//! A ring buffer is overwritten from its beginning, so a trace may well begin in a gap: then
//! no event says that the thread was put into a queue. But a thread whose first event is that
//! it is switched in, with no event missing before, has been in the queue all the time: to
//! be woken or moved would have been an event.

use rustc_hash::{FxHashMap, FxHashSet};

use super::place::Place;
use crate::error::FtraceError;
use crate::ring::Item;
use crate::sched::{Decoder, Event};
use crate::trace::Trace;

/// What is known about the beginning of a trace.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// What runs on CPUs of which nothing was lost, since the first record of any CPU.
    pub(super) current: Vec<(u32, i32)>,
    /// From this time on all CPUs are in the trace.
    pub(super) all_since: u64,
    /// Where threads are at that time.
    pub(super) places: Vec<(i32, Place)>,
}

impl Start {
    /// Reads the trace until each of the threads has been seen, or up to `end`.
    pub(super) fn scout(
        trace: &Trace,
        decoder: &Decoder,
        tids: &[i32],
        end: u64,
    ) -> Result<Self, FtraceError> {
        let mut events = trace.events()?;
        let mut this = Self::default();
        let mut late_cpus = FxHashSet::default();
        for head in events.heads() {
            match head {
                Item::Record(record) => this
                    .current
                    .extend(trace.formats().pid(record.data).map(|pid| (record.cpu, pid))),
                Item::Lost(lost) => {
                    late_cpus.insert(lost.cpu);
                }
            }
        }
        let mut wanted: FxHashSet<i32> = tids.iter().copied().collect();
        let mut seen: FxHashMap<i32, Option<Place>> = FxHashMap::default();
        while let Some(item) = events.next()? {
            let record = match item {
                // Not the missing beginning of a CPU: who was seen before counts only.
                Item::Lost(lost) if lost.after != 0 => break,
                Item::Lost(_) => continue,
                Item::Record(record) => record,
            };
            if record.time > end {
                break;
            }
            if late_cpus.remove(&record.cpu) {
                this.all_since = record.time;
            }
            let places = decoder.decode(record.data).map(|event| places_before(record.cpu, &event));
            for (tid, place) in places.into_iter().flatten().flatten() {
                if wanted.remove(&tid) {
                    // Before that time, absence of events proves nothing.
                    seen.insert(tid, if late_cpus.is_empty() { place } else { None });
                }
            }
            if wanted.is_empty() && late_cpus.is_empty() {
                break;
            }
        }
        if !late_cpus.is_empty() {
            // Some CPU never begins.
            this.all_since = u64::MAX;
        }
        this.places = seen.into_iter().filter_map(|(tid, place)| Some((tid, place?))).collect();
        Ok(this)
    }
}

/// Where threads were before an event, if it is the first one to concern them; `None` where
/// that is not known.
fn places_before(cpu: u32, event: &Event) -> [Option<(i32, Option<Place>)>; 2] {
    match event {
        // Who is switched out ran, but since when is another CPU's business to know.
        Event::Switch(switch) => [
            Some((switch.prev_pid, Some(Place::Running(cpu)))),
            Some((switch.next_pid, Some(Place::Queued(cpu)))),
        ],
        Event::Waking(wake) => {
            // What it waits for, the switch would have said.
            let place = Place::Sleeping { cpu: wake.target_cpu, state: 0 };
            [Some((wake.pid, Some(place))), None]
        }
        Event::Migrate(migrate) => {
            [Some((migrate.pid, Some(Place::Queued(migrate.orig_cpu)))), None]
        }
        Event::Wakeup(wake) | Event::WakeupNew(wake) => [Some((wake.pid, None)), None],
        Event::IrqEntry { .. } | Event::IrqExit(_) => [None, None],
    }
}
