// SPDX-License-Identifier: Apache-2.0
//! Accounts for the time of threads under the cause that follows from where they are.

use super::UnknownReason;
use super::gap_account::{Comm, Why};
use super::place::Place;
use super::tracker::{Attributor, Thread};

/// The threads that move others, one for each CPU, are called `migration/N`.
const STOPPER: &[u8] = b"migration/";

impl Attributor<'_> {
    /// Accounts for the time of the threads on a CPU, and of those that a sibling holds up there.
    #[inline]
    pub(super) fn settle_core(&mut self, cpu: u32) {
        self.settle_cpu(cpu);
        let context = self.context;
        for &sibling in context.topology.siblings(cpu) {
            if self.cpus.get(sibling as usize).is_some_and(|cpu| cpu.known && cpu.current == 0) {
                self.settle_cpu(sibling);
            }
        }
    }

    #[inline]
    fn settle_cpu(&mut self, cpu: u32) {
        let count = self.cpus.get(cpu as usize).map_or(0, |cpu| cpu.here.len());
        for index in 0..count {
            self.settle(self.cpus[cpu as usize].here[index], self.now);
        }
    }

    /// Accounts for the time of the thread that runs on a CPU.
    #[inline]
    pub(super) fn settle_running(&mut self, on: u32) {
        let running = self.cpus.get(on as usize).filter(|cpu| cpu.known).map(|cpu| cpu.current);
        if let Some(thread) = running.and_then(|tid| self.watched(tid)) {
            self.settle(thread, self.now);
        }
    }

    /// Accounts for a thread's time up to now, and gives it a new place.
    pub(super) fn place(&mut self, thread: usize, place: Place) {
        self.settle(thread, self.now);
        let before = self.threads[thread].place;
        self.threads[thread].place = place;
        if before.cpu() == place.cpu() {
            return;
        }
        if let Some(cpu) = before.cpu() {
            self.cpu(cpu).here.retain(|&other| other != thread);
        }
        if let Some(cpu) = place.cpu() {
            self.cpu(cpu).here.push(thread);
        }
    }

    /// Accounts for a thread's time up to `until` under the cause that holds since the last time.
    #[inline]
    pub(super) fn settle(&mut self, thread: usize, until: u64) {
        let state = &mut self.threads[thread];
        let since = std::mem::replace(&mut state.since, until);
        while let Some(&gap) = state.gaps.get(state.first_open)
            && self.accounts[gap].gap.end <= since
        {
            state.first_open += 1;
        }
        if since >= until
            || state.gaps[state.first_open..]
                .first()
                .filter(|&&gap| self.accounts[gap].gap.begin < until)
                .is_none()
        {
            return;
        }
        let (why, comm) = self.why(thread);
        let Thread { gaps, first_open, .. } = &self.threads[thread];
        for &gap in &gaps[*first_open..] {
            let account = &mut self.accounts[gap];
            if account.gap.begin >= until {
                break;
            }
            account.add(since, until, why, &comm);
        }
    }

    /// Why a thread does not run, and the name of the thread in its way.
    fn why(&self, thread: usize) -> (Why, Comm) {
        let thread = &self.threads[thread];
        let nobody = [0; 16];
        match thread.place {
            Place::Unknown(reason) => (Why::Unknown(reason), nobody),
            Place::Sleeping { state, .. } => (Why::Sleeping { state }, nobody),
            Place::Waking { cpu, moved: false } => (Why::Waking { cpu }, nobody),
            Place::Waking { cpu, moved: true } => (Why::Migrating { cpu }, nobody),
            Place::Running(cpu) => {
                let state = &self.cpus[cpu as usize];
                let why = match state.hard.or(state.soft) {
                    Some(source) => Why::Interrupted { cpu, source },
                    None => Why::Running { cpu },
                };
                (why, nobody)
            }
            Place::Queued(cpu) => {
                let state = &self.cpus[cpu as usize];
                if !state.known {
                    return (Why::Unknown(UnknownReason::LostEvents), nobody);
                }
                if state.comm.starts_with(STOPPER) {
                    return (Why::Migrating { cpu }, nobody);
                }
                if state.current != 0 {
                    return (Why::Queued { cpu, tid: state.current }, state.comm);
                }
                self.why_idle(cpu, thread.group)
            }
        }
    }

    /// Why an idle CPU does not run a thread of `group` that is in its queue.
    fn why_idle(&self, cpu: u32, group: Option<u32>) -> (Why, Comm) {
        let context = self.context;
        let mut all_known = true;
        if context.core_scheduling {
            for &sibling in context.topology.siblings(cpu) {
                match self.cpus.get(sibling as usize).filter(|state| state.known) {
                    None => all_known = false,
                    Some(state) if state.current != 0 && state.group != group => {
                        let tid = state.current;
                        return (Why::ForcedIdle { cpu, sibling, tid }, state.comm);
                    }
                    Some(_) => {}
                }
            }
        }
        let why = if !all_known {
            Why::Unknown(UnknownReason::LostEvents)
        } else if group.is_some_and(|group| context.limited_groups.contains(&group)) {
            Why::Throttled { cpu }
        } else {
            Why::Idle { cpu }
        };
        (why, [0; 16])
    }
}
