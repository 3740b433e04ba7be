// SPDX-License-Identifier: Apache-2.0
//! Our own tracks: gaps, forced idle, and a lane for each group.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::packets::Packets;
use crate::attribution::{Cause, Context, Explanation};
use crate::ring::{Lost, Record};
use crate::sched::Event;

/// Numbers of tracks: what kind it is, and of which group, thread or CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Track {
    AllGaps,
    Gaps { tid: i32 },
    AllForcedIdle,
    ForcedIdle { cpu: u32 },
    Group { group: u32 },
    Lane { group: u32, cpu: u32 },
}

impl Track {
    /// Two tracks have one number only if they are the same: kind in the top byte, group or
    /// thread in the low 32 bits, CPU (below 8192) in between.
    fn uuid(self) -> u64 {
        let (kind, cpu, low) = match self {
            Self::AllGaps => (1, 0, 0),
            Self::Gaps { tid } => (2, 0, tid.cast_unsigned()),
            Self::AllForcedIdle => (3, 0, 0),
            Self::ForcedIdle { cpu } => (4, cpu, 0),
            Self::Group { group } => (5, 0, group),
            Self::Lane { group, cpu } => (6, cpu, group),
        };
        kind << 56 | u64::from(cpu) << 32 | u64::from(low)
    }
}

/// A track for each thread, with its gaps, and in each gap its pieces. Gaps that begin in one
/// that is written are left out: slices of one track must nest.
pub(super) fn write_gaps<W: Write>(
    packets: &mut Packets<W>,
    explanations: &[Explanation],
    context: &Context,
) -> io::Result<()> {
    let mut order: Vec<&Explanation> = explanations.iter().collect();
    order.sort_by_key(|explanation| (explanation.gap.tid, explanation.gap.begin));
    if !order.is_empty() {
        packets.track(Track::AllGaps.uuid(), 0, "Scheduling gaps")?;
    }
    let mut last = None;
    for explanation in order {
        let gap = explanation.gap;
        let track = Track::Gaps { tid: gap.tid };
        let end_before = match last {
            Some((tid, end)) if tid == gap.tid => end,
            _ => {
                let name = format!("{} (tid {})", explanation.title(context), gap.tid);
                packets.track(track.uuid(), Track::AllGaps.uuid(), &name)?;
                0
            }
        };
        if gap.begin < end_before || gap.begin >= gap.end {
            continue;
        }
        last = Some((gap.tid, gap.end));
        packets.begin(track.uuid(), gap.begin, "gap")?;
        for segment in &explanation.segments {
            let Some(part) = explanation.parts.get(segment.part) else { continue };
            packets.begin(track.uuid(), segment.begin, &part.cause.describe(context))?;
            packets.end(track.uuid(), segment.end)?;
        }
        packets.end(track.uuid(), gap.end)?;
    }
    Ok(())
}

/// A track for each CPU that was forced idle in a gap, with the group that it was idle for.
pub(super) fn write_forced_idle<W: Write>(
    packets: &mut Packets<W>,
    explanations: &[Explanation],
    context: &Context,
) -> io::Result<()> {
    let mut slices = Vec::new();
    for explanation in explanations {
        for segment in &explanation.segments {
            if let Some(part) = explanation.parts.get(segment.part)
                && let Cause::ForcedIdle { cpu, by, .. } = &part.cause
            {
                slices.push((*cpu, segment.begin, segment.end, by));
            }
        }
    }
    slices.sort_by_key(|&(cpu, begin, ..)| (cpu, begin));
    if !slices.is_empty() {
        packets.track(Track::AllForcedIdle.uuid(), 0, "Forced idle")?;
    }
    let mut last = None;
    for (cpu, begin, end, by) in slices {
        let track = Track::ForcedIdle { cpu };
        // Several threads may wait for one CPU at a time.
        let begin = match last {
            Some((last_cpu, last_end)) if last_cpu == cpu => begin.max(last_end),
            _ => {
                let name = format!("CPU {cpu}");
                packets.track(track.uuid(), Track::AllForcedIdle.uuid(), &name)?;
                begin
            }
        };
        last = Some((cpu, end.max(begin)));
        if begin < end {
            let whose = by.group.map_or_else(|| by.name.clone(), |group| context.group_name(group));
            packets.begin(track.uuid(), begin, &format!("forced idle for {whose}"))?;
            packets.end(track.uuid(), end)?;
        }
    }
    Ok(())
}

/// A lane for each group and CPU, with the threads of the group that run there.
pub(super) struct Lanes<'a> {
    context: &'a Context,
    made: BTreeSet<Track>,
    /// What slice is open for each CPU.
    open: Vec<Option<Track>>,
}

impl<'a> Lanes<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, made: BTreeSet::new(), open: Vec::new() }
    }

    /// Takes in the next record and what it is.
    pub(super) fn take<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        record: &Record,
        event: Option<Event>,
    ) -> io::Result<()> {
        let Some(Event::Switch(switch)) = event else { return Ok(()) };
        self.close(packets, record.cpu, record.time)?;
        let Some(&group) = self.context.groups.get(&switch.next_pid) else { return Ok(()) };
        let (parent, lane) = (Track::Group { group }, Track::Lane { group, cpu: record.cpu });
        if self.made.insert(parent) {
            packets.track(parent.uuid(), 0, &self.context.group_name(group))?;
        }
        if self.made.insert(lane) {
            packets.track(lane.uuid(), parent.uuid(), &format!("on CPU {}", record.cpu))?;
        }
        let name = match self.context.thread_names.get(&switch.next_pid) {
            Some(name) => name.into(),
            None => String::from_utf8_lossy(switch.next_comm),
        };
        packets.begin(lane.uuid(), record.time, name.trim_end_matches('\0'))?;
        let index = record.cpu as usize;
        if self.open.len() <= index {
            self.open.resize(index + 1, None);
        }
        self.open[index] = Some(lane);
        Ok(())
    }

    /// After missing events nobody knows what runs on the CPU.
    pub(super) fn lost<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        lost: &Lost,
    ) -> io::Result<()> {
        self.close(packets, lost.cpu, lost.after)
    }

    fn close<W: Write>(&mut self, packets: &mut Packets<W>, cpu: u32, time: u64) -> io::Result<()> {
        match self.open.get_mut(cpu as usize).and_then(Option::take) {
            Some(lane) => packets.end(lane.uuid(), time),
            None => Ok(()),
        }
    }

    /// Ends what is open when the trace ends.
    pub(super) fn finish<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        time: u64,
    ) -> io::Result<()> {
        for cpu in (0..).take(self.open.len()) {
            self.close(packets, cpu, time)?;
        }
        Ok(())
    }
}
