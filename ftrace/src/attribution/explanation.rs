// SPDX-License-Identifier: Apache-2.0
//! Puts names into an account.

use super::cause::{Cause, Explanation, Part, Task};
use super::context::Context;
use super::gap_account::{Comm, Entry, GapAccount, OTHERS, Why};
use crate::comms::Comms;
use crate::sched::IrqSource;

/// Letters of `prev_state`'s bits from the lowest on, as `ps` shows them (`task_state_array`
/// in the kernel's `fs/proc/array.c`).
const STATE_LETTERS: [char; 8] = ['S', 'D', 'T', 't', 'X', 'Z', 'P', 'I'];

impl Explanation {
    pub(super) fn from_account(
        account: GapAccount,
        context: &Context,
        comms: &Comms,
        trace_begin: Option<u64>,
        irq_name: impl Fn(IrqSource) -> String,
    ) -> Self {
        let GapAccount { gap, entries, mut segments, segments_left_out, migrations, .. } = account;
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(entries[index].ticks));
        let mut rank = vec![0; entries.len()];
        for (new, &old) in order.iter().enumerate() {
            rank[old] = new;
        }
        for segment in &mut segments {
            segment.part = rank[segment.part];
        }
        let names = Names { context, comms };
        Self {
            gap,
            name: names.of(gap.tid, &[0; 16]),
            group: context.groups.get(&gap.tid).copied(),
            parts: order
                .iter()
                .map(|&index| {
                    let entry: &Entry = &entries[index];
                    let cause = names.cause(entry, &irq_name);
                    Part { cause, ticks: entry.ticks, pieces: entry.pieces, longest: entry.longest }
                })
                .collect(),
            segments,
            segments_left_out,
            migrations,
            trace_begin: trace_begin.filter(|&begin| begin > gap.begin),
        }
    }
}

struct Names<'a> {
    context: &'a Context,
    comms: &'a Comms,
}

impl Names<'_> {
    fn of(&self, tid: i32, comm: &Comm) -> String {
        if tid == OTHERS {
            return "others".into();
        }
        if let Some(name) = self.context.thread_names.get(&tid) {
            return name.clone();
        }
        let length = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
        if length > 0 {
            return String::from_utf8_lossy(&comm[..length]).into_owned();
        }
        self.comms.get(tid).map_or_else(|| format!("thread {tid}"), str::to_owned)
    }

    fn task(&self, tid: i32, comm: &Comm) -> Task {
        Task { tid, name: self.of(tid, comm), group: self.context.groups.get(&tid).copied() }
    }

    fn cause(&self, entry: &Entry, irq_name: &impl Fn(IrqSource) -> String) -> Cause {
        match entry.why {
            Why::Queued { cpu, tid } => Cause::Queued { cpu, behind: self.task(tid, &entry.comm) },
            Why::ForcedIdle { cpu, sibling, tid } => {
                Cause::ForcedIdle { cpu, sibling, by: self.task(tid, &entry.comm) }
            }
            Why::Throttled { cpu } => Cause::Throttled { cpu },
            Why::Idle { cpu } => Cause::Idle { cpu },
            Why::Waking { cpu } => Cause::Waking { cpu },
            Why::Migrating { cpu } => Cause::Migrating { cpu },
            Why::Sleeping { state } => Cause::Sleeping { state: state_letter(state) },
            Why::Interrupted { cpu, source } => {
                let name = irq_name(source);
                match source {
                    IrqSource::Soft(_) => Cause::Softirq { cpu, name },
                    IrqSource::Line(_) | IrqSource::Vector(_) => Cause::Irq { cpu, name },
                }
            }
            Why::Running { cpu } => Cause::Running { cpu },
            Why::Unknown(reason) => Cause::Unknown { reason },
        }
    }
}

/// The letter of the lowest bit; `?` where there is none.
fn state_letter(state: u8) -> char {
    STATE_LETTERS.get(state.trailing_zeros() as usize).copied().unwrap_or('?')
}
