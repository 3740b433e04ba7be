// SPDX-License-Identifier: Apache-2.0
//! The screen at the end of a run, line by line.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use gaps::record::GapKind;
use protocol::index::Kind;
use protocol::job::{CoschedRequest, LoadSpec};
use protocol::message::CoschedInterface;
use protocol::meter::MeterFacts;
use protocol::noise::NoiseFloor;
use results::model::{
    Answer, CoRun, FigureSource, Group, RunResult, ServiceLag, Statistics, Summary, VmResult,
    Warmup,
};

use crate::analysis::expected;
use crate::limits;
use crate::terminal::one_line;
use crate::units::{show_figure, show_ns};

/// The wait whose probability is on the screen.
const SHOWN_WAIT_NS: u64 = 10_000_000;

/// The end screen.
pub(super) fn screen(result: &RunResult, folder: &Path) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_screen(&mut text, result, folder);
    text
}

fn write_screen(text: &mut String, result: &RunResult, folder: &Path) -> std::fmt::Result {
    writeln!(text)?;
    line(text, "kernel", &kernel_line(result))?;
    line(text, "cookies", &cookie_line(result))?;
    line(text, "machine", &result.machine.summary)?;
    match result.setup.as_ref().and_then(|setup| setup.meter.as_ref()) {
        Some(meter) => line(text, "meter", &meter_line(meter, result))?,
        None => line(text, "load", &load_line(&result.job.load))?,
    }
    for note in &result.notes {
        line(text, "note", note)?;
    }
    write_groups(text, result)?;
    writeln!(text)?;
    line(text, "longest", &longest_line(result))?;
    if let Some(warmup) = &result.warmup {
        line(text, "warm-up", &warmup_line(warmup))?;
    }
    if result.setup.is_some() {
        // Of machines nothing is expected, and forced idle time is not accounted for.
        let threads = result.job.nested.is_none();
        if threads {
            line(text, "expected", &expected::line(&result.expected))?;
        }
        line(text, "gaps", &gaps_line(&result.statistics))?;
        line(text, "lag", &lag_line(result))?;
        let remark = result.core_figures.remark();
        if let Some(found) = forced_idle_line(result).filter(|_| threads) {
            line(text, "idle", &format!("{found}{remark}"))?;
        }
        if let Some(found) = &result.co_run {
            line(text, "co-run", &format!("{}{remark}", co_run_line(found)))?;
        }
        line(text, "cause", &cause_line(&result.statistics))?;
        if let Some(explanation) = &result.explanation {
            let doubt = result.core_figures.why_not().filter(|_| explanation.is_forced_idle());
            let doubt = doubt.map_or_else(String::new, |why| {
                format!(" Forced idle is no measurement here: {why}.")
            });
            line(text, "why", &format!("{}{doubt}", explanation.paragraph))?;
        }
        line(text, "noise", &noise_line(result))?;
        line(text, "summary", &summary_line(&result.summary))?;
    }
    if !result.limits.is_empty() {
        line(text, "limits", &limits::said(&result.limits))?;
    }
    line(text, "verdict", &verdict_line(result, result.job.load.threshold))?;
    line(text, "result", &folder.display().to_string())?;
    // Whoever shows it ends the last line.
    text.pop();
    Ok(())
}

/// A line for each group, or for each machine.
fn write_groups(text: &mut String, result: &RunResult) -> std::fmt::Result {
    if !result.vms.is_empty() {
        writeln!(text)?;
        write_vms(text, &result.vms)?;
    } else if result.setup.is_some() {
        writeln!(text)?;
        writeln!(
            text,
            "group             cookie     gaps    longest        p99  in gaps  CPU share  \
                max wake-up"
        )?;
        for group in &result.groups {
            writeln!(text, "{}", group_line(group))?;
        }
    }
    Ok(())
}

/// A line of the screen; whatever it tells of, it is one.
fn line(text: &mut String, name: &str, value: &str) -> std::fmt::Result {
    writeln!(text, "{name:<8} {}", one_line(value))
}

