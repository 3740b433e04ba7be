// SPDX-License-Identifier: Apache-2.0
//! Tables of the report.

use gaps::record::GapKind;
use gaps::stats::Quantiles;
use maud::{Markup, html};
use protocol::job::LoadSpec;
use protocol::message::{CoschedInterface, Setup};
use protocol::scheduler::{Family, SchedulerFacts};
use results::model::{ExplainedPart, Group, HostFacts, RunResult};

use crate::show::noise_words;
use crate::units::{as_ns, show_ns};
use crate::verbs::report::group_name;
use crate::verbs::report::svg::{px, real};
use crate::verbs::report::timeline::{cause_class, colour};
use crate::verbs::report::why::Why;

/// Causes in the table, at most.
const MAX_CAUSES: usize = 40;
/// Groups in tables, at most.
const MAX_GROUPS: usize = 256;

/// A share of one in percent.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".into(), |share| format!("{:.1} %", 100.0 * share))
}

/// A length of time, if it is known.
pub fn length(ns: Option<u64>) -> String {
    ns.map_or_else(|| "–".into(), show_ns)
}

/// The causes of the gap with the time of each.
pub fn causes(why: &Why) -> Markup {
    let parts = &why.explained.parts;
    let left_out = parts.len().saturating_sub(MAX_CAUSES);
    html! {
        div.scroll { table {
            caption { "Causes; they sum to the gap" }
            thead { tr { th scope="col" { "cause" } th.n scope="col" { "ms" } th.n scope="col" { "%" }
                th.n scope="col" { "pieces" } th.n scope="col" { "longest, ms" } } }
            tbody { @for part in parts.iter().take(MAX_CAUSES) { (cause_row(part)) } }
        } }
        @if left_out > 0 { p.small { (left_out) " smaller causes are left out." } }
    }
}

fn ms(ns: u64) -> String {
    format!("{:.3}", real(ns) / 1e6)
}

fn cause_row(part: &ExplainedPart) -> Markup {
    html! { tr {
        td.cause { svg.swatch viewBox="0 0 22 12" aria-hidden="true" {
            rect class={ "p " (cause_class(&part.part.cause)) } width="22" height="12" {} }
            (part.text) }
        td.n { (ms(part.ns)) }
        td.n { (format!("{:.1}", 100.0 * part.share)) }
        td.n { (part.part.pieces) }
        td.n { (ms(part.longest_ns)) }
    } }
}

/// Gaps of each group.
pub fn groups(result: &RunResult) -> Markup {
    let head =
        ["cookie", "gaps", "longest", "p50", "p99", "in gaps", "CPU share", "max wake-up latency"];
    html! {
        div.scroll { table {
            caption { "Gaps by group" }
            thead { tr { th scope="col" { "group" } @for name in head { th.n scope="col" { (name) } } } }
            tbody { @for group in result.groups.iter().take(MAX_GROUPS) { (group_row(result, group)) } }
        } }
        @if result.groups.len() > MAX_GROUPS {
            p.small { (result.groups.len() - MAX_GROUPS) " more groups are left out." }
        }
    }
}

fn group_row(result: &RunResult, group: &Group) -> Markup {
    let quantiles = group.statistics.quantiles;
    let number = group.group.number();
    html! { tr {
        th scope="row" { span class={ "dot " (colour(number)) } aria-hidden="true" {}
            (group_name(result, number)) }
        td.n.mono { (group.cookie.filter(|cookie| *cookie != 0)
            .map_or_else(|| "–".into(), |cookie| format!("{cookie:x}"))) }
        td.n { (group.gaps) }
        td.n { (show_ns(group.longest_gap_ns)) }
        td.n { (length(quantiles.and_then(|of| of.p50_ns))) }
        td.n { (length(quantiles.and_then(|of| of.p99_ns))) }
        td.n { (percent(group.gap_share)) }
        td.n { (percent(group.cpu_share)) }
        td.n { @if let Some(due) = group.wakeup_due_ns.filter(|due| Some(*due) > group.wakeup_longest_ns) {
            "> " (show_ns(due)) } @else { (length(group.wakeup_longest_ns)) } }
    } }
}

