// SPDX-License-Identifier: Apache-2.0
//! All virtual machines together: launched by turns, heard, ordered, given up, waited for.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use protocol::job::{LoadSpec, NestedSpec};
use protocol::launcher::Order;
use protocol::message::{Gap, ThresholdHit};
use protocol::vm::VmPhase;
use workload::context::Surroundings;
use workload::observer::Observer;

use super::image::Images;
use super::machine::{Event, Machine, Said};
use super::maker::Maker;
use super::{NestedError, online};

/// Between two looks at the clock.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Between two words to the host, and two ticks of the measurement.
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// From the order to end to a launcher's end.
const ENDED: Duration = Duration::from_secs(15);
/// A machine that comes no further is given up after a time; it holds up others for a fifth of it.
const STALLS_PER_TURN: u32 = 5;
/// Pieces on their way to the main thread; beyond, launchers wait.
const EVENTS_IN_FLIGHT: usize = 64;

/// All machines.
pub(super) struct Fleet<'a> {
    pub(super) spec: &'a NestedSpec,
    pub(super) load: &'a LoadSpec,
    pub(super) machines: Vec<Machine>,
    inbox: Receiver<Event>,
    pub(super) observer: &'a mut dyn Observer,
    /// Longest gap since the last tick.
    pub(super) longest: Option<Gap>,
    pub(super) hit: Option<ThresholdHit>,
    pub(super) next_word: Instant,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(
        (spec, load): (&'a NestedSpec, &'a LoadSpec),
        surroundings: &'a Surroundings,
        images: Images,
        observer: &'a mut dyn Observer,
    ) -> Result<(Self, Maker<'a>), NestedError> {
        let began = Instant::now();
        let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
        let spread =
            if spec.boot_confined { load.cpus.clone() } else { online()?.iter().collect() };
        let next_word = began + SECOND;
        let fleet = Self {
            spec,
            load,
            machines: Vec::new(),
            inbox,
            observer,
            longest: None,
            hit: None,
            next_word,
        };
        Ok((fleet, Maker { surroundings, images, spread, events, began }))
    }

    /// Starts machines as long as fewer than so many are on their way. One that has not come further
    /// for its part of the time does not hold up the others.
    pub(super) fn launch_due(&mut self, maker: &Maker) -> Result<(), NestedError> {
        let all = self.load.groups.len();
        let at_once = (self.spec.boot_at_once as usize).clamp(1, all.max(1));
        let turns = u32::try_from(all.div_ceil(at_once)).unwrap_or(u32::MAX).max(1);
        let patience = match self.spec.boot_timeout {
            Some(all) => all / turns,
            None => self.spec.boot_stall / STALLS_PER_TURN,
        };
        while self.machines.len() < all {
            let fixed = self.spec.boot_timeout.is_some();
            let booting = self.machines.iter().filter(|machine| machine.holds_up(fixed, patience));
            if booting.count() >= at_once {
                return Ok(());
            }
            let vm = u32::try_from(self.machines.len() + 1).unwrap_or(u32::MAX);
            self.machines.push(maker.make(vm, self.spec)?);
            let pids: Vec<_> = self.machines.iter().map(|machine| machine.status.pid).collect();
            self.observer.processes(&pids);
        }
        Ok(())
    }

    /// Looks how far those have come that do not stand ready yet.
    pub(super) fn look_after(&mut self) {
        for machine in self.machines.iter_mut().filter(|machine| machine.is_well()) {
            if machine.status.phase < VmPhase::Standing {
                machine.progress.look(machine.status.pid);
            }
        }
    }

    /// Takes what the machines say for one beat, or less. True if a second has passed.
    pub(super) fn beat(&mut self) -> Result<bool, NestedError> {
        match self.inbox.recv_timeout(POLL_INTERVAL) {
            Ok((index, bytes)) => self.hear(index, bytes)?,
            // All ears are gone: every machine has ended.
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

    fn hear(&mut self, index: usize, bytes: Option<Vec<u8>>) -> Result<(), NestedError> {
        let Some(machine) = self.machines.get_mut(index) else { return Ok(()) };
        let vm = machine.status.vm;
        let first = (vm - 1) * self.spec.vcpus;
        let said = match bytes {
            Some(bytes) => machine.hear(&bytes),
            None => {
                machine.gone();
                vec![Said::Changed]
            }
        };
        if said.contains(&Said::Changed) {
            self.observer.vm(&machine.status)?;
        }
        for said in said {
            match said {
                Said::Changed => {}
                Said::Console(bytes) => self.observer.vm_console(vm, &bytes)?,
                Said::Gaps(vcpu, records) => self.observer.gaps(first + vcpu, &records)?,
                Said::Line(mut line) => {
                    if let Some(gap) = &mut line.gap {
                        gap.gap.thread += first;
                    }
                    self.observer.vm_line(vm, line)?;
                }
                Said::Tick(tick) => {
                    let longest = tick.longest.filter(|gap| gap.thread < self.spec.vcpus);
                    let longest = longest.map(|gap| Gap { thread: gap.thread + first, ..gap });
                    self.longest = self
                        .longest
                        .into_iter()
                        .chain(longest)
                        .max_by_key(|gap| gap.record.ticks());
                }
                Said::Hit(hit) => {
                    let thread = machine.status.threads.get(hit.gap.thread as usize);
                    let gap = Gap { thread: hit.gap.thread + first, ..hit.gap };
                    let tid = thread.map_or(0, |thread| thread.tid);
                    self.hit.get_or_insert(ThresholdHit { tid, gap });
                }
            }
        }
        Ok(())
    }

    pub(super) fn order_all(&mut self, order: &Order) {
        self.machines.iter_mut().filter(|machine| machine.lives()).for_each(|machine| {
            machine.order(order);
        });
    }

    /// An error if nobody is left, with what became of the first one.
    pub(super) fn check_any(&self) -> Result<(), NestedError> {
        if self.machines.iter().any(Machine::is_well) {
            return Ok(());
        }
        let first = self.machines.iter().find_map(|machine| machine.status.fault.clone());
        Err(NestedError::NoneUp(first.unwrap_or_else(|| "all were ended".into())))
    }

    /// Gives up on machines that are late, and tells why.
    pub(super) fn give_up(
        &mut self,
        late: impl Fn(&Machine) -> bool,
        why: &str,
    ) -> Result<(), NestedError> {
        for machine in self.machines.iter_mut().filter(|machine| machine.is_well()) {
            if late(machine) {
                machine.fault(why);
                machine.order(&Order::End);
                self.observer.vm(&machine.status)?;
            }
        }
        Ok(())
    }

    /// Waits until no machine lives that is `ending`, and kills those that take too long.
    pub(super) fn let_go(
        &mut self,
        ending: impl Fn(&Machine) -> bool,
        what: &str,
    ) -> Result<(), NestedError> {
        let deadline = Instant::now() + ENDED;
        while self.machines.iter().any(|machine| machine.lives() && ending(machine)) {
            if Instant::now() >= deadline {
                self.machines
                    .iter_mut()
                    .filter(|machine| machine.lives() && ending(machine))
                    .for_each(Machine::kill);
            }
            if self.beat()? {
                self.observer.waiting(what)?;
            }
        }
        Ok(())
    }
}
