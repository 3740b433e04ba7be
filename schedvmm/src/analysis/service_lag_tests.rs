// SPDX-License-Identifier: Apache-2.0
//! Lags of made runs, from what a session knows to the figures.

use std::time::Instant;

use gaps::evidence::Class as Cause;
use protocol::group::{Policy, Quota};
use protocol::message::{Hello, Setup};
use protocol::report::ThreadReport;
use results::clock::Until;
use results::model::Numbers;
use std::time::Duration;

use super::*;
use crate::testing::{self, load};

/// Ticks in a millisecond: one tick is one nanosecond.
const MS: u64 = 1_000_000;

fn span(begin_ms: u64, end_ms: u64) -> Span {
    Span { begin: begin_ms * MS, end: end_ms * MS }
}

fn gap(begin_ms: u64, end_ms: u64) -> GapRecord {
    let Span { begin: tsc_begin, end: tsc_end } = span(begin_ms, end_ms);
    GapRecord { tsc_begin, tsc_end, class: Cause::ScheduledOut, ..GapRecord::default() }
}

/// Threads that wanted to run in these times, and waited in those.
type Made<'a> = &'a [(&'a [Span], &'a [GapRecord])];

fn of(made: Made<'_>, load: &LoadSpec, cosched: CoschedInterface) -> Found {
    of_hit(made, load, cosched, None)
}

fn of_hit(made: Made<'_>, load: &LoadSpec, cosched: CoschedInterface, hit: Option<u64>) -> Found {
    let mut session = Session::new(testing::limits(made.len()), Instant::now());
    session.setup = Some(Setup { cosched, cgroup_weights: true, tsc_khz: MS, ..Setup::default() });
    let siblings = vec!["0-1".into(), "0-1".into(), "2-3".into(), "2-3".into()];
    session.hello = Some(Hello { siblings, ..Hello::default() });
    session.demand = made.iter().map(|(spans, _)| spans.to_vec()).collect();
    session.gaps = made.iter().map(|(_, gaps)| gaps.to_vec()).collect();
    let clock = Clock::new(MS, 0, load).ending(Until::new(hit));
    let parted = super::super::parted::parted(&session, clock);
    let end = hit.unwrap_or(u64::MAX);
    let threads: Vec<_> = made
        .iter()
        .zip(load.all_members())
        .zip(&parted)
        .map(|(((spans, _), member), parted)| {
            let ticks = |span: &Span| span.end.min(end).saturating_sub(span.begin);
            let busy_ticks = spans.iter().map(ticks).sum();
            let gaps = parted.ended.len() as u64;
            let report = ThreadReport { busy_ticks, gaps, ..ThreadReport::default() };
            Thread { who: member.into(), ..testing::thread(0, report) }
        })
        .collect();
    found(&session, &threads, &parted, 3000 * MS, clock)
}

/// The furthest in a second, in milliseconds, and whose it is.
fn in_a_second(found: &Found) -> (u64, String) {
    let windows = &found.lag.windows;
    assert_eq!(found.lag.note, None);
    let lengths: Vec<_> = windows.iter().map(|window| window.window_ns / MS).collect();
    assert_eq!(lengths, [100, 1000, 3000]);
    assert!(windows.is_sorted_by_key(|window| window.max_ns), "{windows:?}");
    (windows[1].max_ns / MS, windows[1].who.to_string())
}

#[test]
fn alone_nobody_is_behind_and_beside_a_hog_one_is_by_its_share() {
    // Groups of a thread each on one CPU; the second is kept from it for 300 ms.
    let spec = load(2, 1, 1);
    let none = CoschedInterface::None;
    let alone = of(&[(&[span(0, 1000)], &[]), (&[span(1000, 3000)], &[])], &spec, none);
    assert_eq!(in_a_second(&alone).0, 0);
    assert_eq!((alone.lag.windows[2].p99_ns, alone.threads_per_cpu), (0, Some(1)));
    let wants = (&[span(500, 800)][..], &[span(0, 3000)][..]);
    let hog = of(&[(wants.0, &[]), (wants.1, &[gap(500, 800)])], &spec, none);
    assert_eq!(in_a_second(&hog), (150, "2.1".into()));
    assert_eq!((hog.lag.windows[0].max_ns, hog.threads_per_cpu), (50 * MS, Some(2)));
    // The same beside one of four times the weight is less.
    let mut heavy = spec.clone();
    heavy.groups[0].policy = Policy { nice: Some(-6), ..Policy::default() };
    let weighed = of(&[(wants.0, &[]), (wants.1, &[gap(500, 800)])], &heavy, none);
    // 1024 by 3906 + 1024, of 300 ms.
    assert_eq!(in_a_second(&weighed), (62, "2.1".into()));
    // As far as the figures go.
    let cut = of_hit(&[(wants.0, &[]), (wants.1, &[gap(500, 800)])], &spec, none, Some(600 * MS));
    assert_eq!(in_a_second(&cut), (50, "2.1".into()));
}

#[test]
fn with_cookies_a_core_is_what_is_divided() {
    // Two groups of one thread on a core: half of a CPU each is all that there is.
    let spec = load(2, 1, 2);
    let wants = [span(0, 2000)];
    let (first, second) = ([gap(0, 1000)], [gap(1000, 2000)]);
    let made: Made<'_> = &[(&wants, &first), (&wants, &second)];
    assert_eq!(in_a_second(&of(made, &spec, CoschedInterface::Prctl)), (500, "1.1".into()));
    assert_eq!(of(made, &spec, CoschedInterface::Prctl).threads_per_cpu, Some(2));
    let free = of(made, &spec, CoschedInterface::None);
    assert_eq!((in_a_second(&free).0, free.threads_per_cpu), (1000, Some(1)));
    assert_eq!(cores(&[2, 3], &["0-1".into(), "2-3".into()]), Some((1, 2)));
    assert_eq!(cores(&[1, 3], &["0-1".into(), "2-3".into()]), Some((2, 1)));
    assert_eq!(cores(&[1, 2, 3], &["0-1".into(), "2-3".into()]), None);
    assert_eq!(cores(&[2, 3], &[]), None);
}

#[test]
fn where_no_ideal_is_known_the_reason_is_told() {
    let spec = load(2, 1, 1);
    let wants = [span(0, 2000)];
    let none = CoschedInterface::None;
    let made: Made<'_> = &[(&wants, &[]), (&wants, &[])];
    let with = |change: &dyn Fn(&mut GroupSpec)| {
        let mut spec = spec.clone();
        change(&mut spec.groups[1]);
        spec
    };
    let period = Duration::from_millis(100);
    let quota = with(&|group| group.quota = Some(Quota { time: period / 2, period }));
    let fifo = with(&|group| group.policy.class = Some(Class::Fifo(1)));
    let mixed = with(&|group| group.cookie = false);
    for (spec, cosched, says) in [
        (&quota, none, "has a quota"),
        (&fifo, none, "real-time class"),
        (&mixed, CoschedInterface::Prctl, "others none"),
    ] {
        let found = of(made, spec, cosched);
        assert!(found.lag.windows.is_empty() && found.threads_per_cpu.is_none());
        assert!(found.lag.note.is_some_and(|note| note.contains(says)), "{says}");
    }
    assert_eq!(of(made, &mixed, none).lag.note, None);
    assert_eq!(Numbers::default().to_string(), "0.0");
    assert_eq!([-20, 0, 19, 99].map(weight_of_nice), [88761, 1024, 15, 15]);
}
