// SPDX-License-Identifier: Apache-2.0
//! What the guest has said so far, and what the run waits for next. No clock and no file of
//! its own: the caller passes the time in, so that every course of events can be tested.

use std::time::{Duration, Instant};

use gaps::record::GapRecord;
use gaps::span::Span;
use protocol::frame::{Decoder, FrameError};
use protocol::index::GroupIndex;
use protocol::message::{
    Failure, Frame, Gap, Hello, Message, MeterLine, Setup, ThresholdHit, Tick, TraceProgress,
};
use protocol::report::LoadReport;
use protocol::vm::{VmStatus, VmTimes};
use results::model::{Phase, Stage};
use thiserror::Error;

use crate::doubt::Noise;

/// From PID 1's first word to the start of the load: a little more than the agent itself
/// waits for its threads, because it can name those that are missing.
const SETUP_DEADLINE: Duration = Duration::from_secs(75);
/// The agent speaks once a second while the load runs. At the end it waits up to ten seconds
/// for threads that do not end, and can name them: so a little more than that.
const HEARTBEAT_DEADLINE: Duration = Duration::from_secs(20);
/// After the load: the longest silence while results and the trace come out.
const FINISH_DEADLINE: Duration = Duration::from_secs(15);
/// From the agent's last word to the power-off.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(10);
/// What those take at most without a sign of life.
pub const QUIET_STAGES: Duration = SETUP_DEADLINE
    .saturating_add(HEARTBEAT_DEADLINE)
    .saturating_add(FINISH_DEADLINE)
    .saturating_add(POWER_OFF_DEADLINE);
/// Seconds of which the longest gap is kept: more than the longest run has.
const MAX_TICKS: usize = 100_000;
/// From the request to end early to the results.
pub const GRACE: Duration = Duration::from_secs(5);

/// What was missing when a stage ran out of time.
pub fn waited_for(stage: Stage) -> &'static str {
    match stage {
        Stage::Boot => "PID 1 to say that it is alive",
        Stage::Setup => "the load to start",
        Stage::Run => "the agent's sign of life, due every second",
        Stage::Finish => "the results or the trace",
        Stage::PowerOff => "the guest to power off",
    }
}

/// What is worth showing at once.
#[derive(Debug)]
pub enum Notice {
    /// PID 1 is alive.
    Alive,
    /// The load has started.
    Started,
    /// A second has passed.
    Second(Tick),
    /// A line of the kernel's own meter, and of which virtual machine.
    Line(Option<u32>, MeterLine),
    /// There is still no load; what is waited for.
    Waiting(String),
    /// A virtual machine has come further.
    Vm(Box<VmStatus>),
    /// A virtual machine's console.
    VmConsole(u32, Vec<u8>),
    /// A gap passed the threshold.
    Hit(ThresholdHit),
    /// Tracing has stopped; the guest waits to hear whether its memory can be read.
    TraceInMemory,
    /// The trace is coming; about so many bytes.
    TraceComing(u64),
}

/// Why nothing that the guest says can be trusted any more.
#[derive(Debug, Error)]
pub enum SessionError {
    /// It does not speak our language.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It speaks of a thread that is not there.
    #[error("a message about thread {number} of a load of {threads}")]
    Thread {
        /// Counted over all groups, from 1.
        number: u64,
        /// How many there are.
        threads: usize,
    },
    /// Time went back.
    #[error("a gap that ended before it began, at tick {0}")]
    Backwards(u64),
}

/// Bounds on what the guest may make us keep.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads of the load.
    pub threads: usize,
    /// Gap records per thread.
    pub records_per_thread: usize,
    /// Time from start to PID 1.
    pub boot: Duration,
    /// Virtual machines of the nested target.
    pub vms: u32,
    /// True if one of them may fail.
    pub allow_degraded: bool,
}

