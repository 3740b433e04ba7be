// SPDX-License-Identifier: Apache-2.0
//! All virtual machines together: booted, confined at a barrier, measured, ended.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use gaps::{
    bench,
    tsc::{self, Anchor, Choice, Sources, ticks_to_ns},
};

use super::{
    NestedError,
    image::Images,
    link::Order,
    machine::{Event, Machine, Said},
    maker::Maker,
};
use crate::{
    cpus::CpuSet,
    job::{Confine, LoadSpec, NestedSpec},
    load::{self, LoadError, Observer, Outcome, Prepared, Surroundings},
    system,
    wire::{Gap, LoadReport, MeterReport, ThreadReport, ThresholdHit, Tick, TscReport, VmPhase},
};

/// Between two looks at the clock.
const BEAT: Duration = Duration::from_millis(50);
const SECOND: Duration = Duration::from_secs(1);
/// For all launchers to confine their threads and to read it back.
const CONFINED: Duration = Duration::from_secs(30);
/// From the order to stop to the last machine's end, reports included.
const FINISHED: Duration = Duration::from_secs(60);
/// From the order to end to a launcher's end.
const ENDED: Duration = Duration::from_secs(15);
/// Pieces on their way to the main thread; beyond, launchers wait.
const EVENTS_IN_FLIGHT: usize = 64;
/// Buckets of a histogram that a guest may make us hand on.
const MOST_BUCKETS: usize = 4096;

/// Boots the machines and measures them; results and faults as those of [`load::run`].
///
/// # Errors
/// There was nothing to measure.
pub fn run(
    spec: &NestedSpec,
    load: &LoadSpec,
    surroundings: &Surroundings,
    observer: &mut dyn Observer,
) -> Result<Outcome, LoadError> {
    let mut sources = surroundings.tsc;
    let choice = load::tsc_frequency(&mut sources)?;
    let images = Images::prepare(&surroundings.executable, spec)?;
    let (mut fleet, maker) = Fleet::new((spec, load), surroundings, images, observer)?;
    fleet.until_standing(&maker)?;
    // Every launcher has mapped its images by now.
    drop(maker);
    fleet.confine()?;
    let prepared = fleet.prepared(choice, surroundings.cookie)?;
    fleet.observer.prepared(&prepared)?;
    let trace = surroundings.trace.as_ref().map(TraceFiles::open).transpose()?;
    let begin = Anchor::now();
    let measured = fleet.measure(choice, trace.as_ref())?;
    let sources = Sources { slope_khz: begin.slope_khz(&Anchor::now()), ..sources };
    fleet.finish()?;
    let tsc = TscReport {
        khz: choice.khz,
        source: choice.source,
        kvm_khz: sources.kvm_khz,
        cpuid_15_khz: sources.cpuid_15_khz,
        cpuid_40000010_khz: sources.cpuid_40000010_khz,
        slope_khz: sources.slope_khz,
        disagreement_ppm: sources.disagreement_ppm(choice.khz),
    };
    let report = fleet.report(measured, tsc);
    Ok(Outcome { report, fault: None })
}

/// Whether this kernel has KVM; makes the device node where the kernel has no devtmpfs.
///
/// # Errors
/// It has none, or none that can be opened.
pub fn require_kvm() -> Result<(), NestedError> {
    let node = Path::new("/dev/kvm");
    if !node.exists() {
        // 10:232 (Documentation/admin-guide/devices.txt); a failure shows in the opening.
        let _ = system::make_node(node, 10, 232);
    }
    File::options().read(true).write(true).open(node).map(drop).map_err(NestedError::NoKvm)
}

/// The trace to stop at a hit, opened beforehand.
struct TraceFiles {
    marker: File,
    switch: File,
}

impl TraceFiles {
    fn open(stop: &load::TraceStop) -> io::Result<Self> {
        Ok(Self {
            marker: system::open_for_writing(&stop.marker)?,
            switch: system::open_for_writing(&stop.switch)?,
        })
    }

    /// Failures leave the trace without its marker, or running: no reason to stop measuring.
    fn stop(&self, text: &str) {
        let _ = (&self.marker).write(text.as_bytes());
        let _ = (&self.switch).write(b"0");
    }
}

/// vCPU threads' host scheduling at two moments, by machine.
type Schedstats = Vec<Vec<Option<(u64, u64)>>>;

/// What is known when the measurement has ended.
struct Measured {
    tsc_end: u64,
    before: Schedstats,
    after: Schedstats,
}

/// All machines.
struct Fleet<'a> {
    spec: &'a NestedSpec,
    load: &'a LoadSpec,
    machines: Vec<Machine>,
    inbox: Receiver<Event>,
    observer: &'a mut dyn Observer,
    /// Longest gap since the last tick.
    longest: Option<Gap>,
    hit: Option<ThresholdHit>,
    next_word: Instant,
}

