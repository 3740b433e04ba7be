// SPDX-License-Identifier: Apache-2.0
//! What a run says about the kernel: one pure function of how it ended.

use guest::wire::FailureKind;
use serde::Serialize;
use vmm::vcpu::{ExitReason, VcpuEnd};

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
    /// The load on this very kernel has ended.
    Finished,
    /// It has not: for a result that is kept in case that there will be no end.
    UnderWay,
}

/// The answer, as result.json spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// No gap over the threshold.
    Pass,
    /// A gap over the threshold.
    OverThreshold,
    /// The kernel could not be tested.
    Untestable,
    /// Ended before its time; no gap over the threshold until then.
    Interrupted,
}

/// The answer with its status and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub answer: Answer,
    /// Exit status.
    pub status: ExitStatus,
    /// Why, for a person; empty for a plain pass.
    pub reason: String,
}

/// Judges a run. `over` tells whether a recorded gap is above the threshold, `console` is
/// the end of the console log.
pub fn judge(session: &Session, end: &End, over: bool, console: &str) -> Verdict {
    let verdict = |answer, status, reason| Verdict { answer, status, reason };
    // What was measured stands, whatever happened afterwards.
    if session.hit.is_some() || over {
        return verdict(Answer::OverThreshold, ExitStatus::OverThreshold, after_hit(session, end));
    }
    if let Some(failure) = &session.failure {
        let status = match failure.kind {
            FailureKind::Kernel => ExitStatus::Untestable,
            FailureKind::Host => ExitStatus::Host,
            FailureKind::Usage => ExitStatus::Usage,
            FailureKind::Internal => ExitStatus::Internal,
        };
        return verdict(Answer::Untestable, status, failure.text.clone());
    }
    match end {
        End::Signal(signal) => {
            let status = ExitStatus::of_signal(*signal);
            verdict(Answer::Interrupted, status, format!("ended by signal {signal}"))
        }
        End::UnderWay => {
            let reason = format!(
                "the run was under way, in second {} of the load, when this was written",
                session.ticks.last().map_or(0, |tick| tick.second)
            );
            verdict(Answer::Interrupted, ExitStatus::Terminated, reason)
        }
        _ if session.report.is_some() && session.unacceptable().is_some() => {
            let faults = session.unacceptable().unwrap_or_default();
            let reason = format!("degraded: {faults} (--allow-degraded lets it pass)");
            verdict(Answer::Untestable, ExitStatus::Untestable, reason)
        }
        _ if session.report.is_some() => verdict(Answer::Pass, ExitStatus::Pass, String::new()),
        End::TraceLost => {
            let reason = "the trace could not be written".to_owned();
            verdict(Answer::Untestable, ExitStatus::Host, reason)
        }
        End::Late(stage) => {
            let reason = format!("the guest hangs: waited for {}", stage.waited_for());
            verdict(Answer::Untestable, ExitStatus::Untestable, reason)
        }
        End::Finished => {
            let reason = "the load ended without a report".to_owned();
            verdict(Answer::Untestable, ExitStatus::Internal, reason)
        }
        End::Garbled(error) => {
            let reason = format!("the agent in the guest sent what it never should: {error}");
            verdict(Answer::Untestable, ExitStatus::Untestable, reason)
        }
        End::Vcpu(end) => {
            let status = match end.reason {
                ExitReason::MemoryFault { .. } | ExitReason::FailedEntry { .. } => ExitStatus::Host,
                ExitReason::RunFailed { .. } | ExitReason::Panicked(_) => ExitStatus::Internal,
                _ => ExitStatus::Untestable,
            };
            verdict(Answer::Untestable, status, unplanned(session, end, console))
        }
    }
}

/// A remark on what went wrong after the gap was found.
fn after_hit(session: &Session, end: &End) -> String {
    match end {
        _ if session.bye => String::new(),
        // Said by the trace's own note.
        End::TraceLost | End::Finished | End::UnderWay => String::new(),
        End::Vcpu(end) => format!("afterwards vCPU {} ended: {}", end.cpu, end.reason),
        End::Late(stage) => format!("afterwards the guest did not answer ({})", stage.waited_for()),
        End::Signal(signal) => format!("afterwards ended by signal {signal}"),
        End::Garbled(error) => format!("afterwards the guest's messages made no sense: {error}"),
    }
}

fn unplanned(session: &Session, end: &VcpuEnd, console: &str) -> String {
    let when = match session.stage() {
        Stage::Boot => "before PID 1",
        Stage::Setup => "while the load was prepared",
        Stage::Run => "while the load ran",
        Stage::Finish | Stage::PowerOff => "before the results were complete",
    };
    let panic = console.lines().rev().find(|line| line.contains("Kernel panic"));
    match (panic, &end.reason) {
        (Some(line), _) => format!("the kernel panicked {when}: {}", line.trim()),
        (None, ExitReason::Reset | ExitReason::PowerOff) => {
            format!("the kernel ended {when} ({}) without a panic message", end.reason)
        }
        (None, reason) => format!("vCPU {} ended {when}: {reason}", end.cpu),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use guest::frame::encode_message;
    use guest::wire::{Failure, Hello, LoadReport, Message, Setup, ThresholdHit};
    use vmm::vcpu::ExitCounts;
    use xtask::host::accident::Accident;

    use super::*;
    use crate::session::Limits;

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

    fn status(messages: &[Message], end: &End) -> ExitStatus {
        judge(&session(messages), end, false, "").status
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
            let verdict = judge(&session(&hit), &end, false, "");
            assert_eq!(verdict.status, ExitStatus::OverThreshold);
            assert!(verdict.reason.starts_with("afterwards"));
        }
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
        assert_eq!(status(&[], &ended(ExitReason::Panicked(String::new()))), ExitStatus::Internal);
        for (kind, expected) in [
            (FailureKind::Kernel, ExitStatus::Untestable),
            (FailureKind::Host, ExitStatus::Host),
            (FailureKind::Usage, ExitStatus::Usage),
            (FailureKind::Internal, ExitStatus::Internal),
        ] {
            let failed = [Message::Failed(Failure { kind, text: "no".into() })];
            assert_eq!(status(&failed, &ended(ExitReason::PowerOff)), expected);
        }
    }

    /// The suite with real kernels runs a case once more by these words.
    #[test]
    fn accidents_of_an_emulated_host_are_told_in_words_that_tests_know() {
        let alive = [Message::Hello(Hello::default())];
        let hit = [Message::ThresholdHit(ThresholdHit::default())];
        let told = |messages: &[Message], end: &End| {
            let verdict = judge(&session(messages), end, false, "");
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
        let verdict = judge(&session(&[]), &ended(ExitReason::Reset), false, console);
        assert!(verdict.reason.contains("panicked before PID 1"), "{}", verdict.reason);
        assert!(verdict.reason.ends_with("not syncing: VFS"), "{}", verdict.reason);
    }
}
