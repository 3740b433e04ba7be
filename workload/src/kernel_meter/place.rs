// SPDX-License-Identifier: Apache-2.0
//! From what a line says to the begin and the end of a gap.
//!
//! The time at the front of a line is the TSC (trace clock `x86-tsc`) when the line was
//! written, and that is after the gap. osnoise writes at once. hwlat writes at the end of its
//! window, and says when the first gap above the floor ended by the wall clock; on kernels
//! before 5.7 not even that. So a gap is placed as late as it can have been, and
//! [`Placed::earlier_ticks`] says by how much it may have been earlier.

use std::ops::RangeInclusive;
use std::time::Duration;

use gaps::evidence::Class;
use gaps::record::GapRecord;
use gaps::tsc::{bracket, ns_to_ticks};
use protocol::duration::as_ns;

use crate::kernel_meter::lines::{Context, HwlatSample, OsnoiseSample};

/// The kernel tells whole microseconds, rounded down.
const RESOLUTION_NS: u64 = 1_000;

/// A gap with all that is known of when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// As late as it can have been.
    pub record: GapRecord,
    /// Both ends may be earlier by up to so many ticks.
    pub earlier_ticks: u64,
    /// Further gaps above the floor in the same window.
    pub more: u64,
}

/// Wall clock and TSC at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// The TSC.
    pub tsc: u64,
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
}

impl WallClock {
    /// The present moment.
    pub fn now() -> Self {
        let (tsc, wall_ns) = bracket(libc::CLOCK_REALTIME);
        Self { tsc, wall_ns }
    }

    /// The TSC when the wall clock showed `wall_ns`; `None` where that is out of range.
    fn tsc_at(self, wall_ns: u64, khz: u64) -> Option<u64> {
        match self.wall_ns.checked_sub(wall_ns) {
            Some(before_ns) => self.tsc.checked_sub(ns_to_ticks(before_ns, khz)),
            None => self.tsc.checked_add(ns_to_ticks(wall_ns - self.wall_ns, khz)),
        }
    }
}

/// What lines are understood by.
#[derive(Clone, Copy, Debug)]
pub struct Placing {
    /// TSC frequency.
    pub khz: u64,
    /// Nothing happened before.
    pub tsc_start: u64,
    /// Part of a window in which hwlat measures.
    pub width: Duration,
}

impl Placing {
    /// The longest gap of a window of hwlat. `None` where it cannot be true: it would have
    /// begun before the meter did.
    pub fn hwlat(&self, at: Context, sample: HwlatSample, clock: WallClock) -> Option<Placed> {
        // Two gaps or one; the longer of them is certainly one.
        let longest_us = sample.inner_us.max(sample.outer_us);
        let ticks = ns_to_ticks(longest_us.checked_mul(1_000)?, self.khz);
        // A wall clock that was set meanwhile says nothing.
        let noted = clock
            .tsc_at(sample.wall_ns, self.khz)
            .filter(|&tsc| (self.tsc_start..=at.tsc).contains(&tsc));
        let window_ticks = ns_to_ticks(as_ns(self.width).saturating_add(RESOLUTION_NS), self.khz);
        let (earliest, latest) = match (sample.count, noted) {
            // The only one. The wall clock was read at the end of that turn, whose inner part
            // comes last.
            (Some(1), Some(tsc)) if sample.outer_us > sample.inner_us => (
                tsc.saturating_sub(ns_to_ticks(sample.inner_us.saturating_mul(1_000), self.khz)),
                tsc,
            ),
            (Some(1), Some(tsc)) => (tsc, tsc),
            // The first one or a later one.
            (Some(_), Some(tsc)) => (tsc, at.tsc),
            // Somewhere in the window. A gap that ran over its end moved that end along.
            (None, Some(end)) => (end.saturating_sub(window_ticks), end),
            (_, None) => (at.tsc.saturating_sub(window_ticks), at.tsc),
        };
        let class = match sample.nmi_total_us {
            // Interrupts were off: nothing of this kernel ran but what was not maskable.
            _ if sample.nmi_count == 0 => Class::Host,
            Some(nmi_us) if nmi_us < longest_us / 2 => Class::Host,
            _ => Class::Unknown,
        };
        let more = sample.count.map_or(0, |count| count.saturating_sub(1));
        self.placed(at.cpu, earliest..=latest, ticks, class).map(|placed| Placed { more, ..placed })
    }

    /// A gap that osnoise saw. `None` where it would have begun before the meter did.
    pub fn osnoise(&self, at: Context, sample: OsnoiseSample) -> Option<Placed> {
        // No interrupt and no other thread of this kernel ran: what is left is outside of it.
        let class = if sample.interference == 0 { Class::Host } else { Class::Unknown };
        let ticks = ns_to_ticks(sample.duration_ns, self.khz);
        self.placed(at.cpu, at.tsc..=at.tsc, ticks, class)
    }

    fn placed(
        &self,
        cpu: u32,
        ends: RangeInclusive<u64>,
        ticks: u64,
        class: Class,
    ) -> Option<Placed> {
        let (earliest, latest) = ends.into_inner();
        let tsc_begin = latest.checked_sub(ticks).filter(|&begin| begin >= self.tsc_start)?;
        let record = GapRecord {
            tsc_begin,
            tsc_end: latest,
            cpu_begin: cpu,
            cpu_end: cpu,
            class,
            ..GapRecord::default()
        };
        // Not before the meter began.
        let room = tsc_begin - self.tsc_start;
        Some(Placed { record, earlier_ticks: (latest - earliest).min(room), more: 0 })
    }
}