impl<'a> Fleet<'a> {
    fn new(
        (spec, load): (&'a NestedSpec, &'a LoadSpec),
        surroundings: &'a Surroundings,
        images: Images,
        observer: &'a mut dyn Observer,
    ) -> Result<(Self, Maker<'a>), LoadError> {
        let began = Instant::now();
        let (events, inbox) = mpsc::sync_channel(EVENTS_IN_FLIGHT);
        let spread =
            if spec.boot_confined { load.cpus.clone() } else { CpuSet::online()?.iter().collect() };
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

    /// Starts machines as long as fewer than so many are on their way. One that takes longer
    /// than its part of the time does not hold up the others.
    fn launch_due(&mut self, maker: &Maker) -> Result<(), LoadError> {
        let all = self.load.groups.len();
        let at_once = (self.spec.boot_at_once as usize).clamp(1, all.max(1));
        let turns = u32::try_from(all.div_ceil(at_once)).unwrap_or(u32::MAX).max(1);
        let patience = self.spec.boot_timeout / turns;
        while self.machines.len() < all {
            let on_the_way = |machine: &&Machine| {
                machine.is_well()
                    && machine.status.phase < VmPhase::Standing
                    && machine.launched.elapsed() < patience
            };
            if self.machines.iter().filter(on_the_way).count() >= at_once {
                return Ok(());
            }
            let vm = u32::try_from(self.machines.len() + 1).unwrap_or(u32::MAX);
            self.machines.push(maker.make(vm, self.spec)?);
            let pids: Vec<_> = self.machines.iter().map(|machine| machine.status.pid).collect();
            self.observer.processes(&pids);
        }
        Ok(())
    }

    /// Takes what the machines say for one beat, or less. True if a second has passed.
    fn beat(&mut self) -> Result<bool, LoadError> {
        match self.inbox.recv_timeout(BEAT) {
            Ok((index, bytes)) => self.hear(index, bytes)?,
            // All ears are gone: every machine has ended.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(BEAT),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = Instant::now();
        let passed = now >= self.next_word;
        if passed {
            self.next_word = now + SECOND;
        }
        Ok(passed)
    }

    fn hear(&mut self, index: usize, bytes: Option<Vec<u8>>) -> Result<(), LoadError> {
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

    fn order_all(&mut self, order: &Order) {
        self.machines.iter_mut().filter(|machine| machine.lives()).for_each(|machine| {
            machine.order(order);
        });
    }

    /// An error if nobody is left, with what became of the first one.
    fn check_any(&self) -> Result<(), LoadError> {
        if self.machines.iter().any(Machine::is_well) {
            return Ok(());
        }
        let first = self.machines.iter().find_map(|machine| machine.status.fault.clone());
        Err(NestedError::NoneUp(first.unwrap_or_else(|| "all were ended".into())).into())
    }

    /// Gives up on machines that are late, and tells why.
    fn give_up(&mut self, late: impl Fn(&Machine) -> bool, why: &str) -> Result<(), LoadError> {
        for machine in self.machines.iter_mut().filter(|machine| machine.is_well()) {
            if late(machine) {
                machine.fault(why);
                machine.order(&Order::End);
                self.observer.vm(&machine.status)?;
            }
        }
        Ok(())
    }

    fn until_standing(&mut self, maker: &Maker) -> Result<(), LoadError> {
        let deadline = Instant::now() + self.spec.boot_timeout;
        loop {
            self.launch_due(maker)?;
            let to_come = self.load.groups.len() > self.machines.len();
            let standing = |machine: &Machine| machine.status.phase >= VmPhase::Standing;
            let waiting =
                self.machines.iter().filter(|machine| machine.is_well() && !standing(machine));
            let names: Vec<_> = waiting.map(|machine| machine.status.vm.to_string()).collect();
            if !to_come {
                self.check_any()?;
                if names.is_empty() {
                    return Ok(());
                }
            }
            if self.observer.stop_requested() {
                return Err(
                    NestedError::NoneUp("told to stop before all stood ready".into()).into()
                );
            }
            if Instant::now() >= deadline {
                let patience = self.spec.boot_timeout;
                if to_come {
                    let text = format!("not all could be started within {patience:?}");
                    return Err(NestedError::NoneUp(text).into());
                }
                let text = format!("did not stand ready within {patience:?} (--l2-boot-timeout)");
                self.give_up(|machine| !standing(machine), &text)?;
                self.let_go()?;
                return self.check_any();
            }
            if self.beat()? {
                self.observer.waiting(&format!("VM {} to stand ready", names.join(", ")))?;
            }
        }
    }

    /// Waits for the end of those that were given up: they are not to disturb the others.
    fn let_go(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + ENDED;
        let ending = |machine: &Machine| machine.lives() && !machine.is_well();
        while self.machines.iter().any(ending) {
            if Instant::now() >= deadline {
                self.machines.iter_mut().filter(|machine| ending(machine)).for_each(Machine::kill);
            }
            if self.beat()? {
                self.observer.waiting("machines that were given up to end")?;
            }
        }
        Ok(())
    }

    /// The CPUs of each vCPU's thread while it is measured.
    fn places(&self) -> Vec<Vec<u32>> {
        let cpus = &self.load.cpus;
        let of = |vcpu: u32| match self.spec.confine {
            Confine::Core => cpus.clone(),
            Confine::Vcpu => vec![cpus[vcpu as usize % cpus.len()]],
        };
        (0..self.spec.vcpus).map(of).collect()
    }

    fn confine(&mut self) -> Result<(), LoadError> {
        let places = self.places();
        self.order_all(&Order::Confine { cpus: places.clone() });
        let deadline = Instant::now() + CONFINED;
        let loose =
            |machine: &Machine| machine.is_well() && machine.status.times.confined_ns.is_none();
        while self.machines.iter().any(loose) && Instant::now() < deadline {
            if self.beat()? {
                self.observer.waiting("vCPU threads to be confined")?;
            }
        }
        self.give_up(loose, &format!("was not confined within {CONFINED:?}"))?;
        self.check_any()?;
        let wanted: Vec<_> = places
            .iter()
            .map(|cpus| cpus.iter().copied().collect::<CpuSet>().to_string())
            .collect();
        for machine in self.machines.iter().filter(|machine| machine.is_well()) {
            let actual: Vec<_> =
                machine.status.threads.iter().map(|thread| &thread.affinity).collect();
            if !actual.iter().copied().eq(&wanted) {
                return Err(NestedError::Confine(format!(
                    "VM {}: vCPU threads were confined to {wanted:?}, but their affinity reads \
                     {actual:?}",
                    machine.status.vm
                ))
                .into());
            }
        }
        Ok(())
    }

    fn prepared(&self, choice: Choice, cookie: bool) -> Result<Prepared, LoadError> {
        let well = || self.machines.iter().filter(|machine| machine.is_well());
        if cookie {
            let each: Vec<Vec<u64>> = well()
                .map(|machine| machine.status.threads.iter().map(|thread| thread.cookie).collect())
                .collect();
            let firsts: Vec<_> =
                each.iter().map(|cookies| cookies.first().copied().unwrap_or(0)).collect();
            load::check_cookies(self.load, each.iter().map(Vec::as_slice), &firsts)?;
        }
        let mut notes = Vec::new();
        if well().any(|machine| !machine.status.tsc_shared) {
            notes.push(
                "the guests' TSC is not this machine's (KVM before Linux 5.16): gaps cannot be \
                 laid on its trace"
                    .into(),
            );
        }
        let first_cookie =
            |machine: &Machine| machine.status.threads.first().map_or(0, |thread| thread.cookie);
        let tids = |machine: &Machine| {
            machine.status.threads.iter().map(|thread| thread.tid).collect::<Vec<_>>()
        };
        let places = self.places();
        let affinity = (0..self.machines.len())
            .flat_map(|_| places.iter().map(|cpus| cpus.iter().copied().collect()));
        Ok(Prepared {
            cookies: self.machines.iter().map(first_cookie).collect(),
            tids: self.machines.iter().flat_map(tids).collect(),
            affinity: affinity.collect(),
            notes,
            tsc_khz: choice.khz,
            turn_ticks: bench::turn_ticks(),
        })
    }

    fn schedstats(&self) -> Schedstats {
        self.machines.iter().map(Machine::schedstats).collect()
    }

    /// From the order to start to the order to stop.
    fn measure(
        &mut self,
        choice: Choice,
        trace: Option<&TraceFiles>,
    ) -> Result<Measured, LoadError> {
        self.observer.released(tsc::read().tsc)?;
        let before = self.schedstats();
        self.order_all(&Order::Go);
        let begin = Instant::now();
        let deadline = begin + self.load.duration;
        self.next_word = begin + SECOND;
        let mut second = 0;
        loop {
            let passed = self.beat()?;
            if let Some(hit) = self.hit {
                if let Some(trace) = trace {
                    trace.stop(&self.marker(hit, choice));
                }
                break;
            }
            if passed {
                second += 1;
                self.tick(second)?;
            }
            let anyone = self.machines.iter().any(Machine::is_well);
            if Instant::now() >= deadline || self.observer.stop_requested() || !anyone {
                break;
            }
        }
        let measured = Measured { tsc_end: tsc::read().tsc, before, after: self.schedstats() };
        if let Some(hit) = self.hit {
            self.observer.hit(hit)?;
        }
        Ok(measured)
    }

    /// The same beginning as that of the load's, with the machine and its vCPU after it.
    fn marker(&self, hit: ThresholdHit, choice: Choice) -> String {
        let ns = ticks_to_ns(hit.gap.record.ticks(), choice.khz);
        let (thread, each) = (hit.gap.thread, self.spec.vcpus);
        let (vm, vcpu) = (thread / each + 1, thread % each);
        format!("schedvmm: gap of {ns} ns in thread {thread}: VM {vm} vCPU {vcpu} tid {}", hit.tid)
    }

    fn tick(&mut self, second: u32) -> Result<(), LoadError> {
        let measuring =
            |machine: &&Machine| machine.is_well() && machine.status.phase == VmPhase::Measuring;
        let machines = self.machines.iter().filter(measuring).count();
        let online = u32::try_from(machines).unwrap_or(u32::MAX) * self.spec.vcpus;
        Ok(self.observer.tick(Tick { second, online, longest: self.longest.take() })?)
    }

    /// Has all machines report and end.
    fn finish(&mut self) -> Result<(), LoadError> {
        self.order_all(&Order::Memory);
        self.order_all(&Order::Stop);
        // Nothing is measured any more: whoever reports may do it on all CPUs.
        let all: Vec<u32> = CpuSet::online()?.iter().collect();
        let cpus = (0..self.spec.vcpus).map(|_| all.clone()).collect();
        self.order_all(&Order::Confine { cpus });
        let deadline = Instant::now() + FINISHED;
        while self.machines.iter().any(Machine::lives) {
            if Instant::now() >= deadline {
                let text = format!("did not report within {FINISHED:?} of being told to stop");
                self.give_up(|machine| machine.report.is_none(), &text)?;
                self.order_all(&Order::End);
                // Whoever has reported is not to blame for its end.
                self.machines.iter_mut().filter(|it| it.report.is_some()).for_each(Machine::kill);
                return self.let_go_all();
            }
            if self.beat()? {
                self.observer.waiting("the machines to report and to end")?;
            }
        }
        Ok(())
    }

    fn let_go_all(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + ENDED;
        while self.machines.iter().any(Machine::lives) {
            if Instant::now() >= deadline {
                self.machines.iter_mut().for_each(Machine::kill);
            }
            if self.beat()? {
                self.observer.waiting("the machines to end")?;
            }
        }
        Ok(())
    }

    /// The machines' reports as one, by group and thread.
    fn report(&mut self, measured: Measured, tsc: TscReport) -> LoadReport {
        let each = self.spec.vcpus as usize;
        let mut threads = Vec::new();
        let mut meter: Option<MeterReport> = None;
        for (index, machine) in self.machines.iter_mut().enumerate() {
            let stats = |at: &Schedstats, n: usize| *at.get(index)?.get(n)?;
            let mut report = machine.report.take().unwrap_or_default();
            report.threads.resize_with(each, ThreadReport::default);
            if let Some(theirs) = report.meter.take() {
                add_meter(meter.get_or_insert_default(), theirs, (index * each, each));
            }
            for (n, mut thread) in report.threads.into_iter().enumerate() {
                let ran = stats(&measured.before, n).zip(stats(&measured.after, n));
                let ran = ran
                    .map(|(from, to)| (to.0.saturating_sub(from.0), to.1.saturating_sub(from.1)));
                if let Some(known) = machine.status.threads.get_mut(n) {
                    known.run_ns = ran.map(|(run, _)| run);
                    known.wait_ns = ran.map(|(_, wait)| wait);
                    thread.tid = known.tid;
                }
                thread.group = u32::try_from(index).unwrap_or(u32::MAX);
                thread.cpu_time_ns = ran.map_or(0, |(run, _)| run);
                thread.run_delay_ns = ran.map(|(_, wait)| wait);
                thread.gap_histogram_ns.truncate(MOST_BUCKETS);
                thread.wakeup_histogram_ns.truncate(MOST_BUCKETS);
                threads.push(thread);
            }
            // Best effort: a host that takes no status will not take the report either.
            let _ = self.observer.vm(&machine.status);
        }
        LoadReport { tsc_end: measured.tsc_end, tsc, threads, groups: Vec::new(), meter }
    }
}

/// Adds what a machine's meter left untold; its threads begin at `first`, and are so many.
fn add_meter(sum: &mut MeterReport, theirs: MeterReport, (first, count): (usize, usize)) {
    sum.lines = sum.lines.saturating_add(theirs.lines);
    sum.unread_lines = sum.unread_lines.saturating_add(theirs.unread_lines);
    sum.lost_events = sum.lost_events.saturating_add(theirs.lost_events);
    sum.unmeasured_gaps.resize(first, 0);
    sum.unmeasured_gaps.extend(theirs.unmeasured_gaps.into_iter().take(count));
}