/// Statistics of all gaps.
pub fn statistics(result: &RunResult) -> Markup {
    let found = &result.statistics;
    html! {
        div.columns {
            div.scroll { table {
                caption { "Quantiles" }
                thead { tr { th scope="col" {} @for name in ["p50", "p90", "p99", "p99.9"] { th.n scope="col" { (name) } } } }
                tbody { (quantiles_row("time in gaps", found.time_quantiles))
                    (quantiles_row("gaps", found.quantiles))
                    @for kind in &found.kinds { (quantiles_row(of_kind(kind.kind), kind.quantiles)) }
                    (quantiles_row("wake-up delays", found.wakeup)) }
            } }
            @if !found.wait_exceeds.is_empty() {
                div.scroll { table {
                    caption { "Random arrival" }
                    thead { tr { th scope="col" { "waits longer than" } th.n scope="col" { "with" } } }
                    tbody { @for point in &found.wait_exceeds {
                        tr { th scope="row" { (show_ns(point.wait_ns)) } td.n { (percent(Some(point.probability))) } }
                    } }
                } }
            }
            div.scroll { table {
                caption { "Who took the time in gaps" }
                thead { tr { th scope="col" { "class" } th.n scope="col" { "gaps" } th.n scope="col" { "share" } } }
                tbody { @for class in &found.classes {
                    tr { th scope="row" { (class.class.name()) } td.n { (class.gaps) } td.n { (percent(class.share)) } }
                } }
            } }
        }
    }
}

fn quantiles_row(name: &str, of: Option<Quantiles>) -> Markup {
    let of = of.map(|q| [q.p50_ns, q.p90_ns, q.p99_ns, q.p999_ns].map(length));
    html! { tr { th scope="row" { (name) }
    @for value in of.unwrap_or_default() { td.n { (value) } } } }
}

fn of_kind(kind: GapKind) -> &'static str {
    match kind {
        GapKind::Preemption => "of threads that ran",
        GapKind::WakeUp => "after wake-ups",
    }
}

/// What cores did with cookies: forced idle, and who ran beside whom. Nothing without both.
pub fn cores(result: &RunResult) -> Markup {
    let idle = result.forced_idle.ns.filter(|_| result.has_cookies());
    if idle.is_none() && result.co_run.is_none() {
        return html! {};
    }
    html! {
        section aria-labelledby="h-cores" {
            h2 #h-cores { "Cores" }
            (no_measurement(result))
            @if let Some(ns) = idle {
                p { "Forced idle by cookies: " (show_ns(ns))
                    @if let Some(share) = result.forced_idle.share {
                        ", " (percent(Some(share))) " of the CPUs' time"
                    } "." }
            }
            @if let Some(found) = &result.co_run {
                div.scroll { table {
                    caption { "Beside threads of the load while they ran, " (show_ns(found.running_ns))
                        " in the trace" }
                    tbody {
                        (share_row("a thread of the same group", found.mate))
                        (share_row("anything else (a stranger)", found.stranger))
                        (share_row("nothing", found.idle))
                        (share_row("the trace does not say", found.unknown))
                    }
                } }
            }
        }
    }
}

fn share_row(name: &str, share: f64) -> Markup {
    html! { tr { th scope="row" { (name) } td.n { (percent(Some(share))) } } }
}

/// That such figures are none, and why, if so.
pub fn no_measurement(result: &RunResult) -> Markup {
    html! {
        @if let Some(why) = result.core_figures.why_not() {
            p { strong { "Forced idle and who ran beside are no measurements here: " } (why) "." }
        }
    }
}

/// Evenness of the division of the CPU.
pub fn fairness(result: &RunResult) -> Markup {
    let starvation = &result.statistics.starvation;
    html! {
        @if let Some(why) = &result.too_short {
            p { "Run too short for fairness, lag and shares: " (why) "." }
        } @else if let Some(why) = &result.service_lag.note {
            p { "How far threads were behind what they were due is unknown: " (why) "." }
        }
        div.columns {
            div.scroll { table {
                caption { "Behind what was due by an even division at each instant" }
                thead { tr { th scope="col" { "within" } th.n scope="col" { "at most" }
                    th.n scope="col" { "99 % of the time" } th scope="col" { "who" } } }
                tbody { @for lag in &result.service_lag.windows {
                    tr { th scope="row" { (show_ns(lag.window_ns)) } td.n { (show_ns(lag.max_ns)) }
                        td.n { (show_ns(lag.p99_ns)) } td { (lag.who.name(result.kind())) } }
                } }
            } }
            div.scroll { table {
                caption { "Long waits" }
                tbody {
                    tr { th scope="row" { "starved over " (show_ns(starvation.longer_than_ns)) }
                        td.n { (starvation.count) " times, " (show_ns(starvation.total_ns)) } }
                }
            } }
        }
        (shares(result))
    }
}

