// SPDX-License-Identifier: Apache-2.0
//! The verdict of a run about the kernel: one pure function of how it ended.

use protocol::job::Job;
use protocol::names::{PANIC_MARK, SAYING};
use results::model::{Answer, LocatedGap, ReasonCode, Stage};
use vmm::vcpu::{ExitReason, VcpuEnd};

use crate::analysis::figures;
use crate::analysis::threads::over_threshold;
use crate::disk::Short;
use crate::doubt::{self, Doubt, Terms};
use crate::overrun::Overrun;
use crate::session::{Session, waited_for};
use crate::status::{ExitStatus, Owned};

/// End of a run.
#[derive(Debug)]
pub enum End {
    /// A vCPU ended by itself.
    Vcpu(VcpuEnd),
    /// A stage took too long.
    Late(Stage),
    /// The whole run did.
    Overrun(Overrun),
    /// The disk of the results has too little room left.
    NoRoom(Short),
    /// The trace cannot be written; all else is there.
    TraceLost,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal(i32),
    /// The guest's messages make no sense.
    Garbled(String),
    /// All threads of the machine are gone, and none has said why.
    Gone,
    /// The kernel runs, but not as it was told to.
    NotAsTold(String),
    /// The load on this very kernel has ended.
    Finished,
    /// The run goes on: for a checkpoint.
    UnderWay,
}

/// The answer with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub answer: Answer,
    /// Why, for a person; empty for a plain pass.
    pub reason: String,
    /// What the reason is about.
    pub code: Option<ReasonCode>,
    /// What ended it before its time.
    pub signal: Option<i32>,
    /// What is to be said of an answer that the host may have had a part in.
    pub note: Option<String>,
}

impl Verdict {
    /// An answer that speaks for itself.
    fn plain(answer: Answer) -> Self {
        Self { answer, reason: String::new(), code: None, signal: None, note: None }
    }

    /// One with a reason.
    pub fn new(answer: Answer, code: ReasonCode, reason: String) -> Self {
        Self { answer, reason, code: Some(code), signal: None, note: None }
    }

    fn interrupted(signal: i32, code: ReasonCode, reason: String) -> Self {
        Self { signal: Some(signal), ..Self::new(Answer::Interrupted, code, reason) }
    }

    /// Exit status of the process. The answer alone decides, so that the two never disagree.
    pub fn status(&self) -> ExitStatus {
        match self.answer {
            Answer::Pass | Answer::Measured => ExitStatus::Pass,
            Answer::OverThreshold | Answer::OverLimit => ExitStatus::OverThreshold,
            Answer::Untestable => ExitStatus::Untestable,
            Answer::Interrupted => ExitStatus::of_signal(self.signal.unwrap_or(libc::SIGTERM)),
            Answer::UsageError => ExitStatus::Usage,
            Answer::HostError => ExitStatus::Host,
            Answer::InternalError => ExitStatus::Internal,
        }
    }
}

