// SPDX-License-Identifier: Apache-2.0
//! One virtual machine as the agent knows it: its launcher's process, and what it has said.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use gaps::record::GapRecord;
use gaps::tsc;
use protocol::cmdline::Drift;
use protocol::frame::{Decoder, FrameError};
use protocol::group::Quota;
use protocol::launcher::{
    LAUNCH_COMMAND, LaunchSpec, LauncherCommand, LauncherMessage, Report, encode_launcher_command,
    is_plausible, next_launcher_message,
};
use protocol::message::{Frame, LineGap, Message, MeterLine, ThresholdHit, Tick};
use protocol::report::LoadReport;
use protocol::vm::{TscCheck, VmFault, VmPhase, VmStatus};
use workload::kernel::cgroup::PassingQuota;
use workload::kernel::{affinity, files, process};

use super::progress::Progress;

/// Longest time for a launcher to read a command; it has nothing else to do.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes taken from a launcher at once.
const PIECE_BYTES: usize = 64 << 10;
/// Longest text of a fault, or of a dump of registers, that is kept.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// What a VM has that is ready while others boot. A guest that has nothing to do still wakes
/// several times a second, for its kernel's own timers. In emulated virtualization each of its
/// exits costs milliseconds: those that are ready take a whole CPU together, and a tick takes
/// those that boot last longer than the next one is away, so that they come no further. An idle
/// guest elsewhere does not notice the quota.
const STANDBY: Quota = Quota { time: Duration::from_millis(2), period: Duration::from_millis(100) };

/// Events of the agent's main thread: bytes of a VM by its index, or its end.
pub type Event = (usize, Option<Vec<u8>>);

/// What a VM has said that is not its own status.
#[derive(Debug, PartialEq)]
pub enum VmEvent {
    /// Records of one of its vCPUs.
    Gaps(u32, Vec<GapRecord>),
    /// A line of its meter.
    Line(MeterLine),
    /// A second of it.
    Tick(Tick),
    /// A gap over the threshold.
    Hit(ThresholdHit),
    /// Its console.
    Console(Vec<u8>),
    /// It has come further.
    Changed,
}

/// A VM.
#[derive(Debug)]
pub struct L2Vm {
    /// Facts about it.
    pub status: VmStatus,
    /// Its measurements.
    pub report: Option<LoadReport>,
    /// How far it has come.
    pub progress: Progress,
    /// When its launcher was started.
    pub launched: Instant,
    vcpus: u32,
    cmdline: String,
    cgroups: Vec<PathBuf>,
    /// Where the kernel has no quotas, it waits like any other process.
    standby: Option<PassingQuota>,
    began: Instant,
    child: Child,
    link: UnixStream,
    launcher: Decoder,
    guest: Decoder,
    go_tsc: u64,
    /// When its meter began.
    start_tsc: u64,
}