/// A bar for the CPU share of each group, and a line where all would be equal.
fn shares(result: &RunResult) -> Markup {
    const LEFT: f64 = 90.0;
    const RIGHT: f64 = 900.0;
    const HEIGHT: f64 = 22.0;
    let groups = &result.groups[..result.groups.len().min(MAX_GROUPS)];
    let most = groups.iter().filter_map(|group| group.cpu_share).fold(0.0, f64::max);
    if most <= 0.0 {
        return html! {};
    }
    #[allow(clippy::cast_precision_loss, reason = "at most MAX_GROUPS")]
    let (count, even) = (groups.len() as f64, 1.0 / result.groups.len() as f64);
    let scale = (RIGHT - LEFT) / most.max(even);
    let bottom = count * HEIGHT + 6.0;
    html! {
        div.scroll { svg.wide viewBox={ "0 0 1000 " (px(bottom + 18.0)) } role="img"
            aria-labelledby="shares-title shares-text" {
            title #shares-title { "CPU share of each group" }
            desc #shares-text { "The table of groups has the same numbers." }
            @for (index, group) in groups.iter().enumerate() {
                @let share = group.cpu_share.unwrap_or(0.0);
                @let y = real(index as u64) * HEIGHT;
                text.lane x=(LEFT - 8.0) y=(px(y + 16.0)) text-anchor="end" { (group_name(result, group.group.number())) }
                rect class={ "p " (colour(group.group.number())) } x=(LEFT) y=(px(y + 4.0))
                    width=(px(share * scale)) height=(HEIGHT - 6.0) {}
                text.tick x=(RIGHT + 10.0) y=(px(y + 16.0)) { (percent(Some(share))) }
            }
            path.mark d={ "M" (px(LEFT + even * scale)) " 0V" (px(bottom)) } {}
            text.tick x=(px(LEFT + even * scale)) y=(px(bottom + 13.0)) text-anchor="middle" {
                "equal: " (percent(Some(even))) }
        } }
    }
}

/// Measurement and its environment.
pub fn environment(result: &RunResult) -> Markup {
    let mut rows = Rows::default();
    rows.add("command", result.command_line.join(" "));
    if let Some(hello) = &result.kernel.hello {
        rows.add("kernel", hello.release.clone());
        rows.add("build", hello.version.clone());
    }
    rows.add("kernel file", result.kernel.path.clone());
    if let Some(hello) = &result.kernel.hello {
        rows.add("kernel command line", hello.cmdline.clone());
        rows.add("clocksource", hello.clocksource.clone());
    }
    rows.add("machine", result.machine.summary.clone());
    rows.add("cookies", cookies(result));
    rows.add("load", load(&result.job.load));
    if let Some(setup) = &result.setup {
        rows.add_setup(setup);
    }
    for (noise, name) in result.noise_floors().zip(["noise floor", "noise floor afterwards"]) {
        rows.add(name, noise_words(noise));
    }
    if let Some(tsc) = &result.tsc {
        rows.add("time stamp counter", format!("{} kHz ({})", tsc.khz, tsc.source.name()));
    }
    let phases = result.phases_ms.iter().map(|(phase, ms)| format!("{} {ms}", phase.name()));
    rows.add("phases, ms", phases.collect::<Vec<_>>().join(", "));
    rows.add_host(&result.host);
    html! { dl { @for (name, value) in rows.0 { dt { (name) } dd { (value) } } } }
}

/// Names and values; what is not known has no row.
#[derive(Default)]
struct Rows(Vec<(String, String)>);

