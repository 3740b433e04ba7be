// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use ftrace::attribution::{Cause, Part, Task};
use protocol::index::GroupIndex;
use results::host_cpus::HostCpus;
use results::model::{Explained, ExplainedPart, LagWindow, Metric, Numbers, Quantity, Warmup};

use super::*;
use crate::compose::figures::ended_by_a_hit;
use crate::limits::Limit;

fn line(result: &RunResult, name: &str) -> String {
    let text = screen(result, Path::new("r"));
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

#[test]
fn what_ended_after_the_hit_is_told_apart() {
    let mut result = ended_by_a_hit(CoschedInterface::None);
    let longest = line(&result, "longest ");
    assert!(longest.starts_with("longest  120.0 ms (scheduled-out): group 1 "), "{longest}");
    assert!(longest.ends_with("; after the hit: 2, longest 329.0 ms"), "{longest}");
    result.after_hit = None;
    assert!(!line(&result, "longest ").contains("after the hit"));
}

#[test]
fn what_the_warm_up_leaves_out_has_a_line() {
    let mut result = ended_by_a_hit(CoschedInterface::None);
    let told = |result: &RunResult| {
        let text = screen(result, Path::new("r"));
        text.lines().find_map(|line| line.strip_prefix("warm-up  ").map(str::to_owned))
    };
    assert_eq!(told(&result), None);
    let none = Warmup { time_ns: 1_000_000_000, gaps: 0, gap_ns: 0, longest_ns: 0, divided: 0 };
    result.warmup = Some(none);
    assert_eq!(told(&result).as_deref(), Some("no gap began in the first 1.00 s"));
    let some = Warmup { gaps: 23, gap_ns: 613_000_000, longest_ns: 46_200_000, ..none };
    result.warmup = Some(some);
    let text = "in no figure: 23 gaps that began in the first 1.00 s, longest 46.2 ms, 613.0 ms \
                together within them";
    assert_eq!(told(&result).as_deref(), Some(text));
    result.warmup = Some(Warmup { divided: 2, ..some });
    let text = format!("{text}; 2 went on beyond them, and what of these came later counts");
    assert_eq!(told(&result), Some(text));
}

#[test]
fn the_hosts_part_of_the_longest_gap_is_told() {
    let mut result = ended_by_a_hit(CoschedInterface::None);
    for (host_ns, told) in [
        (Some(20_000_000), "120.0 ms (scheduled-out, up to 20.0 ms of it the host's): group"),
        (Some(0), "120.0 ms (scheduled-out): group"),
        (None, "120.0 ms (scheduled-out): group"),
    ] {
        result.longest_gap = result.longest_gap.map(|gap| gap.with_host(0, host_ns));
        assert!(line(&result, "longest ").contains(told), "{host_ns:?}");
    }
}

#[test]
fn what_never_began_has_not_had_no_gap() {
    let mut result = ended_by_a_hit(CoschedInterface::None);
    result.longest_gap = None;
    assert_eq!(line(&result, "longest "), "longest  no gap");
    result.setup = None;
    assert_eq!(line(&result, "longest "), "longest  nothing was measured");
}

#[test]
fn a_run_that_was_too_short_says_so() {
    let mut result = ended_by_a_hit(CoschedInterface::None);
    assert!(line(&result, "lag ").starts_with("lag      unknown: "));
    let who = Numbers { group: 2, thread: 1 };
    let lag = |window_ns, max_ns| LagWindow { window_ns, max_ns, p99_ns: max_ns / 2, who };
    result.service_lag.windows = vec![lag(100_000_000, 4_000_000), lag(1_000_000_000, 9_000_000)];
    let told = "lag      group 2 thread 1 at most 9.0 ms behind its due within 1.00 s, all at most \
                4.5 ms for 99 % of the time wanted; starved";
    let found = line(&result, "lag ");
    assert!(found.starts_with(told), "{found}");
    result.too_short = Some("it lasted 458.0 ms, less than a second".into());
    let lag = line(&result, "lag ");
    let says = "run too short for it, for fairness and for shares: it lasted 458.0 ms, less than";
    assert!(lag.contains(says) && lag.contains("starved over 100.0 ms: 1"));
    assert!(!lag.contains("behind its due"), "{lag}");
}

/// What limits, comparisons and histories take by a name is there under that name, wherever figures
/// are told.
#[test]
fn every_figure_has_one_name_everywhere() {
    let result = ended_by_a_hit(CoschedInterface::None);
    let (screen, json) = (line(&result, "summary "), serde_json::json!(result.summary));
    let first = serde_json::to_string(&result).expect("JSON");
    let summary = first.find("\"summary\"").expect("it is there");
    assert!(first.find("\"version\"").is_some_and(|next| summary < next));
    let formats = include_str!("../../../docs/formats.md");
    let method = include_str!("../../../docs/method.md");
    assert_eq!(json.as_object().map(serde_json::Map::len), Some(Metric::ALL.len()));
    for metric in Metric::ALL {
        let name = metric.name();
        assert!(screen.contains(&format!(" {name} ")), "{name} is not in {screen}");
        assert_eq!(json[name].as_f64(), metric.of(&result), "{name}");
        for (file, text) in [("formats.md", formats), ("method.md", method)] {
            assert!(text.contains(&format!("`{name}`")), "docs/{file} lacks {name}");
        }
        let value = match metric.quantity() {
            Quantity::LengthNs => "5ms",
            Quantity::Share => "5%",
        };
        for written in [name.to_owned(), name.replace('-', "."), name.replace('-', "_")] {
            let limit = Limit::parse(&format!("{written} > {value}")).expect("a limit");
            assert_eq!(limit.text(), format!("{name} > {value}"));
        }
    }
}

#[test]
fn figures_of_cores_that_are_none_say_so() {
    let mut result = ended_by_a_hit(CoschedInterface::Prctl);
    result.forced_idle.ns = Some(33_000_000);
    result.co_run = Some(CoRun { stranger: 0.875, mate: 0.125, ..CoRun::default() });
    result.explanation = Some(explained(Cause::ForcedIdle { cpu: 3, sibling: 2, by: task() }));
    assert!(line(&result, "idle ").ends_with("forced by cookies: 33.0 ms"));
    assert!(line(&result, "co-run ").ends_with("nobody 0.0 %"));
    assert_eq!(line(&result, "why "), "why      It waited.");
    let emulated = HostCpus { emulated: true, vcpus: None };
    result.core_figures = emulated.core_figures(&result.steal);
    for name in ["idle ", "co-run "] {
        let line = line(&result, name);
        assert!(line.contains("; no measurement: this host's CPUs are emulated"), "{line}");
    }
    let why = line(&result, "why ");
    let says = "It waited. Forced idle is no measurement here: this host's CPUs are emulated";
    assert!(why.contains(says), "{why}");
    result.explanation = Some(explained(Cause::Queued { cpu: 3, behind: task() }));
    assert_eq!(line(&result, "why "), "why      It waited.");
}

fn task() -> Task {
    Task { tid: 7, name: "x".into(), group: None }
}

/// A gap with this cause.
fn explained(cause: Cause) -> Explained {
    let part = Part { cause, ticks: 1, pieces: 1, longest: 1 };
    let part = ExplainedPart { part, ns: 1, longest_ns: 1, share: 1.0, text: String::new() };
    Explained {
        who: Numbers::default(),
        tid: 1,
        begin_ns: 0,
        length_ns: 1,
        tsc_begin: 0,
        tsc_end: 1,
        paragraph: "It waited.".into(),
        clauses: Vec::new(),
        parts: vec![part],
        unknown_share: 0.0,
        migrations: 0,
        trace_late_ns: None,
    }
}

#[test]
fn a_wake_up_that_is_due_is_later_than_all_that_came() {
    let came = Some(4_000_000);
    let group =
        |wakeup_due_ns| Group { wakeup_longest_ns: came, wakeup_due_ns, ..Group::default() };
    assert!(group_line(&group(Some(630_000_000))).ends_with(" > 630.0 ms"));
    assert!(group_line(&group(Some(1_000_000))).ends_with(" 4.0 ms"));
    assert!(group_line(&group(None)).ends_with(" 4.0 ms"));
}

#[test]
fn a_group_fits_its_columns() {
    let group = Group {
        group: GroupIndex::new(0),
        cookie: Some(0xffff_8880_0123_4560),
        gaps: 1234,
        longest_gap_ns: 47_200_000,
        gap_share: Some(0.862),
        cpu_share: Some(0.125),
        wakeup_longest_ns: Some(3_200_000),
        ..Group::default()
    };
    let line = group_line(&group);
    assert!(line.contains("ffff888001234560") && line.contains("86.2 %"), "{line}");
    assert!(group_line(&Group::default()).contains('-'));
}
