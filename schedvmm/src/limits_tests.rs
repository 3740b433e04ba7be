// SPDX-License-Identifier: Apache-2.0
//! What limits come to, as a table and as rules that always hold.

use proptest::prelude::*;
use protocol::report::ThreadReport;
use results::model::{ClassShare, LagWindow, Numbers, Steal, WaitExceeds};
use results::testing;

use super::*;

const MS: u64 = 1_000_000;

fn limits(texts: &[&str]) -> Vec<Limit> {
    texts.iter().map(|text| Limit::parse(text).expect("a limit")).collect()
}

/// A run of ten seconds wanted with a hundred gaps of 10 ms each and one of `longest_ms`, of which
/// those of the host are so many.
fn run(longest_ms: u64, hosts: u64) -> RunResult {
    let own = vec![(10 * MS, 100 - hosts), (longest_ms * MS, 1)];
    made(&own, &[(10 * MS, hosts)])
}

/// A run with these gaps of the scheduler's and of the host's, each a late wake-up. No two threads
/// share a CPU.
fn made(own: &[(u64, u64)], hosts: &[(u64, u64)]) -> RunResult {
    let lengths = [own, hosts].concat();
    let longest_ns = lengths.iter().filter(|it| it.1 > 0).map(|it| it.0).max().unwrap_or(0);
    let mut result = testing::result("user");
    result.verdict = Answer::Measured;
    (result.threshold_hit, result.after_hit, result.job.load.threshold) = (None, None, None);
    result.job.load.cpus = (0..16).collect();
    result.setup.as_mut().expect("it started").noise = None;
    result.steal = Steal { share: Some(0.0), budget: 0.005, contaminated: false };
    let report = ThreadReport {
        gap_histogram_ns: lengths.clone(),
        wakeup_histogram_ns: lengths.clone(),
        wakeup_longest_ns: longest_ns,
        ..ThreadReport::default()
    };
    let mut thread = testing::thread(Numbers::default(), report);
    thread.longest_gap_ns = longest_ns;
    result.threads = vec![thread];
    let all = Distribution::of_buckets(&lengths);
    let figures = &mut result.statistics;
    figures.source = FigureSource::Records;
    figures.wanted_ns = 10_000 * MS;
    figures.time_quantiles = all.time_quantiles();
    figures.wakeup = all.quantiles();
    figures.quantiles = all.quantiles();
    let probability = all.wait_exceeds(10 * MS, figures.wanted_ns).expect("a time wanted");
    figures.wait_exceeds = vec![WaitExceeds { wait_ns: 10 * MS, probability }];
    figures.gap_share = Some(total_ns(&all) / 1e10);
    figures.mean_wait_ns = all.mean_wait_ns(figures.wanted_ns);
    let of = |class, gaps: &[(u64, u64)]| {
        let count = gaps.iter().map(|it| it.1).sum();
        let gap_ns = gaps.iter().map(|it| it.0 * it.1).sum();
        ClassShare { class, gaps: count, gap_ns, share: None }
    };
    figures.classes = vec![of(Class::ScheduledOut, own), of(Class::Host, hosts)];
    figures.classes.retain(|it| it.gaps > 0);
    result.longest_gap_ns = Some(longest_ns);
    let gap = result.longest_gap.as_mut().expect("one");
    (gap.length_ns, gap.class) = (longest_ns, Class::ScheduledOut);
    (gap.host_ns, gap.host_known_ns) = (Some(0), 0);
    result
}

fn judged(result: &mut RunResult, texts: &[&str], terms: Terms) -> Verdict {
    let answer = result.verdict;
    let plain = Verdict { answer, reason: String::new(), code: None, signal: None, note: None };
    judge(&limits(texts), terms, Stage::PowerOff, result, plain)
}

fn come_to(mut result: RunResult, texts: &[&str]) -> (Answer, Option<ReasonCode>, String) {
    let verdict = judged(&mut result, texts, Terms::NONE);
    assert_eq!(verdict.answer, result.verdict);
    assert_eq!(Some(verdict.status().code()), result.exit_status);
    assert_eq!((verdict.code, &verdict.reason), (result.reason_code, &result.reason));
    assert_eq!(result.reason_stage.is_some(), result.reason_code.is_some());
    (verdict.answer, verdict.code, verdict.reason)
}