impl Rows {
    fn add(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.push((name.to_owned(), value));
        }
    }

    fn add_host(&mut self, host: &HostFacts) {
        for (name, value) in [
            ("kernel", &host.kernel),
            ("build", &host.kernel_version),
            ("command line", &host.cmdline),
            ("CPU", &host.cpu),
            ("microcode", &host.microcode),
            ("CPUs online", &host.cpus_online),
            ("SMT", &host.smt),
            ("isolated CPUs", &host.cpus_isolated),
            ("nohz_full CPUs", &host.cpus_nohz_full),
            ("clocksource", &host.clocksource),
            ("frequency driver", &host.frequency_driver),
            ("governor", &host.governor),
            ("boost", &host.boost),
            ("no_turbo", &host.intel_no_turbo),
            ("hypervisor", &host.hypervisor),
            ("halt_poll_ns", &host.kvm_halt_poll_ns),
            ("sched_autogroup", &host.sched_autogroup),
            ("transparent huge pages", &host.transparent_hugepages),
            ("sched_rt_runtime_us", &host.rt_runtime_us),
            ("load average", &host.load_average),
            ("cgroup", &host.cgroup),
        ] {
            self.add(&format!("host {name}"), value.clone().unwrap_or_default());
        }
        let kinds = host.cpu_kinds.iter().map(|kind| format!("{}: {}", kind.name, kind.cpus));
        self.add("host kinds of CPUs", kinds.collect::<Vec<_>>().join("; "));
        self.add("host mitigations", pairs(&host.mitigations));
        for (module, parameters) in &host.kvm {
            self.add(&format!("host {module}"), pairs(parameters));
        }
        self.add("host scheduler files", pairs(&host.scheduler_files));
    }

    fn add_setup(&mut self, setup: &Setup) {
        self.add("scheduler", scheduler(&setup.scheduler));
        for tunable in &setup.tunables {
            let value = tunable.effective.as_deref().or(tunable.note.as_deref()).unwrap_or("–");
            let file = tunable.file.as_deref().map(|file| format!(", {file}")).unwrap_or_default();
            self.add(&format!("tunable {}", tunable.request), format!("{value}{file}"));
        }
    }
}

fn cookies(result: &RunResult) -> String {
    let mechanism = result.cosched.mechanism.map(CoschedInterface::name);
    match &result.cosched.note {
        Some(note) => format!("{} ({note})", mechanism.unwrap_or("none")),
        None => mechanism.unwrap_or_default().to_owned(),
    }
}

fn load(load: &LoadSpec) -> String {
    let cpus: Vec<String> = load.cpus.iter().map(u32::to_string).collect();
    format!(
        "{}{} groups, {} threads on CPUs {}, seed {}, {}, floor {}",
        load.name.as_ref().map(|name| format!("{name}: ")).unwrap_or_default(),
        load.groups.len(),
        load.groups.iter().map(|group| u64::from(group.threads)).sum::<u64>(),
        cpus.join(","),
        load.seed,
        show_ns(as_ns(load.duration)),
        show_ns(as_ns(load.floor))
    )
}

/// What is known of it.
fn scheduler(facts: &SchedulerFacts) -> String {
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    let times = [("tick", facts.tick_ns), ("slice", facts.slice_ns), ("latency", facts.latency_ns)];
    let times = times.into_iter().filter_map(|(name, ns)| Some(format!("{name} {}", show_ns(ns?))));
    let known = facts.family.map(Family::name).map(str::to_owned).into_iter().chain(times);
    let switches = [("HRTICK", facts.hrtick), ("autogroup", facts.autogroup)];
    let switches =
        switches.into_iter().filter_map(|(name, is)| Some(format!("{name} {}", on(is?))));
    known.chain(switches).chain(facts.slice_note.clone()).collect::<Vec<_>>().join(", ")
}

/// `name value, …`
fn pairs<'a>(values: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs = values.into_iter().map(|(name, value)| format!("{name} {value}"));
    pairs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut rows = Rows::default();
        let kvm = BTreeMap::from([("nested".to_owned(), "Y".to_owned())]);
        let kvm = BTreeMap::from([("kvm_amd".to_owned(), kvm)]);
        rows.add_host(&HostFacts { smt: Some("on".into()), kvm, ..HostFacts::default() });
        let rows: Vec<_> = rows.0.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(rows, [("host SMT", "on"), ("host kvm_amd", "nested Y")]);
        let facts = SchedulerFacts {
            family: Some(Family::Eevdf),
            slice_ns: Some(3_000_000),
            hrtick: Some(false),
            ..SchedulerFacts::default()
        };
        assert_eq!(scheduler(&facts), "eevdf, slice 3.0 ms, HRTICK off");
        assert_eq!(scheduler(&SchedulerFacts::default()), "");
    }
}