/// All the guest has said.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    decoder: Decoder,
    stage: Stage,
    last_progress: Instant,
    /// When each stage was entered, the first one at the start.
    pub entered: Vec<(Stage, Instant)>,
    /// The kernel's introduction.
    pub hello: Option<Hello>,
    /// What was prepared.
    pub setup: Option<Setup>,
    /// Longest gaps of each second.
    pub ticks: Vec<Tick>,
    /// Gap records of each thread.
    pub gaps: Vec<Vec<GapRecord>>,
    /// When each thread wanted to run.
    pub demand: Vec<Vec<Span>>,
    /// The gap that ended the run.
    pub hit: Option<ThresholdHit>,
    /// Results of the load.
    pub report: Option<LoadReport>,
    /// Why the agent gave up.
    pub failure: Option<Failure>,
    /// Length of the trace as the agent counted it.
    pub trace_bytes: Option<u64>,
    /// Virtual machines of the nested target, as far as they are known.
    pub vms: Vec<VmStatus>,
    /// True if the agent had its last word.
    pub bye: bool,
    /// Why what was measured says nothing of the kernel.
    pub invalid: Vec<String>,
    /// What the host can have taken of gaps.
    pub host_parts: HostParts,
}

/// So many gaps are known by what the host took of them. A run has some dozens.
const MAX_HOST_PARTS: usize = 4096;

/// What the host took of a gap, or makes it longer by, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTime {
    /// So much is told, as a bound.
    pub known: u64,
    /// It cannot be more than this; `None` where nobody knows.
    pub most: Option<u64>,
}

/// The same with the gap that it is of.
#[derive(Clone, Copy, Debug)]
pub struct HostPart {
    /// Whose gap it is.
    pub thread: usize,
    /// As the guest has it: the class is its own.
    pub gap: GapRecord,
    /// `None` where it has not been asked for yet.
    pub time: Option<HostTime>,
}

/// The same of gaps over the threshold, and of the longest ones, in the order of their begins.
#[derive(Clone, Debug, Default)]
pub struct HostParts(Vec<HostPart>);

impl HostParts {
    /// Keeps what it took of this gap, as far as there is room. What is there stays: it is of the gap
    /// as the guest has it.
    pub fn insert(&mut self, part: HostPart) {
        let Err(at) = self.place(part.thread, &part.gap) else { return };
        if self.0.len() < MAX_HOST_PARTS {
            self.0.insert(at, part);
        }
    }

    /// What it took of this gap, as far as that is known.
    pub fn of(&self, thread: usize, gap: &GapRecord) -> HostTime {
        let part = self.place(thread, gap).ok().and_then(|at| self.0.get(at));
        part.and_then(|part| part.time).unwrap_or_default()
    }

    /// All of them.
    pub fn each(&mut self) -> impl Iterator<Item = &mut HostPart> {
        self.0.iter_mut()
    }

    fn place(&self, thread: usize, gap: &GapRecord) -> Result<usize, usize> {
        let wanted = (gap.tsc_begin, gap.tsc_end, thread);
        self.0.binary_search_by_key(&wanted, |it| (it.gap.tsc_begin, it.gap.tsc_end, it.thread))
    }
}