impl L2Vm {
    /// Starts its launcher, puts it into its cgroups, and listens to it.
    pub fn launch(
        executable: &std::path::Path,
        spec: &LaunchSpec,
        cgroups: &[PathBuf],
        began: Instant,
        events: SyncSender<Event>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(COMMAND_TIMEOUT))?;
        let spec_text = serde_json::to_string(spec).map_err(io::Error::other)?;
        let mut command = Command::new(executable);
        command.arg(LAUNCH_COMMAND).arg(spec_text).stdin(Stdio::from(OwnedFd::from(theirs)));
        let mut child = command.spawn()?;
        for procs in cgroups {
            if let Err(error) = files::write_file(procs, &child.id().to_string()) {
                let _ = child.kill();
                let _ = child.wait();
                let text = format!("{} cannot be entered: {error}", procs.display());
                return Err(io::Error::other(text));
            }
        }
        let index = spec.vm.saturating_sub(1) as usize;
        let mut reader = ours.try_clone()?;
        thread::Builder::new().name(format!("vm{}-reader", spec.vm)).spawn(move || {
            let mut bytes = vec![0; PIECE_BYTES];
            // Nobody listens any more once the run has ended.
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                if events.send((index, Some(bytes[..length].to_vec()))).is_err() {
                    return;
                }
            }
            let _ = events.send((index, None));
        })?;
        Ok(Self {
            status: VmStatus { vm: spec.vm, pid: child.id(), ..VmStatus::default() },
            report: None,
            progress: Progress::new(),
            launched: Instant::now(),
            vcpus: spec.cpus,
            cmdline: spec.cmdline.clone(),
            cgroups: cgroups.to_vec(),
            standby: None,
            began,
            child,
            link: ours,
            launcher: Decoder::default(),
            guest: Decoder::default(),
            go_tsc: 0,
            start_tsc: 0,
        })
    }

    /// It waits for others, which shall have the CPUs.
    pub fn stand_by(&mut self) {
        if self.standby.is_none() {
            self.standby = PassingQuota::begin(&self.cgroups, STANDBY);
        }
    }

    /// It waits no more.
    ///
    /// # Errors
    /// It would be measured with less CPU time than it is due.
    pub fn release(&mut self) -> io::Result<()> {
        self.standby.take().map_or(Ok(()), PassingQuota::end)
    }

    /// Sends a command. One that does not arrive shows in the launcher's end.
    pub fn send(&mut self, command: &LauncherCommand) {
        if *command == LauncherCommand::Go {
            self.go_tsc = tsc::read().tsc;
        }
        let sent = encode_launcher_command(command).map_err(io::Error::other);
        let _ = sent.and_then(|frame| self.link.write_all(&frame));
    }

    /// True if it can still say something.
    pub fn is_running(&self) -> bool {
        self.status.phase < VmPhase::Ended
    }

    /// True if it runs, and has no fault.
    pub fn is_healthy(&self) -> bool {
        self.is_running() && self.status.fault.is_none()
    }

    /// True while it boots and the next one is to wait for it: for so long since its start where
    /// the time for all is fixed, else for so long since it has come further.
    pub fn holds_up(&self, fixed: bool, timeout: Duration) -> bool {
        let taken = if fixed { self.launched.elapsed() } else { self.progress.stalled_for() };
        self.is_healthy() && self.status.phase < VmPhase::Ready && taken < timeout
    }

    /// Notes the first thing that went wrong.
    pub fn fault(&mut self, code: VmFault, text: &str) {
        if self.status.fault.is_none() {
            self.status.fault = Some(cut(text));
            self.status.fault_code = Some(code);
            self.status.fault_phase = Some(self.status.phase);
        }
    }

    /// Takes bytes from its launcher.
    pub fn take_bytes(&mut self, bytes: &[u8]) -> Vec<VmEvent> {
        let mut events = Vec::new();
        self.launcher.push(bytes);
        loop {
            match next_launcher_message(&mut self.launcher) {
                Ok(Some(LauncherMessage::Report(report))) => {
                    self.report(report);
                    events.push(VmEvent::Changed);
                }
                Ok(Some(LauncherMessage::Console(bytes))) => events.push(VmEvent::Console(bytes)),
                Ok(Some(LauncherMessage::Control(bytes))) => self.guest_says(&bytes, &mut events),
                Ok(None) => return events,
                Err(error) => {
                    self.garbled("launcher", &error);
                    events.push(VmEvent::Changed);
                    return events;
                }
            }
        }
    }

    /// Its launcher has closed the socket: the VM is no more.
    pub fn gone(&mut self) {
        // A launcher that has closed its socket and lives on is of no use.
        let _ = self.child.kill();
        let status = self.child.wait();
        if self.is_running() {
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            if self.report.is_none() {
                let pid = self.status.pid;
                let text = format!("its launcher (process {pid}) ended early with {how}");
                self.fault(VmFault::LauncherEnded, &text);
            }
            self.status.phase = VmPhase::Ended;
        }
    }

    /// Ends the launcher's process, whatever it does.
    pub fn kill(&mut self) {
        // It may have ended meanwhile.
        let _ = self.child.kill();
    }

    /// Host scheduling of the vCPUs' threads so far: time on a CPU, time waiting for one.
    pub fn schedstats(&self) -> Vec<Option<(u64, u64)>> {
        self.status.threads.iter().map(|thread| schedstat_of(thread.tid, self.status.pid)).collect()
    }

    /// Affinity of the vCPUs' threads as it is now.
    pub fn affinities(&self) -> Vec<Option<String>> {
        self.status
            .threads
            .iter()
            .map(|thread| affinity::of_thread(thread.tid).ok().map(|cpus| cpus.to_string()))
            .collect()
    }

    /// The cookies of all threads of the launcher's, with their numbers and names. A thread that
    /// has ended meanwhile is not among them.
    pub fn cookies(
        &self,
        cookie_of: fn(u32) -> io::Result<u64>,
    ) -> io::Result<Vec<(u32, String, u64)>> {
        let pid = self.status.pid;
        let mut found = Vec::new();
        for tid in process::threads(pid) {
            let cookie = match cookie_of(tid) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
                read => read?,
            };
            found.push((tid, process::thread_name(pid, tid), cookie));
        }
        Ok(found)
    }

    /// What it has reported, up to the end of the gap that ended the run, if one did.
    pub fn take_report(&mut self, hit_tsc: Option<u64>) -> LoadReport {
        let report = self.report.take().unwrap_or_default();
        match hit_tsc {
            Some(hit_tsc) => report.until(self.start_tsc, hit_tsc),
            None => report,
        }
    }

    fn now_ns(&self) -> Option<u64> {
        u64::try_from(self.began.elapsed().as_nanos()).ok()
    }

    /// Phases only ever go forward.
    fn enter(&mut self, phase: VmPhase) {
        if phase <= self.status.phase {
            return;
        }
        self.status.phase = phase;
        self.progress.advance();
        let now = self.now_ns();
        let times = &mut self.status.times;
        match phase {
            VmPhase::Booting => times.booting_ns = now,
            VmPhase::Up => times.up_ns = now,
            VmPhase::Ready => times.ready_ns = now,
            _ => {}
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Booting { mut threads, transport, tsc_shared } => {
                threads.truncate(self.vcpus as usize);
                self.status.threads = threads;
                self.status.transport = Some(transport);
                self.status.tsc_shared = tsc_shared;
                self.enter(VmPhase::Booting);
            }
            Report::Confined { affinity } => {
                if self.status.times.confined_ns.is_none() {
                    self.status.times.confined_ns = self.now_ns();
                    for (thread, affinity) in self.status.threads.iter_mut().zip(affinity) {
                        thread.affinity = affinity;
                    }
                }
            }
            Report::Memory { rss_kib, pss_kib } => {
                (self.status.rss_kib, self.status.pss_kib) = (rss_kib, pss_kib);
            }
            Report::Ended { reason, orderly, state } => {
                if self.report.is_none() {
                    let when = match self.status.phase {
                        VmPhase::Started => "before its kernel was entered",
                        VmPhase::Booting => "before its PID 1",
                        VmPhase::Up => "while it prepared",
                        VmPhase::Ready => "while it was ready",
                        _ => "while it measured",
                    };
                    self.fault(VmFault::Ended, &format!("ended {when}: {reason}"));
                } else if !orderly {
                    let text = format!("ended after its report: {reason}");
                    self.fault(VmFault::EndedAfterReport, &text);
                }
                self.status.state = state.map(|state| cut(&state));
                self.enter(VmPhase::Ended);
            }
        }
    }

    fn guest_says(&mut self, bytes: &[u8], events: &mut Vec<VmEvent>) {
        self.guest.push(bytes);
        loop {
            match self.guest.next_frame() {
                Ok(Some(Frame::Message(message))) => events.extend(self.message(message)),
                Ok(Some(Frame::Gaps { thread, records })) if thread < self.vcpus => {
                    let records: Vec<_> = records.into_iter().filter(is_plausible).collect();
                    self.first_record(events);
                    events.push(VmEvent::Gaps(thread, records));
                }
                // Of a vCPU that does not exist, or a VM's VM.
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => {
                    self.garbled("agent", &error);
                    events.push(VmEvent::Changed);
                    return;
                }
            }
        }
    }

    fn first_record(&mut self, events: &mut Vec<VmEvent>) {
        if self.status.times.first_record_ns.is_none() {
            self.status.times.first_record_ns = self.now_ns();
            events.push(VmEvent::Changed);
        }
    }

    /// What makes no sense ends the VM: nothing after it can be trusted.
    fn garbled(&mut self, who: &str, error: &FrameError) {
        let text = format!("protocol error of its {who}: {error}");
        self.fault(VmFault::ProtocolError, &text);
        self.kill();
    }

    fn message(&mut self, message: Message) -> Option<VmEvent> {
        match message {
            Message::Hello(hello) => {
                if let Some(text) = Drift::between(&self.cmdline, &hello.cmdline).fault() {
                    self.fault(VmFault::CommandLineIgnored, &text);
                    self.kill();
                }
                self.enter(VmPhase::Up);
            }
            Message::Prepared => self.enter(VmPhase::Ready),
            Message::Going { tsc: guest } => {
                let (before, after) = (self.go_tsc, tsc::read().tsc);
                self.status.tsc_check = Some(TscCheck { before, guest, after });
            }
            Message::Ready(setup) => {
                self.start_tsc = setup.tsc_start;
                self.status.meter = setup.meter;
                self.enter(VmPhase::Measuring);
            }
            Message::Tick(tick) => return Some(VmEvent::Tick(tick)),
            Message::Line(mut line) => {
                line.gap = line
                    .gap
                    .filter(|LineGap { gap, .. }| is_ours(gap.thread, &gap.record, self.vcpus));
                return Some(VmEvent::Line(line));
            }
            Message::ThresholdHit(hit) if is_ours(hit.gap.thread, &hit.gap.record, self.vcpus) => {
                return Some(VmEvent::Hit(hit));
            }
            Message::Finished(report) => {
                self.report = Some(report);
                self.enter(VmPhase::Reported);
            }
            Message::Failed(failure) => self.fault(VmFault::Failed, &failure.text),
            Message::Bye
            | Message::ThresholdHit(_)
            | Message::Trace(_)
            | Message::Waiting { .. }
            | Message::Vm(_)
            | Message::VmLine { .. } => return None,
        }
        Some(VmEvent::Changed)
    }
}

/// Nanoseconds on a CPU and nanoseconds waiting for one, of a thread.
fn schedstat_of(tid: u32, pid: u32) -> Option<(u64, u64)> {
    let accounting = process::schedstat(pid, tid)?;
    Some((accounting.ran_ns, accounting.waited_ns))
}

fn is_ours(thread: u32, record: &GapRecord, vcpus: u32) -> bool {
    thread < vcpus && is_plausible(record)
}

impl Drop for L2Vm {
    fn drop(&mut self) {
        // Reaped in any case: one that has ended already is not harmed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The beginning of a text, as much as is kept.
fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT_BYTES).collect()
}
