// SPDX-License-Identifier: Apache-2.0
//! What a run says about the kernel: one pure function of how it ended.

use guest::job::Job;
use guest::system::{PANIC_MARK, SAYING};
use results::model::Answer;
use vmm::vcpu::{ExitReason, VcpuEnd};

use crate::analysis::threads::over_threshold;
use crate::owner::Owned;
use crate::session::{Session, Stage};
use crate::status::ExitStatus;

/// How a run came to its end.
#[derive(Debug)]
pub enum End {
    /// A vCPU ended by itself.
    Vcpu(VcpuEnd),
    /// A stage took too long.
    Late(Stage),
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
    /// It has not: for a result that is kept in case that there will be no end.
    UnderWay,
}

/// The answer with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub answer: Answer,
    /// Why, for a person; empty for a plain pass.
    pub reason: String,
    /// What ended it before its time.
    pub signal: Option<i32>,
}

impl Verdict {
    fn new(answer: Answer, reason: String) -> Self {
        Self { answer, reason, signal: None }
    }

    fn interrupted(signal: i32, reason: String) -> Self {
        Self { answer: Answer::Interrupted, reason, signal: Some(signal) }
    }

    /// How the process ends. The answer alone decides, so that the two never disagree.
    pub fn status(&self) -> ExitStatus {
        match self.answer {
            Answer::Pass | Answer::Measured => ExitStatus::Pass,
            Answer::OverThreshold => ExitStatus::OverThreshold,
            Answer::Untestable => ExitStatus::Untestable,
            Answer::Interrupted => ExitStatus::of_signal(self.signal.unwrap_or(libc::SIGTERM)),
            Answer::UsageError => ExitStatus::Usage,
            Answer::HostError => ExitStatus::Host,
            Answer::InternalError => ExitStatus::Internal,
        }
    }
}

/// Judges a run; `console` is the end of the console log.
pub fn judge(session: &Session, job: &Job, end: &End, console: &str) -> Verdict {
    let verdict = Verdict::new;
    let invalid = (!session.invalid.is_empty()).then(|| {
        let reasons = session.invalid.join("; ");
        verdict(Answer::Untestable, format!("nothing was found out about this kernel: {reasons}"))
    });
    // What was measured stands, whatever happened afterwards.
    if session.hit.is_some() || over_threshold(session, job) {
        let over = || verdict(Answer::OverThreshold, after_hit(session, end));
        return invalid.unwrap_or_else(over);
    }
    if let Some(failure) = &session.failure {
        return verdict(
            failure.owner.into(),
            format!("{}{}", failure.text, memory_ran_out(console)),
        );
    }
    match end {
        End::Signal(signal) => {
            let others = invalid.map_or_else(String::new, |found| format!("; {}", found.reason));
            Verdict::interrupted(*signal, format!("ended by signal {signal}{others}"))
        }
        End::UnderWay => {
            let reason = format!(
                "the run was under way, in second {} of the load, when this was written",
                session.ticks.last().map_or(0, |tick| tick.second)
            );
            Verdict::interrupted(libc::SIGTERM, reason)
        }
        _ if session.report.is_some() => match (session.unacceptable(), invalid) {
            (Some(faults), _) => {
                let reason = format!("degraded: {faults} (--allow-degraded lets it pass)");
                verdict(Answer::Untestable, reason)
            }
            (None, Some(invalid)) => invalid,
            (None, None) if job.load.threshold.is_some() => verdict(Answer::Pass, String::new()),
            (None, None) => verdict(Answer::Measured, String::new()),
        },
        End::Late(stage) => {
            let reason = format!("the guest hangs: waited for {}", stage.waited_for());
            verdict(Answer::Untestable, reason)
        }
        End::Garbled(error) => {
            let reason = format!("the agent in the guest sent what it never should: {error}");
            verdict(Answer::Untestable, reason)
        }
        End::NotAsTold(how) => verdict(Answer::Untestable, how.clone()),
        End::Vcpu(end) => unplanned(session, end, console),
        // None of these comes before a report, or a failure, has.
        End::Finished | End::TraceLost => {
            verdict(Answer::InternalError, "the load ended without a report".into())
        }
        End::Gone => {
            verdict(Answer::InternalError, "all threads of the machine ended in silence".into())
        }
    }
}