impl Session {
    /// What was lost without a load.
    pub fn noise(&self) -> Noise<'_> {
        let before = self.setup.as_ref().and_then(|setup| setup.noise.as_ref());
        let after = self.report.as_ref().and_then(|report| report.noise_after.as_ref());
        Noise { before, after }
    }

    /// A run that starts now.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            decoder: Decoder::default(),
            stage: Stage::Boot,
            last_progress: now,
            entered: vec![(Stage::Boot, now)],
            hello: None,
            setup: None,
            ticks: Vec::new(),
            gaps: vec![Vec::new(); limits.threads],
            demand: vec![Vec::new(); limits.threads],
            hit: None,
            report: None,
            failure: None,
            trace_bytes: None,
            vms: (1..=limits.vms).map(|vm| VmStatus { vm, ..VmStatus::default() }).collect(),
            bye: false,
            invalid: Vec::new(),
            host_parts: HostParts::default(),
        }
    }

    /// What the run waits for.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// When waiting for it becomes a failure.
    pub fn deadline(&self) -> Instant {
        let timeout = match self.stage {
            Stage::Boot => self.limits.boot,
            Stage::Setup => SETUP_DEADLINE,
            Stage::Run => HEARTBEAT_DEADLINE,
            Stage::Finish => FINISH_DEADLINE,
            Stage::PowerOff => POWER_OFF_DEADLINE,
        };
        self.last_progress + timeout
    }

    /// Something moved that is no message: bytes of the trace arrived.
    pub fn progressed(&mut self, now: Instant) {
        self.last_progress = now;
    }

    /// Takes bytes from the control port.
    ///
    /// # Errors
    /// The guest does not speak our language, or says what cannot be; nothing after that can be
    /// trusted.
    pub fn take(&mut self, bytes: &[u8], now: Instant) -> Result<Vec<Notice>, SessionError> {
        self.decoder.push(bytes);
        let mut notices = Vec::new();
        while let Some(frame) = self.decoder.next_frame()? {
            self.check(&frame)?;
            match frame {
                Frame::Message(message) => notices.extend(self.message(message, now)),
                Frame::Gaps { thread, records } => self.keep(thread, &records),
                Frame::Demand { thread, spans } => self.keep_demand(thread, &spans),
                Frame::VmConsole { vm, bytes } if self.vm(vm).is_some() => {
                    notices.push(Notice::VmConsole(vm, bytes));
                }
                Frame::VmConsole { .. } => {}
            }
            self.last_progress = now;
        }
        Ok(notices)
    }

    /// Whether what is said can be: everything else here takes it for granted.
    fn check(&self, frame: &Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Gaps { thread, records } => {
                check_records(*thread as usize, records, self.limits.threads)
            }
            Frame::Message(Message::Tick(tick)) => {
                tick.longest.iter().try_for_each(|gap| check_gap(gap, self.limits.threads))
            }
            Frame::Message(Message::ThresholdHit(hit)) => check_gap(&hit.gap, self.limits.threads),
            Frame::Message(Message::Finished(report)) => {
                let mut threads = report.threads.iter().enumerate();
                threads.try_for_each(|(n, thread)| {
                    check_records(n, thread.longest.as_slice(), self.limits.threads)
                })
            }
            // What cannot be is not kept: no figure is taken from a part of them.
            Frame::Message(_) | Frame::Demand { .. } | Frame::VmConsole { .. } => Ok(()),
        }
    }

    /// Keeps gap records, as many as was agreed.
    pub fn keep(&mut self, thread: u32, records: &[GapRecord]) {
        if let Some(kept) = self.gaps.get_mut(thread as usize) {
            let room = self.limits.records_per_thread.saturating_sub(kept.len());
            kept.extend_from_slice(&records[..records.len().min(room)]);
        }
    }

    /// Keeps when a thread wanted to run, as far as these can be and there is room.
    pub fn keep_demand(&mut self, thread: u32, spans: &[Span]) {
        /// As many as a load has room for.
        const MAX_SPANS: usize = 1 << 20;
        let room = MAX_SPANS.saturating_sub(self.demand.iter().map(Vec::len).sum());
        if let Some(kept) = self.demand.get_mut(thread as usize) {
            for span in spans.iter().take(room) {
                // A planned moment is known to some nanoseconds, and one may begin as another ends.
                let begin = kept.last().map_or(0, |last| last.end).max(span.begin);
                if begin <= span.end {
                    kept.push(Span { begin, end: span.end });
                }
            }
        }
    }

    /// Takes one message.
    pub fn message(&mut self, message: Message, now: Instant) -> Option<Notice> {
        match message {
            Message::Hello(hello) => {
                self.hello = Some(hello);
                self.enter(Stage::Setup, now);
                Some(Notice::Alive)
            }
            Message::Ready(setup) => {
                self.setup = Some(setup);
                self.enter(Stage::Run, now);
                Some(Notice::Started)
            }
            Message::Tick(tick) => {
                if self.ticks.len() < MAX_TICKS {
                    self.ticks.push(tick);
                }
                Some(Notice::Second(tick))
            }
            Message::Line(line) => Some(Notice::Line(None, line)),
            Message::VmLine { vm, line } => {
                self.vm(vm).is_some().then_some(Notice::Line(Some(vm), line))
            }
            Message::Waiting { for_what } => Some(Notice::Waiting(for_what)),
            Message::Vm(status) => {
                let kept = self.vm(status.vm)?;
                *kept = *status;
                Some(Notice::Vm(Box::new(kept.clone())))
            }
            // What a guest among many tells its launcher.
            Message::Prepared | Message::Going { .. } => None,
            Message::ThresholdHit(hit) => {
                self.hit = Some(hit);
                self.enter(Stage::Finish, now);
                Some(Notice::Hit(hit))
            }
            Message::Finished(report) => {
                self.report = Some(report);
                self.enter(Stage::Finish, now);
                None
            }
            Message::Trace(TraceProgress::InMemory) => Some(Notice::TraceInMemory),
            Message::Trace(TraceProgress::Begin { estimate_bytes }) => {
                Some(Notice::TraceComing(estimate_bytes))
            }
            Message::Trace(TraceProgress::End { bytes }) => {
                self.trace_bytes = Some(bytes);
                None
            }
            Message::Failed(failure) => {
                self.failure = Some(failure);
                self.enter(Stage::PowerOff, now);
                None
            }
            Message::Bye => {
                self.bye = true;
                self.enter(Stage::PowerOff, now);
                None
            }
        }
    }

    /// What a reader of the figures must know when the load begins, wherever it runs.
    pub fn notes_at_start(&self) -> Vec<String> {
        self.setup.as_ref().map(Setup::notes_at_start).unwrap_or_default()
    }

    fn vm(&mut self, vm: u32) -> Option<&mut VmStatus> {
        self.vms.get_mut(vm.checked_sub(1)? as usize)
    }

    /// When the nested target came how far, in milliseconds since the agent began with its
    /// machines: `l2_first_up` and `l2_all_up` (PID 1), `l2_ready`, `l2_confined`,
    /// `l2_first_record` and `l2_all_recorded`; what never came is left out.
    pub fn vm_phases_ms(&self) -> Vec<(Phase, u64)> {
        let phases = [
            (Phase::L2FirstUp, earliest(&self.vms, |times| times.up_ns)),
            (Phase::L2AllUp, latest(&self.vms, |times| times.up_ns)),
            (Phase::L2Ready, latest(&self.vms, |times| times.ready_ns)),
            (Phase::L2Confined, latest(&self.vms, |times| times.confined_ns)),
            (Phase::L2FirstRecord, earliest(&self.vms, |times| times.first_record_ns)),
            (Phase::L2AllRecorded, latest(&self.vms, |times| times.first_record_ns)),
        ];
        phases.into_iter().filter_map(|(phase, ns)| Some((phase, ns? / 1_000_000))).collect()
    }

    /// True if a group, of which the report tells, has itself told what it says.
    pub fn has_reported(&self, group: GroupIndex) -> bool {
        self.vms.get(group.index()).is_none_or(|vm| vm.fault.is_none())
    }

    /// What is wrong with virtual machines, of which the others measured all the same.
    pub fn degraded(&self) -> Option<String> {
        let faults: Vec<_> = self
            .vms
            .iter()
            .filter_map(|vm| Some(format!("VM {} {}", vm.vm, vm.fault.as_ref()?)))
            .collect();
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// The same, where it makes the run fail.
    pub fn unacceptable(&self) -> Option<String> {
        self.degraded().filter(|_| !self.limits.allow_degraded)
    }

    /// Stages only ever go forward.
    fn enter(&mut self, stage: Stage, now: Instant) {
        if (stage as u8) > (self.stage as u8) {
            self.stage = stage;
            self.entered.push((stage, now));
        }
    }
}

/// Times of the machines without a fault.
fn times(vms: &[VmStatus]) -> impl Iterator<Item = VmTimes> {
    vms.iter().filter(|vm| vm.fault.is_none()).map(|vm| vm.times)
}

/// When the first machine came that far.
fn earliest(vms: &[VmStatus], of: fn(VmTimes) -> Option<u64>) -> Option<u64> {
    times(vms).filter_map(of).min()
}

/// When the last machine came that far, if all did.
fn latest(vms: &[VmStatus], of: fn(VmTimes) -> Option<u64>) -> Option<u64> {
    times(vms).map(of).collect::<Option<Vec<_>>>()?.into_iter().max()
}

fn check_records(thread: usize, records: &[GapRecord], threads: usize) -> Result<(), SessionError> {
    if thread >= threads {
        return Err(SessionError::Thread { number: thread as u64 + 1, threads });
    }
    let wrong = records.iter().find(|record| !record.is_possible());
    wrong.map_or(Ok(()), |record| Err(SessionError::Backwards(record.tsc_begin)))
}

fn check_gap(gap: &Gap, threads: usize) -> Result<(), SessionError> {
    check_records(gap.thread as usize, &[gap.record], threads)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