fn list(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// What measured, and what it left untold.
fn meter_line(meter: &MeterFacts, result: &RunResult) -> String {
    let load = &result.job.load;
    let mut line =
        format!("{} on CPUs {}, {:?}", meter.kind.name(), list(&load.cpus), load.duration);
    if let (Some(mode), Some(window_us), Some(width_us)) =
        (&meter.mode, meter.window_us, meter.width_us)
    {
        let mode = mode.name();
        let _ = write!(
            line,
            ", {mode}, {:?} of every {:?}",
            Duration::from_micros(width_us),
            Duration::from_micros(window_us)
        );
    }
    if let Some(note) = &meter.note {
        let _ = write!(line, " ({note})");
    }
    if let Some(report) = &result.meter {
        let unmeasured = report.unmeasured_gaps.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        let untold = [
            (unmeasured, "more gaps were only counted"),
            (report.lost_events, "events were lost"),
            (report.unread_lines, "lines could not be read"),
        ];
        for (count, what) in untold.into_iter().filter(|(count, _)| *count > 0) {
            let _ = write!(line, "; {count} {what}");
        }
    }
    line
}

fn kernel_line(result: &RunResult) -> String {
    match &result.kernel.hello {
        Some(hello) => format!("{} {}", hello.release, hello.version),
        None => result.kernel.banner.clone().unwrap_or_else(|| result.kernel.path.clone()),
    }
}

fn load_line(load: &LoadSpec) -> String {
    let name = load.name.as_ref().map_or_else(String::new, |name| format!("{name}: "));
    let groups = load.groups.len();
    let (each, bursts) = match load.uniform() {
        Some(group) => (
            format!("{groups} groups x {} threads", group.threads),
            match group.arrival {
                None => format!(", bursts of {:?}", group.busy.min(load.duration)),
                Some(arrival) => format!(", work of {:?}, {arrival}", group.busy),
            },
        ),
        None => (format!("{groups} groups, {} threads", load.threads()), String::new()),
    };
    let cpus = list(&load.cpus);
    let warmup = match load.warmup {
        Duration::ZERO => String::new(),
        warmup => format!(", of which the first {warmup:?} are warm-up and in no figure"),
    };
    format!("{name}{each} on CPUs {cpus}{bursts}, seed {}, {:?}{warmup}", load.seed, load.duration)
}

fn cookie_line(result: &RunResult) -> String {
    let found = result.cosched.mechanism;
    let mechanism = found.map_or("not set up", CoschedInterface::name);
    let by_name = result.job.cosched == CoschedRequest::None && result.job.meter.is_none();
    match &result.cosched.note {
        Some(note) => format!("{mechanism} ({note})"),
        None if found == Some(CoschedInterface::None) && by_name => {
            format!("{mechanism} (as asked)")
        }
        None => mechanism.to_owned(),
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

fn told_ns(length_ns: Option<u64>) -> String {
    length_ns.map_or_else(|| "-".to_owned(), show_ns)
}

/// Statistics of all gaps.
fn gaps_line(found: &Statistics) -> String {
    let Some(quantiles) = found.quantiles else { return "none".to_owned() };
    let mut line = String::new();
    if let Some(half_ns) = found.time_quantiles.and_then(|of_time| of_time.p50_ns) {
        let _ = write!(line, "half of the time lost in those over {}; ", show_ns(half_ns));
    }
    let _ = write!(
        line,
        "p50 {}, p99 {}, p99.9 {}",
        told_ns(quantiles.p50_ns),
        told_ns(quantiles.p99_ns),
        told_ns(quantiles.p999_ns)
    );
    if let Some(mean_ns) = found.mean_wait_ns {
        // Positive, and a figure for a reader.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let mean_ns = mean_ns as u64;
        let _ = write!(line, "; a random arrival waits {} on average", show_ns(mean_ns));
    }
    if let Some(point) = found.wait_exceeds.iter().find(|point| point.wait_ns == SHOWN_WAIT_NS) {
        let (wait, probability) = (show_ns(point.wait_ns), percent(Some(point.probability)));
        let _ = write!(line, ", over {wait} with {probability}");
    }
    match found.source {
        FigureSource::Records => {}
        FigureSource::Histogram => {
            line.push_str("; records overflowed: figures are up to 1.6 % high")
        }
        FigureSource::Partial => line.push_str("; the run ended early: some gaps are missing"),
    }
    line
}

fn lag_line(result: &RunResult) -> String {
    let starvation = result.statistics.starvation;
    let even = match &result.too_short {
        Some(why) => format!("run too short for it, for fairness and for shares: {why}"),
        None => lag_words(&result.service_lag, result.kind()),
    };
    format!(
        "{even}; starved over {}: {} times",
        show_ns(starvation.longer_than_ns),
        starvation.count
    )
}

/// How far threads were behind an ideal.
fn lag_words(found: &ServiceLag, kind: Kind) -> String {
    match found.in_a_second() {
        Some(lag) => format!(
            "{} at most {} behind its due within {}, all at most {} for 99 % of the time wanted",
            lag.who.name(kind),
            show_ns(lag.max_ns),
            show_ns(lag.window_ns),
            show_ns(lag.p99_ns)
        ),
        None => format!("unknown: {}", found.note.as_deref().unwrap_or("no thread wanted to run")),
    }
}

/// All figures by which runs are judged and compared, by name.
fn summary_line(summary: &Summary) -> String {
    let figures = summary.0.iter().map(|(metric, value)| {
        let value = value.map_or_else(|| "-".to_owned(), |it| show_figure(metric.quantity(), it));
        format!("{} {value}", metric.name())
    });
    figures.collect::<Vec<_>>().join(", ")
}

/// CPU time lost to cookies; nothing is said where there are none.
fn forced_idle_line(result: &RunResult) -> Option<String> {
    result.has_cookies().then_some(())?;
    let found = &result.forced_idle;
    Some(match (found.ns, &found.note) {
        (Some(ns), _) => match found.share {
            Some(share) => format!(
                "forced by cookies: {} of the CPUs' time ({})",
                percent(Some(share)),
                show_ns(ns)
            ),
            None => format!("forced by cookies: {}", show_ns(ns)),
        },
        (None, note) => {
            format!("forced by cookies: unknown; {}", note.as_deref().unwrap_or_default())
        }
    })
}

/// Who ran beside the load's threads.
fn co_run_line(found: &CoRun) -> String {
    let [mate, stranger, idle] =
        [found.mate, found.stranger, found.idle].map(|share| percent(Some(share)));
    let mut line = format!(
        "beside threads of the load while they ran: mates {mate}, strangers {stranger}, nobody \
         {idle}"
    );
    if found.unknown >= 5e-4 {
        let _ = write!(line, ", unknown {}", percent(Some(found.unknown)));
    }
    line
}

/// Who took the time.
fn cause_line(found: &Statistics) -> String {
    // Shares that would be shown as 0.0 % say nothing.
    let shown = found.classes.iter().filter(|class| class.share.is_some_and(|share| share >= 5e-4));
    let classes: Vec<_> =
        shown.map(|class| format!("{} {}", class.class.name(), percent(class.share))).collect();
    if classes.is_empty() {
        "-".to_owned()
    } else {
        let waking = found.kinds.iter().find(|kind| kind.kind == GapKind::WakeUp);
        let waking = waking.filter(|kind| kind.share.is_some_and(|share| share >= 5e-4));
        let waking = waking.map_or_else(String::new, |kind| {
            format!("; {} of it after wake-ups", percent(kind.share))
        });
        format!("{} of the time in gaps{waking}", classes.join(", "))
    }
}

/// Noise found by the meter without a load.
fn noise_line(result: &RunResult) -> String {
    let each: Vec<_> = result.noise_floors().map(noise_words).collect();
    if each.is_empty() { "not measured".to_owned() } else { each.join("; after it ") }
}

/// What was lost without a load.
pub fn noise_words(noise: &NoiseFloor) -> String {
    format!(
        "longest {} in {} without a load, {} lost",
        show_ns(noise.longest_ns),
        show_ns(noise.duration_ns),
        percent(Some(noise.gap_share))
    )
}

fn group_line(group: &Group) -> String {
    let cookie = match group.cookie {
        None | Some(0) => "-".to_owned(),
        Some(cookie) => format!("{cookie:x}"),
    };
    // One that was still due is later yet.
    let due = group.wakeup_due_ns.filter(|due| Some(*due) > group.wakeup_longest_ns);
    let wakeup = match (due, group.wakeup_longest_ns) {
        (Some(due), _) => format!("> {}", show_ns(due)),
        (None, Some(longest)) => show_ns(longest),
        (None, None) => "-".to_owned(),
    };
    let p99 = told_ns(group.statistics.quantiles.and_then(|it| it.p99_ns));
    format!(
        "{:>5}  {cookie:>17}  {:>7}  {:>9}  {:>9}  {:>7}  {:>9}  {wakeup:>14}",
        group.group.number(),
        group.gaps,
        show_ns(group.longest_gap_ns),
        p99,
        percent(group.gap_share),
        percent(group.cpu_share)
    )
}

/// The table of virtual machines, and what became of those that failed.
fn write_vms(text: &mut String, vms: &[VmResult]) -> std::fmt::Result {
    writeln!(
        text,
        "   VM             cookie     gaps    longest     vCPU 0     vCPU 1  in gaps  CPU share  \
         memory"
    )?;
    for vm in vms {
        let cookie = match vm.status.threads.first().map_or(0, |thread| thread.cookie) {
            0 => "-".to_owned(),
            cookie => format!("{cookie:x}"),
        };
        let memory = vm.status.pss_kib.or(vm.status.rss_kib);
        writeln!(
            text,
            "{:>5}  {cookie:>17}  {:>7}  {:>9}  {:>9}  {:>9}  {:>7}  {:>9}  {:>6}",
            vm.status.vm,
            vm.gaps,
            show_ns(vm.longest_gap_ns),
            vcpu_gap(0, &vm.longest_gap_by_vcpu_ns),
            vcpu_gap(1, &vm.longest_gap_by_vcpu_ns),
            percent(vm.gap_share),
            percent(vm.cpu_share),
            memory.map_or_else(|| "-".to_owned(), |kib| format!("{} M", kib >> 10))
        )?;
    }
    vms.iter()
        .filter_map(|vm| Some(format!("VM {} {}", vm.status.vm, vm.status.fault.as_ref()?)))
        .try_for_each(|what| line(text, "failed", &what))
}

fn vcpu_gap(n: usize, longest_ns: &[u64]) -> String {
    longest_ns.get(n).map_or("-".into(), |ns| show_ns(*ns))
}

/// What the warm-up leaves out.
pub fn warmup_line(warmup: &Warmup) -> String {
    let Warmup { time_ns, gaps, gap_ns, longest_ns, divided } = warmup;
    let time = show_ns(*time_ns);
    if *gaps == 0 {
        return format!("no gap began in the first {time}");
    }
    let went_on = match divided {
        0 => String::new(),
        _ => format!("; {divided} went on beyond them, and what of these came later counts"),
    };
    format!(
        "in no figure: {gaps} gaps that began in the first {time}, longest {}, {} together \
         within them{went_on}",
        show_ns(*longest_ns),
        show_ns(*gap_ns)
    )
}

fn longest_line(result: &RunResult) -> String {
    let Some(gap) = &result.longest_gap else {
        // Only a load has gaps, or none.
        let begun = result.setup.is_some();
        return if begun { "no gap" } else { "nothing was measured" }.to_owned();
    };
    let tid = gap.tid.map_or_else(String::new, |tid| format!(" (tid {tid})"));
    let after = result.after_hit.as_ref().map_or_else(String::new, |after| {
        format!("; after the hit: {}, longest {}", after.gaps, show_ns(after.longest_ns))
    });
    let kind = match gap.kind {
        GapKind::Preemption => "",
        GapKind::WakeUp => ", of a wake-up",
    };
    let host = gap.host_ns.filter(|ns| *ns > 0);
    let host =
        host.map_or_else(String::new, |ns| format!(", up to {} of it the host's", show_ns(ns)));
    format!(
        "{}{} ({}{kind}{host}): {}{tid}, {} after the start, CPU {} to {}{after}",
        if gap.unfinished { "> " } else { "" },
        show_ns(gap.length_ns),
        gap.class.name(),
        gap.who.name(result.kind()),
        show_ns(gap.begin_ns),
        gap.cpu_begin,
        gap.cpu_end
    )
}

/// The answer, and the reason for it.
pub(super) fn verdict_line(result: &RunResult, threshold: Option<Duration>) -> String {
    let without = if result.cosched.missing { ", without cookies" } else { "" };
    let threshold = threshold.unwrap_or_default();
    let line = match result.verdict {
        Answer::Pass => format!("PASS{without}: {}", kept(result)),
        Answer::OverLimit => format!("OVER LIMIT{without}"),
        Answer::Measured => format!("MEASURED{without}: no threshold was set"),
        Answer::OverThreshold => format!("OVER THRESHOLD{without}: a gap over {threshold:?}"),
        Answer::Untestable => "UNTESTABLE".to_owned(),
        Answer::Interrupted => format!("INTERRUPTED{without}"),
        Answer::UsageError => "USAGE ERROR".to_owned(),
        Answer::HostError => "HOST ERROR".to_owned(),
        Answer::InternalError => "INTERNAL ERROR".to_owned(),
    };
    if result.reason.is_empty() { line } else { format!("{line}: {}", result.reason) }
}

/// What a pass is about.
fn kept(result: &RunResult) -> String {
    let threshold = result.job.load.threshold.map(|threshold| format!("no gap over {threshold:?}"));
    let limits = (!result.limits.is_empty()).then(|| "no figure over its limit".to_owned());
    threshold.into_iter().chain(limits).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