/// A remark on what went wrong after the gap was found.
fn after_hit(session: &Session, end: &End) -> String {
    match end {
        _ if session.bye => String::new(),
        // Said by the trace's own note.
        End::TraceLost | End::Finished | End::UnderWay => String::new(),
        // Found out before the load.
        End::NotAsTold(how) => how.clone(),
        End::Vcpu(end) => format!("afterwards vCPU {} ended: {}", end.cpu, end.reason),
        End::Late(stage) => format!("afterwards the guest did not answer ({})", stage.waited_for()),
        End::Signal(signal) => format!("afterwards ended by signal {signal}"),
        End::Garbled(error) => format!("afterwards the guest's messages made no sense: {error}"),
        End::Gone => "afterwards all threads of the machine ended in silence".into(),
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
    let line = |words| console.lines().rev().find(|line| line.contains(words)).map(str::trim);
    let orderly = matches!(end.reason, ExitReason::Reset | ExitReason::PowerOff);
    let answer = end.reason.owner().into();
    let verdict = Verdict::new;
    if let Some(line) = line(PANIC_MARK) {
        return verdict(Answer::InternalError, format!("the agent panicked {when}: {line}"));
    }
    if let Some(line) = line("Kernel panic") {
        return verdict(answer, format!("the kernel panicked {when}: {line}"));
    }
    match line(SAYING) {
        Some(line) if orderly => verdict(answer, format!("the agent gave up {when}: {line}")),
        None if orderly => {
            let reason = &end.reason;
            verdict(answer, format!("the kernel ended {when} ({reason}) without a panic message"))
        }
        _ => verdict(answer, format!("vCPU {} ended {when}: {}", end.cpu, end.reason)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use guest::error::Owner;
    use guest::frame::encode_message;
    use guest::job::CoschedRequest;
    use guest::job::LoadSpec;
    use guest::wire::{Failure, Hello, LoadReport, Message, Setup, ThresholdHit};
    use vmm::vcpu::ExitCounts;
    use xtask::host::accident::Accident;

    use super::*;
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

    fn ended(reason: ExitReason) -> End {
        let exits = ExitCounts::default();
        End::Vcpu(VcpuEnd { cpu: 0, reason, exits, state: None, host_sched: None })
    }

    /// Orders with a threshold that no gap here is over, or with none.
    fn job(threshold: Option<Duration>) -> Job {
        let load = LoadSpec { threshold, ..testing::load(1, 1, 1) };
        Job::new(load, CoschedRequest::None)
    }

    fn verdict(messages: &[Message], end: &End, console: &str) -> Verdict {
        judge(&session(messages), &job(Some(Duration::from_secs(9))), end, console)
    }

    fn status(messages: &[Message], end: &End) -> ExitStatus {
        verdict(messages, end, "").status()
    }

    #[test]
    fn a_measured_gap_outlives_all_that_follows() {
        let hit = [Message::ThresholdHit(ThresholdHit::default())];
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
            judge(&session, &job(None), end, "")
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
        let verdict = judge(&done, &job(None), &End::Finished, "");
        assert_eq!(verdict, Verdict::new(Answer::Measured, String::new()));
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
            let status = Verdict { answer, reason: String::new(), signal }.status();
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

    /// The suite with real kernels runs a case once more by these words.
    #[test]
    fn accidents_of_an_emulated_host_are_told_in_words_that_tests_know() {
        let alive = [Message::Hello(Hello::default())];
        let hit = [Message::ThresholdHit(ThresholdHit::default())];
        let told = |messages: &[Message], end: &End| {
            let verdict = verdict(messages, end, "");
            Accident::find(&verdict.reason).map(|(accident, _)| accident)
        };
        for stage in [Stage::Setup, Stage::Run, Stage::Finish] {
            assert_eq!(told(&alive, &End::Late(stage)), Some(Accident::Hang), "{stage:?}");
        }
        assert_eq!(told(&hit, &End::Late(Stage::Finish)), Some(Accident::Hang));
        assert_eq!(told(&[], &End::Late(Stage::Boot)), None);
        assert_eq!(told(&[], &ended(ExitReason::TripleFault)), Some(Accident::TripleFault));
        let running = [Message::Hello(Hello::default()), Message::Ready(Setup::default())];
        assert_eq!(told(&running, &ended(ExitReason::TripleFault)), Some(Accident::TripleFault));
        assert_eq!(told(&alive, &ended(ExitReason::TripleFault)), Some(Accident::TripleFault));
        assert_eq!(told(&[], &ended(ExitReason::Reset)), None);
    }

    #[test]
    fn a_panic_is_quoted() {
        let console = "x\n[ 1.0] Kernel panic - not syncing: VFS\n[ 1.1] ---[ end\n";
        let verdict = verdict(&[], &ended(ExitReason::Reset), console);
        assert!(verdict.reason.contains("panicked before PID 1"), "{}", verdict.reason);
        assert!(verdict.reason.ends_with("not syncing: VFS"), "{}", verdict.reason);
    }
}