/// Judges a run by these terms; `console` is the end of the console log.
pub fn judge(session: &Session, job: &Job, terms: Terms, end: &End, console: &str) -> Verdict {
    let invalid = (!session.invalid.is_empty()).then(|| {
        let reasons = session.invalid.join("; ");
        let reason = format!("nothing was found out about this kernel: {reasons}");
        Verdict::new(Answer::Untestable, ReasonCode::Disturbed, reason)
    });
    // What was measured stands, whatever happened afterwards.
    let over = over_threshold(session, job);
    if let Some(first) = over.first() {
        if let Some(invalid) = invalid.clone() {
            return invalid;
        }
        let stands = over_with_remark(session, end);
        match doubt(&over, session, job, terms) {
            Finding::Stands(note) => return Verdict { note, ..stands },
            // It answers nothing, so that whatever ended the run by force is what it came to.
            Finding::Doubtful(_) if session.failure.is_some() => {}
            Finding::Doubtful(_) if matches!(end, End::Signal(_)) => {}
            Finding::Doubtful(doubt) => return doubtful(doubt, first, job, &stands.reason),
        }
    }
    if let Some(failure) = &session.failure {
        let reason = format!("{}{}", failure.text, memory_ran_out(console));
        return Verdict::new(failure.owner.into(), ReasonCode::Failed, reason);
    }
    match end {
        End::Signal(signal) => {
            let others = invalid.map_or_else(String::new, |found| format!("; {}", found.reason));
            let reason = format!("ended by signal {signal}{others}");
            Verdict::interrupted(*signal, ReasonCode::Signal, reason)
        }
        // What it was asked to measure it has not, even if it has reported since.
        End::Overrun(over) if over.stage <= Stage::Run => {
            untestable(ReasonCode::WallLimit, over.reason())
        }
        End::NoRoom(short) if short.stage <= Stage::Run => no_room(short),
        End::UnderWay => {
            let second = session.ticks.last().map_or(0, |tick| tick.second);
            let reason = format!(
                "the run was under way, in second {second} of the load, when this was written"
            );
            Verdict::interrupted(libc::SIGTERM, ReasonCode::UnderWay, reason)
        }
        _ if session.report.is_some() => match (session.unacceptable(), invalid) {
            (Some(faults), _) => {
                let reason = format!("degraded: {faults} (--allow-degraded lets it pass)");
                Verdict::new(Answer::Untestable, ReasonCode::Degraded, reason)
            }
            (None, Some(invalid)) => invalid,
            (None, None) if job.load.threshold.is_some() => Verdict::plain(Answer::Pass),
            (None, None) => Verdict::plain(Answer::Measured),
        },
        End::Vcpu(end) => unplanned(session, end, console),
        _ => unreported(end),
    }
}

/// Of a run that ended, not by a vCPU, before a report or a failure had come.
fn unreported(end: &End) -> Verdict {
    match end {
        End::Late(stage) => {
            let reason = format!("the guest hangs: waited for {}", waited_for(*stage));
            untestable(ReasonCode::GuestHangs, reason)
        }
        End::Overrun(over) => untestable(ReasonCode::WallLimit, over.reason()),
        End::NoRoom(short) => no_room(short),
        End::Garbled(error) => {
            let reason = format!("protocol error of the agent in the guest: {error}");
            untestable(ReasonCode::ProtocolError, reason)
        }
        End::NotAsTold(how) => untestable(ReasonCode::CommandLineIgnored, how.clone()),
        End::Gone => {
            let reason = "all threads of the machine ended in silence".into();
            Verdict::new(Answer::InternalError, ReasonCode::Silent, reason)
        }
        _ => {
            let reason = "the load ended without a report".into();
            Verdict::new(Answer::InternalError, ReasonCode::NoReport, reason)
        }
    }
}

fn no_room(short: &Short) -> Verdict {
    Verdict::new(Answer::HostError, ReasonCode::DiskSpace, short.reason())
}

fn untestable(code: ReasonCode, reason: String) -> Verdict {
    Verdict::new(Answer::Untestable, code, reason)
}

/// What gaps over the threshold come to.
enum Finding {
    /// One at least is the kernel's; with what is to be said of that.
    Stands(Option<String>),
    /// All may be the host's; why the first one may.
    Doubtful(Doubt),
}

/// What these gaps over the threshold come to, of which there is one at least.
fn doubt(over: &[LocatedGap], session: &Session, job: &Job, terms: Terms) -> Finding {
    if job.meter.is_some() {
        // What the machine around it does is what is measured.
        return Finding::Stands(None);
    }
    let threshold = job.load.threshold.unwrap_or_default();
    let mut doubts = over.iter().map(|gap| doubt::of_gap(gap, threshold, terms.on_hardware));
    if let Some(Some(first)) = doubts.next()
        && doubts.all(|doubt| doubt.is_some())
    {
        return Finding::Doubtful(first);
    }
    let steal = figures::steal(session, job, terms.steal_budget);
    match doubt::of_run(&steal, session.noise(), terms.noise_budget, threshold) {
        None => Finding::Stands(None),
        Some(doubt) if terms.report_contaminated => Finding::Stands(Some(format!(
            "the gap over the threshold may be the host's, and counts as --on-contaminated report \
             says: {}",
            doubt.remark()
        ))),
        Some(doubt) => Finding::Doubtful(doubt),
    }
}