#[test]
fn limits_are_read_as_they_are_written() {
    for (text, is) in [
        ("wakeup-p99 > 5ms", "wakeup-p99 > 5ms"),
        ("wakeup.p99>5000us", "wakeup-p99 > 5ms"),
        ("forced_idle > 20%", "forced-idle > 20%"),
        (" lag > 50ms ", "lag > 50ms"),
        ("gap-share > 7%", "gap-share > 7%"),
    ] {
        let limit = Limit::parse(text).expect("a limit");
        assert_eq!(limit.text(), is);
        assert_eq!(Limit::parse(&limit.text()), Ok(limit));
    }
    for (text, says) in [
        ("wakeup-p99", "FIGURE > VALUE"),
        ("wakeup-p99 < 5ms", "FIGURE > VALUE"),
        ("wakeup-p98 > 5ms", "no figure \"wakeup-p98\"; there are wait-p99, wait-p50"),
        ("wakeup-p99 > 5", "the value \"5\" of wakeup-p99"),
        ("gap-share > 5ms", "the value \"5ms\" of gap-share"),
        ("gap-share > 120%", "between 0% and 100%"),
        ("wakeup-p99 >= 5ms", "the value \"= 5ms\""),
        ("", "FIGURE > VALUE"),
    ] {
        let error = Limit::parse(text).expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn what_is_over_its_limit_fails_and_says_which() {
    let kept = ["longest > 60ms", "wait-p50 > 10ms", "gap-share > 11%", "mean-wait > 1ms"];
    assert_eq!(come_to(run(50, 0), &kept), (Answer::Pass, None, String::new()));
    let over = ["longest > 49ms", "wait-p50 > 10ms", "gap-share > 10%"];
    let (answer, code, reason) = come_to(run(50, 0), &over);
    assert_eq!((answer, code), (Answer::OverLimit, Some(ReasonCode::OverLimit)));
    assert_eq!(reason, "longest is 50.0 ms, over 49.0 ms; gap-share is 10.50 %, over 10.00 %");
    // One fails, whatever is not known of others.
    let (answer, _, reason) = come_to(run(50, 0), &["wait-p999 > 1ms", "longest > 49ms"]);
    assert_eq!((answer, reason.as_str()), (Answer::OverLimit, "longest is 50.0 ms, over 49.0 ms"));
    let (answer, code, reason) = come_to(run(50, 0), &["wait-p999 > 1ms", "longest > 50ms"]);
    assert_eq!((answer, code), (Answer::Untestable, Some(ReasonCode::FigureUnknown)));
    assert!(reason.contains("does not tell wait-p999 (which may be 1.0 ms)"), "{reason}");
}

#[test]
fn what_the_host_may_have_made_is_no_fail_and_what_is_kept_is_kept() {
    // Ten gaps of ten milliseconds are the host's: without them, half of the time is in gaps of ten
    // still, and 9.5 % of the time is spent in gaps.
    let of_host = |limit: &str| come_to(run(50, 10), &[limit]);
    assert_eq!(of_host("wait-p50 > 9ms").0, Answer::OverLimit);
    assert_eq!(of_host("gap-share > 9.4%").0, Answer::OverLimit);
    for doubtful in ["gap-share > 9.6%", "wait-p99 > 11ms", "wakeup-max > 40ms", "lag > 0ns"] {
        let mut result = run(50, 10);
        result.statistics.time_quantiles.as_mut().expect("gaps").p99_ns = Some(50 * MS);
        result.statistics.largest_lag =
            vec![results::model::Lag { window_ns: 100 * MS, lag_ns: 90 * MS }];
        let (answer, code, reason) = come_to(result, &[doubtful]);
        assert_eq!((answer, code), (Answer::Untestable, Some(ReasonCode::HostTook)), "{doubtful}");
        assert!(reason.contains("may be no more than"), "{reason}");
    }
    assert_eq!(of_host("gap-share > 10.5%").0, Answer::Pass);
    // Of the longest gap it is known how much is the host's.
    let mut result = run(50, 0);
    result.longest_gap.as_mut().expect("one").host_ns = Some(10 * MS);
    assert_eq!(come_to(result.clone(), &["longest > 39ms"]).0, Answer::OverLimit);
    assert_eq!(come_to(result.clone(), &["longest > 40ms"]).0, Answer::Untestable);
    let gap = result.longest_gap.as_mut().expect("one");
    (gap.host_ns, gap.class) = (None, Class::Unknown);
    assert_eq!(come_to(result.clone(), &["longest > 1ms"]).0, Answer::Untestable);
    // What is around a machine in the guest is what such a run measures, and this host is not.
    result.target = Target::Nested;
    assert_eq!(come_to(result.clone(), &["longest > 1ms"]).0, Answer::Untestable);
    result.longest_gap.as_mut().expect("one").host_ns = Some(10 * MS);
    assert_eq!(come_to(result.clone(), &["longest > 39ms"]).0, Answer::OverLimit);
    assert_eq!(come_to(result.clone(), &["longest > 40ms"]).0, Answer::Untestable);
    assert_eq!(come_to(result, &["gap-share > 10%"]).0, Answer::OverLimit);
}

/// Half of the time is in gaps of 60 ms without those that may be the host's, and in shorter ones with
/// them.
#[test]
fn short_gaps_of_the_host_hide_no_long_ones() {
    let result = made(&[(60 * MS, 50)], &[(MS, 4000)]);
    assert_eq!(Metric::WaitP50.of(&result), Some(1e6));
    assert_eq!(come_to(result.clone(), &["wait-p50 > 50ms"]).0, Answer::Untestable);
    assert_eq!(come_to(result, &["wait-p50 > 60ms"]).0, Answer::Pass);
}

/// What a thread was kept from, and gaps that are the host's, are no lag of the kernel's.
#[test]
fn lag_has_limits_of_its_own() {
    let mut result = run(50, 10);
    let lag = |window_ns, max_ms: u64| LagWindow {
        window_ns,
        max_ns: max_ms * MS,
        p99_ns: max_ms * MS / 2,
        who: Numbers::default(),
    };
    result.service_lag.windows =
        vec![lag(100 * MS, 90), lag(1000 * MS, 300), lag(10_000 * MS, 900)];
    // Of 300 ms a hundred may be the host's.
    assert_eq!(come_to(result.clone(), &["lag.max > 300ms", "lag.p99 > 150ms"]).0, Answer::Pass);
    assert_eq!(come_to(result.clone(), &["lag.max > 199ms"]).0, Answer::OverLimit);
    assert_eq!(come_to(result.clone(), &["lag.max > 200ms"]).0, Answer::Untestable);
    assert_eq!(come_to(result.clone(), &["lag.p99 > 49ms"]).0, Answer::OverLimit);
    assert_eq!(come_to(result.clone(), &["lag.p99 > 50ms"]).0, Answer::Untestable);
    // What the host took is never a fail of the kernel's.
    result.steal = Steal { share: Some(0.5), budget: 1.0, contaminated: false };
    assert_eq!(come_to(result, &["steal > 40%"]).0, Answer::Untestable);
}

/// Where sixteen threads share two CPUs, seven wait behind the one that the host stopped.
#[test]
fn what_queues_behind_the_host_is_not_the_kernels() {
    let mut result = run(50, 3);
    assert_eq!(come_to(result.clone(), &["gap-share > 10%"]).0, Answer::OverLimit);
    result.job.load.cpus = vec![2, 3];
    assert_eq!(come_to(result, &["gap-share > 10%"]).0, Answer::Untestable);
}

#[test]
fn wake_ups_are_known_to_their_buckets_and_above_the_floor() {
    // Of 5.02 ms at most, and of 4.95 ms at least.
    let result = made(&[(5_020_000, 1000)], &[]);
    assert_eq!(come_to(result.clone(), &["wakeup-p50 > 5ms"]).0, Answer::Untestable);
    assert_eq!(come_to(result.clone(), &["wakeup-p50 > 4900us"]).0, Answer::OverLimit);
    let mut result = result;
    result.job.load.floor = Duration::from_millis(6);
    assert_eq!(come_to(result, &["wakeup-p50 > 4900us"]).0, Answer::Untestable);
    // With work that comes every millisecond one stop is many late wake-ups.
    let mut result = made(&[(20 * MS, 1000), (MS, 100_000)], &[(60 * MS, 1)]);
    assert_eq!(come_to(result.clone(), &["wakeup-p999 > 10ms"]).0, Answer::OverLimit);
    let arrival = Some(protocol::group::ArrivalSpec::Periodic(Duration::from_micros(50)));
    result.job.load.groups.iter_mut().for_each(|group| group.arrival = arrival);
    assert_eq!(come_to(result, &["wakeup-p999 > 10ms"]).0, Answer::Untestable);
}

/// A gap of the limit's size without a load was made by no scheduler.
#[test]
fn noise_of_the_limits_size_makes_a_fail_none() {
    use protocol::noise::{CpuNoise, NoiseFloor};
    let mut result = run(120, 0);
    let class = gaps::tally::ClassTotal { class: Class::Unknown, gaps: 1, gap_ticks: 150 };
    let cpu = CpuNoise {
        gap_ns: 150 * MS,
        longest_ns: 150 * MS,
        classes: vec![class],
        ..CpuNoise::default()
    };
    result.noise_after = Some(NoiseFloor { cpus: vec![cpu], ..NoiseFloor::default() });
    let (answer, code, _) = come_to(result.clone(), &["longest > 100ms"]);
    assert_eq!((answer, code), (Answer::Untestable, Some(ReasonCode::Noisy)));
    assert_eq!(come_to(result, &["gap-share > 1%"]).0, Answer::OverLimit);
}

#[test]
fn a_contaminated_run_fails_no_limit_unless_it_is_to_count() {
    let mut result = run(50, 0);
    result.steal = Steal { share: Some(0.1), budget: 0.005, contaminated: true };
    let (answer, code, reason) = come_to(result.clone(), &["longest > 49ms"]);
    assert_eq!((answer, code), (Answer::Untestable, Some(ReasonCode::Contaminated)));
    assert!(reason.contains("--on-contaminated report"), "{reason}");
    assert_eq!(come_to(result.clone(), &["longest > 50ms"]).0, Answer::Pass);
    let terms = Terms { report_contaminated: true, ..Terms::NONE };
    let verdict = judged(&mut result, &["longest > 49ms"], terms);
    assert_eq!(verdict.answer, Answer::OverLimit);
    assert!(result.notes.iter().any(|note| note.contains("10.00 % of the time")));
}

#[test]
fn a_run_without_figures_of_its_whole_length_has_no_limit() {
    for answer in [Answer::OverThreshold, Answer::Untestable, Answer::Interrupted] {
        let mut result = run(50, 0);
        result.verdict = answer;
        assert_eq!(judged(&mut result, &["longest > 1ms"], Terms::NONE).answer, answer);
        assert_eq!(result.limits, []);
    }
    let mut plain = run(50, 0);
    assert_eq!(judged(&mut plain, &[], Terms::NONE).answer, Answer::Measured);
}

proptest! {
    /// Whatever the host did, no figure is less without it than it may be, and more of it never makes
    /// a fail of what was none.
    #[test]
    fn more_of_the_host_is_never_a_fail(
        longest_ms in 10u64..100, hosts in 0u64..99, bound in 1u64..60, which in 0..Metric::ALL.len(),
    ) {
        let metric = Metric::ALL[which];
        let text = match metric.quantity() {
            Quantity::LengthNs => format!("{} > {bound}ms", metric.name()),
            Quantity::Share => format!("{} > {}%", metric.name(), bound),
        };
        let (few, many) = (run(longest_ms, hosts), run(longest_ms, hosts + 1));
        if come_to(many.clone(), &[&text]).0 == Answer::OverLimit {
            prop_assert_eq!(come_to(few, &[&text]).0, Answer::OverLimit);
        }
        let limit = Limit::parse(&text).expect("a limit");
        let found = limit.find(&many, false);
        if let (Some(value), Some(least)) = (found.value, found.least) {
            prop_assert!(least <= value && least >= 0.0);
        }
    }

    /// Taken away, the host's gaps leave a figure between the bounds; and what is kept is kept.
    #[test]
    fn the_figure_without_the_host_is_within_its_bounds(
        own in prop::collection::vec((1u64..100, 1u64..50), 1..6),
        hosts in prop::collection::vec((1u64..100, 1u64..50), 1..6),
        bound in 1u64..100,
    ) {
        let ns = |of: &[(u64, u64)]| -> Vec<_> { of.iter().map(|it| (it.0 * MS, it.1)).collect() };
        let (own, hosts) = (ns(&own), ns(&hosts));
        let (all, mut without) = (made(&own, &hosts), made(&own, &[]));
        // Who was woken late by the host would have been woken at once.
        let at_once = (0, hosts.iter().map(|it| it.1).sum());
        without.statistics.wakeup =
            Distribution::of_buckets(&[&own[..], &[at_once]].concat()).quantiles();
        for metric in [
            Metric::WaitP50,
            Metric::WaitP90,
            Metric::WakeupP50,
            Metric::WakeupP90,
            Metric::GapShare,
            Metric::GapP50,
            Metric::GapP99,
            Metric::WaitOver10Ms,
        ] {
            let Some(true_value) = metric.of(&without) else { continue };
            let limit = Limit { metric, bound: as_float(bound * MS) };
            let found = limit.find(&all, false);
            if let Some(least) = found.least {
                let rounded = true_value * (1.0 + 1e-9);
                prop_assert!(least <= rounded, "{metric:?}: {least} and {true_value}");
            }
            if found.outcome == LimitOutcome::Kept {
                prop_assert!(true_value <= limit.bound, "{metric:?}: {true_value}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_limit_is_read_as_it_is_written(ns in 1u64..86_400_000_000_000, percent in 0u32..100_000_000) {
        let time = Duration::from_nanos(ns);
        for text in [
            format!("wakeup-p99 > {}", Written(time)),
            format!("forced-idle > {}%", f64::from(percent) / 1e6),
            format!("forced-idle > {:e}%", f64::from(percent) / 1e17),
        ] {
            let limit = Limit::parse(&text).expect("a limit");
            prop_assert_eq!(Limit::parse(&limit.text()), Ok(limit), "{}", text);
        }
    }
}

#[test]
fn limits_are_written_with_few_digits() {
    for text in ["wakeup-p99 > 5ms", "longest > 1.875ms", "forced-idle > 7%", "forced-idle > 0.57%"]
    {
        assert_eq!(limits(&[text])[0].text(), text);
    }
}

/// Four seconds of ten went to the host, in gaps of 1 ms: of the six that are left, more was lost.
#[test]
fn work_that_waits_for_the_host_does_not_dilute_what_the_kernel_made() {
    let run = || made(&[(20 * MS, 10)], &[(MS, 4000)]);
    let arriving = || {
        let mut result = run();
        let arrival = Some(protocol::group::ArrivalSpec::Periodic(Duration::from_millis(10)));
        result.job.load.groups.iter_mut().for_each(|group| group.arrival = arrival);
        result
    };
    // 1 % of 10 s, and 1.67 % of 6 s; on average 400 and 667 us, some of it the host's.
    for limit in ["wait-over-10ms > 1.2%", "mean-wait > 500us"] {
        assert_eq!(come_to(run(), &[limit]).0, Answer::Pass, "{limit}");
        let (answer, code, why) = come_to(arriving(), &[limit]);
        assert_eq!(
            (answer, code),
            (Answer::Untestable, Some(ReasonCode::HostTook)),
            "{limit}: {why}"
        );
    }
    // 42 %, of which the host's part is in gaps and in the time wanted alike.
    for limit in ["wait-over-10ms > 2%", "mean-wait > 1ms", "gap-share > 43%"] {
        assert_eq!(come_to(arriving(), &[limit]).0, Answer::Pass, "{limit}");
    }
    // The moments that the host added may be the best of all, and 80 ms be that of many others.
    let lag = LagWindow {
        window_ns: 1000 * MS,
        max_ns: 80 * MS,
        p99_ns: 40 * MS,
        who: Numbers::default(),
    };
    let with_lag = |mut result: RunResult| {
        result.service_lag.windows = vec![lag];
        result
    };
    assert_eq!(come_to(with_lag(run()), &["lag-p99 > 60ms"]).0, Answer::Pass);
    assert_eq!(come_to(with_lag(arriving()), &["lag-p99 > 60ms"]).0, Answer::Untestable);
    assert_eq!(come_to(with_lag(arriving()), &["lag-p99 > 80ms"]).0, Answer::Pass);
}
