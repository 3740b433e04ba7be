// SPDX-License-Identifier: Apache-2.0
//! Supervises the L2 VMs: staggered launch, message dispatch, commands, time-outs.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use protocol::job::{LoadSpec, NestedSpec};
use protocol::launcher::LauncherCommand;
use protocol::message::{Gap, ThresholdHit};
use protocol::vm::{VmFault, VmPhase};
use workload::context::WorkloadContext;
use workload::observer::Observer;

use super::images::Images;
use super::starter::Starter;
use super::vm::{Event, L2Vm, VmEvent};
use super::{NestedError, online};

/// Between two looks at the clock.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Between two words to the host, and two ticks of the measurement.
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// From the command to end to a launcher's end.
const ENDED: Duration = Duration::from_secs(15);
/// A VM that comes no further is given up after a time; it holds up others for a fifth of it.
const STALLS_PER_TURN: u32 = 5;
/// Pieces on their way to the main thread; beyond, launchers wait.
const EVENTS_IN_FLIGHT: usize = 64;

/// All VMs.
pub(super) struct L2Vms<'a> {
    pub(super) spec: &'a NestedSpec,
    pub(super) load: &'a LoadSpec,
    pub(super) vms: Vec<L2Vm>,
    inbox: Receiver<Event>,
    pub(super) observer: &'a mut dyn Observer,
    /// Longest gap since the last tick.
    pub(super) longest: Option<Gap>,
    pub(super) hit: Option<ThresholdHit>,
    pub(super) next_word: Instant,
}

impl<'a> L2Vms<'a> {
    pub(super) fn new(
        spec: &'a NestedSpec,
        load: &'a LoadSpec,
        context: &'a WorkloadContext,
        images: Images,
        observer: &'a mut dyn Observer,
    ) -> Result<(Self, Starter<'a>), NestedError> {
        let began = Instant::now();
        let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
        let spread =
            if spec.boot_confined { load.cpus.clone() } else { online()?.iter().collect() };
        let next_word = began + SECOND;
        let vms = Self {
            spec,
            load,
            vms: Vec::new(),
            inbox,
            observer,
            longest: None,
            hit: None,
            next_word,
        };
        Ok((vms, Starter { context, images, spread, events, began }))
    }

    /// Starts VMs as long as fewer than so many are on their way. One that has not come further
    /// for its part of the time does not hold up the others.
    pub(super) fn launch_due(&mut self, starter: &Starter) -> Result<(), NestedError> {
        let all = self.load.groups.len();
        let at_once = (self.spec.boot_at_once as usize).clamp(1, all.max(1));
        let turns = u32::try_from(all.div_ceil(at_once)).unwrap_or(u32::MAX).max(1);
        let timeout = match self.spec.boot_timeout {
            Some(all) => all / turns,
            None => self.spec.boot_stall / STALLS_PER_TURN,
        };
        while self.vms.len() < all {
            let fixed = self.spec.boot_timeout.is_some();
            let booting = self.vms.iter().filter(|vm| vm.holds_up(fixed, timeout));
            if booting.count() >= at_once {
                return Ok(());
            }
            let number = u32::try_from(self.vms.len() + 1).unwrap_or(u32::MAX);
            self.vms.push(starter.start(number, self.spec)?);
            let pids: Vec<_> = self.vms.iter().map(|vm| vm.status.pid).collect();
            self.observer.processes(&pids);
        }
        Ok(())
    }

    /// Looks how far those have come that are not ready yet; the others leave them the CPUs.
    pub(super) fn look_after(&mut self) {
        for vm in self.vms.iter_mut().filter(|vm| vm.is_healthy()) {
            if vm.status.phase < VmPhase::Ready {
                vm.progress.look(vm.status.pid);
            } else {
                vm.stand_by();
            }
        }
    }

    /// All have come: nobody leaves anything to others any more.
    pub(super) fn release(&mut self) -> Result<(), NestedError> {
        for vm in &mut self.vms {
            let number = vm.status.vm;
            vm.release().map_err(|source| NestedError::Release { vm: number, source })?;
        }
        Ok(())
    }