/// Of a run whose gaps over the threshold may all be the host's, and what went wrong afterwards.
fn doubtful(doubt: Doubt, first: &LocatedGap, job: &Job, afterwards: &str) -> Verdict {
    let reason = doubt.reason(first, job.load.threshold.unwrap_or_default());
    let parts = [reason.as_str(), afterwards].into_iter().filter(|part| !part.is_empty());
    untestable(doubt.code(), parts.collect::<Vec<_>>().join("; "))
}

/// Of a run with a gap over the threshold, with a remark on what went wrong after it was found.
fn over_with_remark(session: &Session, end: &End) -> Verdict {
    let (code, reason) = match end {
        _ if session.bye => return Verdict::plain(Answer::OverThreshold),
        // Said by the trace's own note.
        End::TraceLost | End::Finished | End::UnderWay => {
            return Verdict::plain(Answer::OverThreshold);
        }
        // Found out before the load.
        End::NotAsTold(how) => (ReasonCode::CommandLineIgnored, how.clone()),
        End::Vcpu(end) => {
            (code_of(&end.reason), format!("afterwards vCPU {} ended: {}", end.cpu, end.reason))
        }
        End::Late(stage) => {
            let what = waited_for(*stage);
            (ReasonCode::GuestHangs, format!("afterwards the guest did not answer ({what})"))
        }
        End::NoRoom(short) => (ReasonCode::DiskSpace, format!("afterwards {}", short.reason())),
        End::Overrun(over) => (ReasonCode::WallLimit, format!("afterwards {}", over.reason())),
        End::Signal(signal) => (ReasonCode::Signal, format!("afterwards ended by signal {signal}")),
        End::Garbled(error) => {
            let reason = format!("afterwards the guest's messages made no sense: {error}");
            (ReasonCode::ProtocolError, reason)
        }
        End::Gone => {
            let reason = "afterwards all threads of the machine ended in silence".into();
            (ReasonCode::Silent, reason)
        }
    };
    Verdict::new(Answer::OverThreshold, code, reason)
}

fn code_of(end: &ExitReason) -> ReasonCode {
    match end {
        ExitReason::TripleFault => ReasonCode::TripleFault,
        _ => ReasonCode::VcpuEnded,
    }
}

/// What the guest's kernel says of its memory, behind a reason.
fn memory_ran_out(console: &str) -> String {
    /// What mm/oom_kill.c prints of the one that it ends.
    const KILLED: [&str; 2] = ["Out of memory: Killed", "emory cgroup out of memory: Killed"];
    let line = console.lines().rev().find(|line| KILLED.iter().any(|words| line.contains(words)));
    line.map_or_else(String::new, |line| {
        format!("; the guest's kernel says: {}; raise --memory", line.trim())
    })
}

fn unplanned(session: &Session, end: &VcpuEnd, console: &str) -> Verdict {
    let when = match session.stage() {
        Stage::Boot => "before PID 1",
        Stage::Setup => "while the load was prepared",
        Stage::Run => "while the load ran",
        Stage::Finish | Stage::PowerOff => "before the results were complete",
    };
    let orderly = matches!(end.reason, ExitReason::Reset | ExitReason::PowerOff);
    let answer = end.reason.owner().into();
    if let Some(line) = last_line_with(PANIC_MARK, console) {
        let reason = format!("the agent panicked {when}: {line}");
        return Verdict::new(Answer::InternalError, ReasonCode::AgentPanic, reason);
    }
    if let Some(line) = last_line_with("Kernel panic", console) {
        let reason = format!("the kernel panicked {when}: {line}");
        return Verdict::new(answer, ReasonCode::KernelPanic, reason);
    }
    let (code, reason) = match last_line_with(SAYING, console) {
        Some(line) if orderly => {
            (ReasonCode::AgentGaveUp, format!("the agent gave up {when}: {line}"))
        }
        None if orderly => {
            let why = format!("the kernel ended {when} ({}) without a panic message", end.reason);
            (ReasonCode::KernelEnded, why)
        }
        _ => (code_of(&end.reason), format!("vCPU {} ended {when}: {}", end.cpu, end.reason)),
    };
    Verdict::new(answer, code, reason)
}

