// SPDX-License-Identifier: Apache-2.0
//! Gaps beside the kernel's own accounting: what a thread waited for, by two that do not know of
//! each other.

use gaps::evidence::Class;
use gaps::record::GapRecord;
use protocol::index::Kind;
use protocol::job::LoadSpec;
use results::clock::Clock;
use results::model::Thread;

/// The two may differ by so much of the larger one.
const MAX_DIFFERENCE: f64 = 0.02;
/// And by so much of the time wanted: waits that are shorter than the floor are no gaps.
const MAX_UNSEEN: f64 = 0.001;

/// What gaps come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// Of class `scheduled-out`.
    off_ns: u64,
    /// All of them.
    ns: u64,
}

impl Waits {
    /// Of these gaps.
    pub fn of(gaps: &[GapRecord], clock: Clock<'_>) -> Self {
        let off = gaps.iter().filter(|gap| gap.class == Class::ScheduledOut);
        Self {
            off_ns: off.map(|gap| clock.ns(gap.ticks())).sum(),
            ns: gaps.iter().map(|gap| clock.ns(gap.ticks())).sum(),
        }
    }
}

/// What is to be said of the thread whose gaps and accounting differ most, if that is too much. Of
/// a run that a hit ended nothing: gaps that are open then are not accounted for yet.
/// The accounting is of the warm-up, too, of which gaps have come to `early`.
pub fn note(threads: &[Thread], early: &[Waits], load: &LoadSpec, was_hit: bool) -> Option<String> {
    let kind = load.kind;
    if was_hit || kind == Kind::Vcpus {
        return None;
    }
    let early = early.iter().copied().chain(std::iter::repeat(Waits::default()));
    let told = threads.iter().zip(early).filter(|(thread, _)| {
        let report = &thread.report;
        // One that still waited when the load had ended did so in the accounting until it ran.
        thread.complete
            && report.iterations > 0
            && report.wakeup_due_ns == 0
            && !yields(thread, load)
    });
    let each = told.filter_map(|(thread, early)| Some((thread, early, differs(thread, early)?)));
    let (thread, early, by_ns) = each.max_by_key(|(.., by_ns)| *by_ns)?;
    let ms = |ns: u64| format!("{}.{:03} ms", ns / 1_000_000, ns / 1000 % 1000);
    Some(format!(
        "{} waited {} by the kernel's own accounting (run delay), and its gaps come to {}: {} are \
         missing on one side; waits below --floor, and threads that somebody stopped, do that",
        thread.who.name(kind),
        ms(thread.report.run_delay_ns.unwrap_or(0)),
        ms(thread.gap_ns.saturating_add(early.ns)),
        ms(by_ns),
    ))
}

/// True of a thread that gives its CPU away before it is measured: the accounting has it waiting
/// then, and there are no gaps.
fn yields(thread: &Thread, load: &LoadSpec) -> bool {
    let member = thread.who.member(load.kind).ok();
    let group = member.and_then(|member| load.groups.get(member.group.index()));
    let thread = member.map_or(0, |member| member.thread.index());
    group.is_some_and(|group| !group.yielding_of(thread).is_zero())
}

/// By how much the accounting is outside what the gaps leave open: time off the CPU is waited for,
/// time of others may be. `None` where that is little enough.
fn differs(thread: &Thread, early: Waits) -> Option<u64> {
    let accounted_ns = thread.report.run_delay_ns?;
    let off = thread.statistics.classes.iter().filter(|class| class.class == Class::ScheduledOut);
    let least_ns = off.map(|class| class.gap_ns).sum::<u64>().saturating_add(early.off_ns);
    let most_ns = thread.gap_ns.saturating_add(early.ns);
    let by_ns = least_ns.saturating_sub(accounted_ns).max(accounted_ns.saturating_sub(most_ns));
    let larger_ns = accounted_ns.max(least_ns);
    let part = |ns: u64, limit: f64| gaps::stats::share(by_ns, ns).is_none_or(|is| is > limit);
    let much = by_ns > 0 && part(larger_ns, MAX_DIFFERENCE);
    (much && part(thread.statistics.wanted_ns, MAX_UNSEEN)).then_some(by_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::report::ThreadReport;
    use results::model::{ClassShare, Statistics};

    const MS: u64 = 1_000_000;

    /// A thread that wanted to run for 10 s.
    fn thread(off_ms: u64, host_ms: u64, run_delay_ms: Option<u64>) -> Thread {
        let report = ThreadReport {
            iterations: 1,
            run_delay_ns: run_delay_ms.map(|ms| ms * MS),
            ..ThreadReport::default()
        };
        let class = |class, ms| ClassShare { class, gaps: 1, gap_ns: ms * MS, share: None };
        let statistics = Statistics {
            wanted_ns: 10_000 * MS,
            classes: vec![class(Class::ScheduledOut, off_ms), class(Class::Host, host_ms)],
            ..Statistics::default()
        };
        let gap_ns = (off_ms + host_ms) * MS;
        Thread { gap_ns, statistics, ..crate::testing::thread(0, report) }
    }

    #[test]
    fn a_difference_of_more_than_two_per_cent_is_told() {
        let load = crate::testing::load(1, 1, 1);
        let told = |thread| note(&[thread], &[], &load, false);
        for fine in [
            thread(5000, 0, Some(5000)),
            thread(5000, 0, Some(5100)),
            thread(5000, 0, Some(4901)),
            // Whoever took the host's part, the thread may have waited meanwhile.
            thread(5000, 1000, Some(6000)),
            // Little, if much of little.
            thread(0, 0, Some(10)),
            thread(5000, 0, None),
        ] {
            assert_eq!(told(fine), None);
        }
        for (wrong, ms) in [
            (thread(5000, 0, Some(5103)), "103.000 ms are missing"),
            (thread(5000, 0, Some(4899)), "101.000 ms are missing"),
            (thread(3, 0, Some(1345)), "1342.000 ms are missing"),
        ] {
            let text = told(wrong).expect("told");
            assert!(text.starts_with("group 1 thread 1 waited") && text.contains(ms), "{text}");
        }
        let wrong = || thread(3, 0, Some(1345));
        assert_eq!(note(&[wrong()], &[], &load, true), None);
        let vcpus = LoadSpec { kind: Kind::Vcpus, ..load.clone() };
        assert_eq!(note(&[wrong()], &[], &vcpus, false), None);
        // It waited in the warm-up, of which its gaps are in no figure.
        let early = Waits { off_ns: 1342 * MS, ns: 1342 * MS };
        assert_eq!(note(&[wrong()], &[early], &load, false), None);
        // What is in the accounting and in no gap for a reason that is known.
        let mut due = wrong();
        due.report.wakeup_due_ns = 1;
        assert_eq!(told(due), None);
        let mut yielding = load.clone();
        yielding.groups[0].yielding = std::time::Duration::from_secs(1);
        assert_eq!(note(&[wrong()], &[], &yielding, false), None);
    }
}