    /// Takes what the VMs say for one poll interval, or less. True if a second has passed.
    pub(super) fn take_messages(&mut self) -> Result<bool, NestedError> {
        match self.inbox.recv_timeout(POLL_INTERVAL) {
            Ok((index, bytes)) => self.take_bytes(index, bytes)?,
            // All readers are gone: every VM has ended.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL_INTERVAL),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        let passed = now >= self.next_word;
        if passed {
            self.next_word = now + SECOND;
        }
        Ok(passed)
    }

    fn take_bytes(&mut self, index: usize, bytes: Option<Vec<u8>>) -> Result<(), NestedError> {
        let Some(vm) = self.vms.get_mut(index) else { return Ok(()) };
        let number = vm.status.vm;
        let first = (number - 1) * self.spec.vcpus;
        let events = match bytes {
            Some(bytes) => vm.take_bytes(&bytes),
            None => {
                vm.gone();
                vec![VmEvent::Changed]
            }
        };
        if events.contains(&VmEvent::Changed) {
            self.observer.vm(&vm.status)?;
        }
        for event in events {
            match event {
                VmEvent::Changed => {}
                VmEvent::Console(bytes) => self.observer.vm_console(number, &bytes)?,
                VmEvent::Gaps(vcpu, records) => self.observer.gaps(first + vcpu, &records)?,
                VmEvent::Line(mut line) => {
                    if let Some(gap) = &mut line.gap {
                        gap.gap.thread += first;
                    }
                    self.observer.vm_line(number, line)?;
                }
                VmEvent::Tick(tick) => {
                    let longest = tick.longest.filter(|gap| gap.thread < self.spec.vcpus);
                    let longest = longest.map(|gap| Gap { thread: gap.thread + first, ..gap });
                    self.longest = self
                        .longest
                        .into_iter()
                        .chain(longest)
                        .max_by_key(|gap| gap.record.ticks());
                }
                VmEvent::Hit(hit) => {
                    let thread = vm.status.threads.get(hit.gap.thread as usize);
                    let gap = Gap { thread: hit.gap.thread + first, ..hit.gap };
                    let tid = thread.map_or(0, |thread| thread.tid);
                    self.hit.get_or_insert(ThresholdHit { tid, gap });
                }
            }
        }
        Ok(())
    }

    pub(super) fn send_to_all(&mut self, command: &LauncherCommand) {
        self.vms.iter_mut().filter(|vm| vm.is_running()).for_each(|vm| {
            vm.send(command);
        });
    }

    /// An error if nobody is left, with what became of the first one.
    pub(super) fn check_any(&self) -> Result<(), NestedError> {
        if self.vms.iter().any(L2Vm::is_healthy) {
            return Ok(());
        }
        let first = self.vms.iter().find_map(|vm| vm.status.fault.clone());
        Err(NestedError::NoneUp(first.unwrap_or_else(|| "all were ended".into())))
    }

    /// Gives up on VMs that are late, and tells why.
    pub(super) fn give_up(
        &mut self,
        late: impl Fn(&L2Vm) -> bool,
        why: &str,
    ) -> Result<(), NestedError> {
        for vm in self.vms.iter_mut().filter(|vm| vm.is_healthy()) {
            if late(vm) {
                vm.fault(VmFault::TimedOut, why);
                vm.send(&LauncherCommand::End);
                self.observer.vm(&vm.status)?;
            }
        }
        Ok(())
    }

    /// Waits until no VM lives that is `ending`, and kills those that take too long.
    pub(super) fn wait_for_exit(
        &mut self,
        ending: impl Fn(&L2Vm) -> bool,
        what: &str,
    ) -> Result<(), NestedError> {
        let deadline = Instant::now() + ENDED;
        while self.vms.iter().any(|vm| vm.is_running() && ending(vm)) {
            if Instant::now() >= deadline {
                self.vms.iter_mut().filter(|vm| vm.is_running() && ending(vm)).for_each(L2Vm::kill);
            }
            if self.take_messages()? {
                self.observer.waiting(what)?;
            }
        }
        Ok(())
    }
}
