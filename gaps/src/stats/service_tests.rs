// SPDX-License-Identifier: Apache-2.0
//! Schedules of which it is known how far they are from the ideal.

use proptest::prelude::*;

use super::*;

fn span(begin: u64, end: u64) -> Span {
    Span { begin, end }
}

fn wanting(team: usize, wants: &[(u64, u64)], got: &[(u64, u64, u64)]) -> Wanting {
    Wanting {
        team,
        wants: wants.iter().map(|(begin, end)| span(*begin, *end)).collect(),
        got: got
            .iter()
            .map(|(begin, end, ticks)| Service { span: span(*begin, *end), ticks: *ticks })
            .collect(),
    }
}

/// One CPU, and threads by themselves.
fn one_cpu(weights: &[u64]) -> Machine {
    let teams = weights.iter().copied().map(Weight::OfThread).collect();
    Machine { places: 1, width: 1, teams }
}

/// The furthest that each is behind within such a window.
fn furthest(threads: &[Wanting], machine: &Machine, window: u64) -> Vec<u64> {
    let ideal = Ideal::of(threads, machine).expect("few");
    let each = (0..threads.len()).map(|thread| Curve::of(thread, threads, &ideal));
    each.map(|curve| furthest_ticks(&curve.within(window))).collect()
}

#[test]
fn a_fluid_schedule_by_weight_has_no_lag_at_any_moment() {
    let threads = [
        wanting(0, &[(0, 1200)], &[(0, 600, 200), (600, 1200, 100)]),
        wanting(
            1,
            &[(0, 2400)],
            &[(0, 600, 400), (600, 1200, 200), (1200, 1800, 240), (1800, 2400, 600)],
        ),
        wanting(2, &[(600, 1800)], &[(600, 1200, 300), (1200, 1800, 360)]),
    ];
    let ideal = Ideal::of(&threads, &one_cpu(&[1, 2, 3])).expect("few");
    assert_eq!(ideal.most_load, 3);
    for thread in 0..3 {
        for window in [1, 100, 700, 5000] {
            let behind = Curve::of(thread, &threads, &ideal).within(window);
            assert!(!behind.is_empty());
            assert!(behind.iter().all(|one| (one.first, one.last) == (0, 0)), "{behind:?}");
        }
    }
}

#[test]
fn turns_are_behind_by_what_the_others_take_of_ones_share() {
    // Two threads in turns of 10, four times each.
    let turns = |first: u64| -> Vec<(u64, u64, u64)> {
        (0..4).map(|n| (20 * n + first, 20 * n + first + 10, 10)).collect()
    };
    let threads = [wanting(0, &[(0, 80)], &turns(0)), wanting(1, &[(0, 80)], &turns(10))];
    assert_eq!(furthest(&threads, &one_cpu(&[1, 1]), 1000), [0, 5]);
    assert_eq!(furthest(&threads, &one_cpu(&[1, 1]), 10), [5, 5]);
    // 3 : 1 where the weights say so, and turns do not.
    assert_eq!(furthest(&threads, &one_cpu(&[3, 1]), 1000), [20, 3]);
}

#[test]
fn one_that_is_starved_is_behind_by_its_share_of_that_time() {
    // Alone, then beside one that takes all for 300, then alone again.
    let starved = wanting(0, &[(0, 1000)], &[(0, 500, 500), (800, 1000, 200)]);
    let other = wanting(1, &[(500, 800)], &[(500, 800, 300)]);
    let threads = [starved, other];
    assert_eq!(furthest(&threads, &one_cpu(&[1, 1]), 1000), [150, 0]);
    assert_eq!(furthest(&threads, &one_cpu(&[1, 1]), 100), [50, 0]);
    let ideal = Ideal::of(&threads, &one_cpu(&[1, 1])).expect("few");
    let behind = Curve::of(0, &threads, &ideal).within(1000);
    // Half of the time at 0, then for 300 more and more, then 150 for the rest.
    for (millionths, ticks) in [(500_000, 0), (600_000, 50), (800_000, 150), (990_000, 150)] {
        assert_eq!(quantile_ticks(&behind, millionths), Some(ticks));
    }
    assert_eq!((quantile_ticks(&[], 500_000), furthest_ticks(&[])), (None, 0));
}

#[test]
fn cookies_leave_a_core_to_one_team() {
    // A core of two hyperthreads; a pair, and one alone: each team has it for half of the time.
    let core = |teams| Machine { places: 1, width: 2, teams };
    let pair = [wanting(0, &[(0, 100)], &[(0, 100, 50)]), wanting(0, &[(0, 100)], &[(0, 100, 50)])];
    let alone = wanting(1, &[(0, 100)], &[(0, 100, 50)]);
    let threads = [pair[0].clone(), pair[1].clone(), alone];
    let even = core(vec![Weight::OfTeam(1), Weight::OfTeam(1)]);
    assert_eq!(furthest(&threads, &even, 1000), [0, 0, 0]);
    // Weighed thread by thread it is 2 : 1.
    let by_thread = core(vec![Weight::OfThread(1), Weight::OfThread(1)]);
    assert_eq!(furthest(&threads, &by_thread, 1000), [17, 17, 0]);
    // Without cookies nobody idles: the one alone is due a CPU.
    let free = Machine { places: 2, width: 1, teams: vec![Weight::OfTeam(1), Weight::OfTeam(1)] };
    assert_eq!(furthest(&threads, &free, 1000), [0, 0, 50]);
}

#[test]
fn who_cannot_use_its_share_leaves_it_to_others() {
    // Two CPUs, four times the weight of all others: no more than one CPU for one thread.
    let threads = [
        wanting(0, &[(0, 120)], &[(0, 120, 120)]),
        wanting(1, &[(0, 120)], &[(0, 120, 60)]),
        wanting(2, &[(0, 120)], &[(0, 120, 60)]),
    ];
    let teams = [8, 1, 1].map(Weight::OfThread).into();
    assert_eq!(furthest(&threads, &Machine { places: 2, width: 1, teams }, 500), [0, 0, 0]);
}

proptest! {
    /// Fluid processor sharing, simulated step by step: in each step every thread that wants to run gets
    /// the same, and no more than a CPU.
    #[test]
    fn a_simulated_fluid_schedule_has_exactly_no_lag(
        steps in prop::collection::vec(prop::collection::vec(any::<bool>(), 8), 1..40),
        cpus in 1..4u64,
        window in 1..200_000u64,
    ) {
        // Divisible by whatever number of threads.
        const STEP: u64 = 840;
        let mut threads = vec![Wanting::default(); 8];
        for (thread, wanting) in threads.iter_mut().enumerate() {
            wanting.team = thread;
        }
        for (begin, step) in (0..).step_by(840).zip(&steps) {
            let wanted = step.iter().filter(|wants| **wants).count() as u64;
            let each = if wanted <= cpus { STEP } else { STEP * cpus / wanted };
            for (wanting, _) in threads.iter_mut().zip(step).filter(|(_, wants)| **wants) {
                let span = span(begin, begin + STEP);
                wanting.wants.push(span);
                wanting.got.push(Service { span, ticks: each });
            }
        }
        let machine = Machine { places: cpus, width: 1, teams: vec![Weight::OfThread(1024); 8] };
        let ideal = Ideal::of(&threads, &machine).expect("few");
        for thread in 0..threads.len() {
            let behind = Curve::of(thread, &threads, &ideal).within(window);
            prop_assert_eq!(furthest_ticks(&behind), 0);
            prop_assert!(behind.iter().all(|one| one.first == 0 && one.last == 0));
        }
    }
}