fn last_line_with<'a>(words: &str, console: &'a str) -> Option<&'a str> {
    console.lines().rev().find(|line| line.contains(words)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use gaps::evidence::Class;
    use gaps::record::GapRecord;
    use protocol::error::Owner;
    use protocol::frame::encode_message;
    use protocol::job::CoschedRequest;
    use protocol::job::LoadSpec;
    use protocol::message::{Failure, Gap, Hello, Message, Setup, ThresholdHit};
    use protocol::report::LoadReport;
    use vmm::vcpu::ExitCounts;

    use super::*;
    use crate::compose::Account;
    use crate::session::Limits;
    use crate::testing;

    fn session(messages: &[Message]) -> Session {
        let limits = Limits {
            threads: 1,
            records_per_thread: 1,
            boot: Duration::from_secs(1),
            vms: 0,
            allow_degraded: false,
        };
        let mut session = Session::new(limits, Instant::now());
        for message in messages {
            session
                .take(&encode_message(message).expect("encodes"), Instant::now())
                .expect("taken");
        }
        session
    }

    /// A gap of which nobody but the kernel is to blame.
    fn scheduled_out() -> ThresholdHit {
        let record = GapRecord { class: Class::ScheduledOut, ..GapRecord::default() };
        ThresholdHit { tid: 1, gap: Gap { thread: 0, record } }
    }

    fn ended(reason: ExitReason) -> End {
        let exits = ExitCounts::default();
        End::Vcpu(VcpuEnd { cpu: 0, reason, exits, state: None, host_sched: None })
    }

    /// Jobs with a threshold that no gap here is over, or with none.
    fn job(threshold: Option<Duration>) -> Job {
        let load = LoadSpec { threshold, ..testing::load(1, 1, 1) };
        Job::new(load, CoschedRequest::None)
    }

    fn verdict(messages: &[Message], end: &End, console: &str) -> Verdict {
        judge(&session(messages), &job(Some(Duration::from_secs(9))), Terms::NONE, end, console)
    }

    fn status(messages: &[Message], end: &End) -> ExitStatus {
        verdict(messages, end, "").status()
    }

    /// The agent that was told to stop reports what it has: less than it was asked for.
    #[test]
    fn a_run_that_was_cut_short_is_no_pass() {
        let report = [Message::Finished(LoadReport::default()), Message::Bye];
        let over = |stage| End::Overrun(Overrun { limit: Duration::from_secs(9), stage });
        let short = |stage| End::NoRoom(Short::of_a_test(stage));
        for (stage, messages, statuses) in [
            (Stage::Run, &report[..], [ExitStatus::Untestable, ExitStatus::Host]),
            (Stage::Boot, &[], [ExitStatus::Untestable, ExitStatus::Host]),
            (Stage::Finish, &[], [ExitStatus::Untestable, ExitStatus::Host]),
            // All was measured; only the machine did not end.
            (Stage::Finish, &report[..], [ExitStatus::Pass; 2]),
        ] {
            let ended = [over(stage), short(stage)].map(|end| status(messages, &end));
            assert_eq!(ended, statuses, "{stage:?}, {} messages", messages.len());
        }
    }

    #[test]
    fn a_measured_gap_outlives_all_that_follows() {
        let hit = [Message::ThresholdHit(scheduled_out())];
        for end in [
            ended(ExitReason::TripleFault),
            End::Late(Stage::Finish),
            End::Signal(libc::SIGINT),
            End::Garbled("x".into()),
        ] {
            let verdict = verdict(&hit, &end, "");
            assert_eq!(verdict.answer, Answer::OverThreshold);
            assert!(verdict.reason.starts_with("afterwards"));
        }
    }

    /// Neither good nor bad is told of a kernel that others kept from scheduling as it would.
    #[test]
    fn what_others_had_a_part_in_is_no_answer() {
        let done = Message::Finished(LoadReport::default());
        let hit = Message::ThresholdHit(ThresholdHit::default());
        let judged = |messages: &[Message], end: &End| {
            let mut session = session(messages);
            session.invalid = vec!["a quota".into(), "a move".into()];
            judge(&session, &job(None), Terms::NONE, end, "")
        };
        for messages in [vec![done.clone(), Message::Bye], vec![hit, done.clone(), Message::Bye]] {
            let verdict = judged(&messages, &End::Finished);
            assert_eq!(verdict.answer, Answer::Untestable);
            assert!(verdict.reason.ends_with(": a quota; a move"), "{}", verdict.reason);
        }
        let stopped = judged(&[done], &End::Signal(libc::SIGINT));
        assert_eq!((stopped.answer, stopped.signal), (Answer::Interrupted, Some(libc::SIGINT)));
        // Its figures are no better for it.
        assert!(stopped.reason.ends_with("about this kernel: a quota; a move"), "{stopped:?}");
    }

    #[test]
    fn each_end_has_its_status() {
        let done = [Message::Finished(LoadReport::default()), Message::Bye];
        assert_eq!(status(&done, &ended(ExitReason::PowerOff)), ExitStatus::Pass);
        assert_eq!(status(&done, &End::Late(Stage::PowerOff)), ExitStatus::Pass);
        assert_eq!(status(&done, &End::Finished), ExitStatus::Pass);
        assert_eq!(status(&[], &End::Finished), ExitStatus::Internal);
        assert_eq!(status(&[], &ended(ExitReason::PowerOff)), ExitStatus::Untestable);
        assert_eq!(status(&[], &ended(ExitReason::TripleFault)), ExitStatus::Untestable);
        assert_eq!(status(&[], &End::Late(Stage::Boot)), ExitStatus::Untestable);
        assert_eq!(status(&[], &End::Garbled(String::new())), ExitStatus::Untestable);
        assert_eq!(status(&[], &End::Signal(libc::SIGINT)), ExitStatus::Interrupted);
        assert_eq!(status(&[], &End::Signal(libc::SIGTERM)), ExitStatus::Terminated);
        let no_memory = ended(ExitReason::MemoryFault { address: None });
        assert_eq!(status(&[], &no_memory), ExitStatus::Host);
        assert_eq!(status(&[], &ended(ExitReason::RunFailed { errno: 12 })), ExitStatus::Host);
        assert_eq!(status(&[], &ended(ExitReason::Panicked(String::new()))), ExitStatus::Internal);
        assert_eq!(status(&[], &End::Gone), ExitStatus::Internal);
        for (owner, expected) in [
            (Owner::Kernel, ExitStatus::Untestable),
            (Owner::Request, ExitStatus::Usage),
            (Owner::Host, ExitStatus::Host),
            (Owner::Internal, ExitStatus::Internal),
        ] {
            let failed = [Message::Failed(Failure { owner, text: "no".into() })];
            assert_eq!(status(&failed, &ended(ExitReason::PowerOff)), expected);
        }
    }

    #[test]
    fn without_a_threshold_nothing_passes_and_nothing_fails() {
        let done = session(&[Message::Finished(LoadReport::default()), Message::Bye]);
        let verdict = judge(&done, &job(None), Terms::NONE, &End::Finished, "");
        assert_eq!(verdict, Verdict::plain(Answer::Measured));
        assert_eq!(verdict.status(), ExitStatus::Pass);
    }

    /// What docs/formats.md and docs/exit-status.md promise to whoever reads one of the two.
    #[test]
    fn an_answer_has_one_name_and_one_status() {
        let documented = [
            (Answer::Pass, None, "pass", 0),
            (Answer::Measured, None, "measured", 0),
            (Answer::OverThreshold, None, "over-threshold", 1),
            (Answer::Untestable, None, "untestable", 125),
            (Answer::Interrupted, Some(libc::SIGINT), "interrupted", 130),
            (Answer::Interrupted, Some(libc::SIGTERM), "interrupted", 143),
            (Answer::Interrupted, Some(libc::SIGHUP), "interrupted", 143),
            (Answer::UsageError, None, "usage-error", 200),
            (Answer::HostError, None, "host-error", 201),
            (Answer::InternalError, None, "internal-error", 202),
        ];
        let text = include_str!("../../docs/formats.md");
        for (answer, signal, name, code) in documented {
            let status = Verdict { signal, ..Verdict::plain(answer) }.status();
            assert_eq!((answer.name(), status.code()), (name, code));
            assert_eq!(serde_json::to_value(answer).expect("JSON"), name);
            assert!(text.contains(&format!("`{name}`")), "docs/formats.md lacks {name}");
        }
    }

    #[test]
    fn a_process_that_the_guest_killed_for_memory_is_told_with_the_kernels_words() {
        let console = "x\n[ 3.1] Out of memory: Killed process 61 (schedvmm) total-vm:99kB\n";
        let failure = Failure { owner: Owner::Kernel, text: "the process 61 ended early".into() };
        let failed = [Message::Failed(failure)];
        let told = verdict(&failed, &ended(ExitReason::PowerOff), console);
        assert_eq!(told.answer, Answer::Untestable);
        assert!(told.reason.contains("ended early; the guest's kernel says: [ 3.1] Out of memory"));
        assert!(told.reason.ends_with("raise --memory"), "{}", told.reason);
    }

    /// A panic of PID 1 switches the machine off, as the end of a kernel does.
    #[test]
    fn a_defect_of_the_agent_is_not_the_kernels() {
        let console = format!("x\n[ 3.1] {SAYING}{PANIC_MARK}panicked at guest/src/x.rs\n");
        let told = verdict(&[], &ended(ExitReason::PowerOff), &console);
        assert_eq!(told.answer, Answer::InternalError);
        assert!(told.reason.contains("panicked at guest/src/x.rs"), "{}", told.reason);
        let console = format!("[ 3.1] {SAYING}there is no way to the host: none\n");
        let told = verdict(&[], &ended(ExitReason::PowerOff), &console);
        assert_eq!(told.answer, Answer::Untestable);
        assert!(told.reason.contains("gave up before PID 1"), "{}", told.reason);
    }

    /// The suite with real kernels runs a case once more by these two.
    #[test]
    fn programs_are_told_what_went_wrong_and_when() {
        let alive = [Message::Hello(Hello::default())];
        let running = [Message::Hello(Hello::default()), Message::Ready(Setup::default())];
        let hit = [Message::ThresholdHit(scheduled_out())];
        let told = |messages: &[Message], end: &End| {
            let (session, job) = (session(messages), job(Some(Duration::from_secs(9))));
            let verdict = judge(&session, &job, Terms::NONE, end, "");
            let result = Account::of_figures(&session, &job, &verdict).result();
            assert_eq!(result.reason_code.is_none(), result.reason.is_empty());
            result.reason_code.zip(result.reason_stage)
        };
        let hangs = |stage| Some((ReasonCode::GuestHangs, stage));
        assert_eq!(told(&[], &End::Late(Stage::Boot)), hangs(Stage::Boot));
        assert_eq!(told(&alive, &End::Late(Stage::Setup)), hangs(Stage::Setup));
        assert_eq!(told(&running, &End::Late(Stage::Run)), hangs(Stage::Run));
        assert_eq!(told(&hit, &End::Late(Stage::Finish)), hangs(Stage::Finish));
        let crash = || ended(ExitReason::TripleFault);
        let crashed = |stage| Some((ReasonCode::TripleFault, stage));
        assert_eq!(told(&[], &crash()), crashed(Stage::Boot));
        assert_eq!(told(&running, &crash()), crashed(Stage::Run));
        let ended_so = told(&[], &ended(ExitReason::Reset));
        assert_eq!(ended_so, Some((ReasonCode::KernelEnded, Stage::Boot)));
        let done = [Message::Finished(LoadReport::default()), Message::Bye];
        assert_eq!(told(&done, &End::Finished), None);
    }

    /// What docs/formats.md promises.
    #[test]
    fn every_code_is_documented() {
        let text = include_str!("../../docs/formats.md");
        for code in ReasonCode::ALL {
            let name = serde_json::to_string(&code).expect("JSON").replace('"', "`");
            assert!(text.contains(&name), "docs/formats.md lacks {name}");
        }
    }

    #[test]
    fn a_panic_is_quoted() {
        let console = "x\n[ 1.0] Kernel panic - not syncing: VFS\n[ 1.1] ---[ end\n";
        let verdict = verdict(&[], &ended(ExitReason::Reset), console);
        assert!(verdict.reason.contains("panicked before PID 1"), "{}", verdict.reason);
        assert!(verdict.reason.ends_with("not syncing: VFS"), "{}", verdict.reason);
    }
}
