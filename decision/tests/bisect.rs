// SPDX-License-Identifier: Apache-2.0
//! Searches of synthetic histories; `cargo run --release -p decision --example bisect` prints what
//! more of them come to, with hours.

mod simulated;

use decision::bisect::{Candidate, Costs, Place, Search, SearchError, Step, Trials};
use proptest::prelude::*;
use simulated::histories::{COSTS, History, means, plain, search};

const RARE: History = History { commits: 1_000, good: 0.02, bad: 0.3, skipped: 0.0 };

#[test]
fn a_commit_that_shows_in_three_of_ten_trials_is_found() {
    let found = means(1_000, |seed| search(RARE, seed));
    assert!(found.right >= 0.95, "{found:?}");
    assert!(found.hours <= 4.0 && found.kernels <= 14.0, "{found:?}");
    let plain = means(1_000, |seed| plain(RARE, 1, seed));
    println!("by information: {found:?}\nby git bisect run: {plain:?}");
    assert!(plain.right <= 0.1, "{plain:?}");
}

#[test]
fn other_rates_and_skipped_commits() {
    let often = History { good: 0.02, bad: 0.8, ..RARE };
    let found = means(100, |seed| search(often, seed));
    assert!(found.right >= 0.95 && found.hours <= 2.5, "{found:?}");
    let skipped = History { skipped: 0.2, ..often };
    let found = means(100, |seed| search(skipped, seed));
    assert!(found.right >= 0.95 && found.candidates <= 2.5, "{found:?}");
    let always = History { good: 0.0, bad: 1.0, ..RARE };
    let found = means(100, |seed| search(always, seed));
    assert!(found.right > 0.999 && found.kernels <= 12.5, "{found:?}");
}

#[test]
fn ends_that_are_alike_are_given_up() {
    for rate in [0.0, 0.1, 0.3, 1.0] {
        let alike = History { good: rate, bad: rate, ..RARE };
        let found = means(100, |seed| search(alike, seed));
        assert!(found.given_up >= 0.95, "{rate}: {found:?}");
    }
    let exchanged = History { good: 0.8, bad: 0.1, ..RARE };
    let found = means(20, |seed| search(exchanged, seed));
    assert!(found.given_up > 0.999, "{found:?}");
}

/// A search of commits that answer for themselves.
fn go(search: &mut Search, answer: impl Fn(Place) -> Option<bool>) -> Step {
    for _ in 0..1000 {
        match search.next() {
            Step::Run { at, trials } => match (answer(at), at) {
                (Some(is_bad), _) => {
                    let hits = if is_bad { trials } else { 0 };
                    search.record(at, Trials { hits, trials }).expect("trials");
                }
                (None, Place::Commit(at)) => search.skip(at).expect("no end"),
                (None, Place::Good) => panic!("the good end can be tested"),
            },
            end => return end,
        }
    }
    panic!("no end in sight: {search:?}");
}

fn new(commits: usize) -> Search {
    Search::new(commits, COSTS).expect("a search")
}

#[test]
fn one_commit_needs_nothing_but_its_ends() {
    let mut search = new(1);
    let end = go(&mut search, |at| Some(at != Place::Good));
    assert_eq!(end, Step::Found(vec![Candidate { commit: 0, probability: 1.0 }]));
    assert_eq!((search.trials(Place::Good).trials, search.commits()), (10, 1));
}

#[test]
fn skipped_commits_are_candidates_with_the_one_behind_them() {
    let mut search = new(100);
    let end = go(&mut search, |at| match at {
        Place::Commit(40..50) => None,
        Place::Commit(at) => Some(at >= 43),
        Place::Good => Some(false),
    });
    let Step::Found(found) = end else { panic!("{end:?}") };
    let commits: Vec<_> = found.iter().map(|one| one.commit).collect();
    assert_eq!(commits, (40..=50).collect::<Vec<_>>());
    let sum: f64 = found.iter().map(|one| one.probability).sum();
    assert!((0.97..=1.0 + 1e-9).contains(&sum), "{found:?}");
}

/// A range that cannot be built is not tried commit by commit.
#[test]
fn a_broken_range_is_left_in_long_steps() {
    for culprit in [100, 380, 620, 900] {
        let tried = std::cell::Cell::new(0);
        let mut search = new(1_000);
        let end = go(&mut search, |at| match at {
            Place::Commit(400..600) => {
                tried.set(tried.get() + 1);
                None
            }
            Place::Commit(at) => Some(at >= culprit),
            Place::Good => Some(false),
        });
        let Step::Found(found) = end else { panic!("{end:?}") };
        assert_eq!((found.len(), found[0].commit), (1, culprit));
        assert!(tried.get() <= 40, "{culprit}: {}", tried.get());
    }
}

/// One whose kernel hit once, and could not be tested after that: nothing more tells what that hit leaves
/// open.
#[test]
fn a_kernel_that_is_lost_after_a_trial_does_not_keep_it_from_an_end() {
    let mut search = new(100);
    for (at, hits) in [(Place::Good, 30), (Place::Commit(48), 30), (Place::Commit(50), 70)] {
        search.record(at, Trials { hits, trials: 100 }).expect("trials");
    }
    search.record(Place::Commit(99), Trials { hits: 70, trials: 100 }).expect("trials");
    search.record(Place::Commit(49), Trials { hits: 1, trials: 1 }).expect("a trial");
    assert!(matches!(search.next(), Step::Run { .. }), "{:?}", search.next());
    search.skip(49).expect("no end");
    let Step::Found(found) = search.next() else { panic!("{:?}", search.next()) };
    assert_eq!(found.iter().map(|it| it.commit).collect::<Vec<_>>(), [49, 50]);
    assert!(found.iter().map(|it| it.probability).sum::<f64>() >= 0.97, "{found:?}");
    assert_eq!(search.time_to_go_s(), Some(0.0));
}

/// Neither is a warm-up of the host at the start one end's alone.
#[test]
fn the_ends_are_run_in_turn() {
    let mut search = new(100);
    for run in 0..20 {
        let end = if run % 2 == 0 { Place::Good } else { Place::Commit(99) };
        assert_eq!(search.next(), Step::Run { at: end, trials: 1 });
        search.record(end, Trials { hits: 0, trials: 1 }).expect("a trial");
    }
}

#[test]
fn all_but_the_ends_skipped() {
    let mut search = new(9);
    let end = go(&mut search, |at| match at {
        Place::Good => Some(false),
        Place::Commit(at) => (at == 8).then_some(true),
    });
    let Step::Found(found) = end else { panic!("{end:?}") };
    assert_eq!(found.len(), 9);
}

/// A cheap trial is repeated rather than a dear kernel built, and the other way round.
#[test]
fn costs_decide_how_many_kernels_are_built() {
    let rare = History { commits: 200, ..RARE };
    let kernels = |costs: Costs| {
        let mut random = simulated::random::Random::new(7);
        let mut search = Search::new(rare.commits, costs).expect("a search");
        let (mut kernels, mut trials_made) = (0, 0);
        while let Step::Run { at, trials } = search.next() {
            kernels += u32::from(search.trials(at).trials == 0);
            trials_made += trials;
            let rate = if matches!(at, Place::Commit(77..)) { rare.bad } else { rare.good };
            let hits = (0..trials).map(|_| u32::from(random.happens(rate))).sum();
            search.record(at, Trials { hits, trials }).expect("trials");
        }
        (kernels, trials_made)
    };
    let dear = kernels(Costs { build_s: 3600.0, trial_s: 10.0 });
    let cheap = kernels(Costs { build_s: 0.0, trial_s: 60.0 });
    assert!(dear.0 < cheap.0, "{dear:?} {cheap:?}");
}

#[test]
fn a_stored_search_goes_on_where_it_was() {
    let mut random = simulated::random::Random::new(3);
    let mut search = new(300);
    while let Step::Run { at, trials } = search.next() {
        let text = serde_json::to_string(&search).expect("text");
        let again: Search = serde_json::from_str(&text).expect("a search");
        assert_eq!(again, search);
        assert_eq!(again.next(), search.next());
        let rate = if matches!(at, Place::Commit(123..)) { 0.7 } else { 0.1 };
        let hits = (0..trials).map(|_| u32::from(random.happens(rate))).sum();
        search.record(at, Trials { hits, trials }).expect("trials");
    }
}

#[test]
fn what_is_no_search_is_refused() {
    assert_eq!(Search::new(0, COSTS), Err(SearchError::NoCommits));
    for costs in [(-1.0, 1.0), (1.0, 0.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
        let costs = Costs { build_s: costs.0, trial_s: costs.1 };
        assert_eq!(Search::new(5, costs), Err(SearchError::Costs));
    }
    let mut search = new(5);
    let one = Trials { hits: 1, trials: 1 };
    assert_eq!(
        search.record(Place::Commit(5), one),
        Err(SearchError::NoCommit { at: 5, commits: 5 })
    );
    let many = Trials { hits: 2, trials: 1 };
    assert_eq!(search.record(Place::Good, many), Err(SearchError::Hits { hits: 2, trials: 1 }));
    assert_eq!(search.skip(4), Err(SearchError::Skipped { at: 4 }));
    // Skipped although it has trials, and tried although it was skipped.
    search.record(Place::Commit(2), one).expect("trials");
    search.skip(2).expect("a commit");
    assert_eq!(search.trials(Place::Commit(2)), one);
    search.skip(3).expect("a commit");
    search.record(Place::Commit(3), one).expect("trials");
}

#[test]
fn damaged_state_is_refused() {
    let text = serde_json::to_string(&new(5)).expect("text");
    let is_read = |text: &str| serde_json::from_str::<Search>(text).is_ok();
    assert!(is_read(&text));
    for (part, other) in [
        ("\"commits\":5", "\"commits\":0"),
        ("\"tested\":{}", "\"tested\":{\"5\":{\"hits\":0,\"trials\":1}}"),
        ("\"tested\":{}", "\"tested\":{\"1\":{\"hits\":3,\"trials\":1}}"),
        ("\"skipped\":[]", "\"skipped\":[4]"),
        ("\"trial_s\":35.0", "\"trial_s\":0.0"),
        ("\"commits\"", "\"commit\""),
    ] {
        assert!(text.contains(part), "{text}");
        assert!(!is_read(&text.replace(part, other)), "{other}");
    }
}

proptest! {
    /// Whatever is recorded and skipped: probabilities, and a step that can be taken.
    #[test]
    fn no_trials_lead_astray(
        commits in 1..40usize,
        events in prop::collection::vec((any::<bool>(), 0..40usize, 0..5000u32, 0..5000u32), 0..40),
    ) {
        let mut search = new(commits);
        for (is_skip, at, one, other) in events {
            let made = Trials { hits: one.min(other), trials: one.max(other) };
            // Refusals are fine.
            let _ = match (is_skip, at) {
                (true, at) => search.skip(at),
                (false, 39) => search.record(Place::Good, made),
                (false, at) => search.record(Place::Commit(at), made),
            };
        }
        let probabilities = search.probabilities();
        prop_assert_eq!(probabilities.len(), commits);
        let sum: f64 = probabilities.iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-9 && probabilities.iter().all(|one| *one >= 0.0));
        match search.next() {
            Step::Run { at, trials } => {
                prop_assert!(trials > 0);
                search.record(at, Trials { hits: 0, trials }).expect("a step of its own");
            }
            Step::Found(found) => prop_assert!(!found.is_empty()),
            Step::Alike { .. } => {}
        }
    }
}

/// Merges: each commit goes on from the last one of a branch, or joins two of them.
fn graph(commits: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut random = simulated::random::Random::new(seed);
    let mut heads: Vec<usize> = Vec::new();
    let mut parents = Vec::with_capacity(commits);
    for at in 0..commits {
        let is_last = at + 1 == commits;
        let of_one = if is_last {
            std::mem::take(&mut heads)
        } else if heads.len() < 2 || random.happens(0.2) {
            // A branch from anywhere, or from before the good end.
            let from = random.below(at + 1);
            if from == at { Vec::new() } else { vec![from] }
        } else if random.happens(0.2) {
            let one = heads.remove(random.below(heads.len()));
            vec![one, heads.remove(random.below(heads.len()))]
        } else {
            vec![heads.remove(random.below(heads.len()))]
        };
        heads.retain(|head| !of_one.contains(head));
        heads.push(at);
        parents.push(of_one);
    }
    parents
}

/// Which commits each has in it, by walking.
fn contained(parents: &[Vec<usize>], kernel: usize) -> Vec<bool> {
    let mut is_in = vec![false; parents.len()];
    let mut left = vec![kernel];
    while let Some(at) = left.pop() {
        if !std::mem::replace(&mut is_in[at], true) {
            left.extend(&parents[at]);
        }
    }
    is_in
}

#[test]
fn the_first_bad_commit_of_a_graph_is_found() {
    let mut right = 0;
    for seed in 0..100 {
        let parents = graph(300, seed);
        let mut random = simulated::random::Random::new(1000 + seed);
        let culprit = random.below(parents.len());
        let mut search = Search::of_graph(parents.clone(), COSTS).expect("a search");
        let found = loop {
            match search.next() {
                Step::Run { at, trials } => {
                    let is_bad =
                        matches!(at, Place::Commit(at) if contained(&parents, at)[culprit]);
                    let rate = if is_bad { 0.8 } else { 0.02 };
                    let hits = (0..trials).map(|_| u32::from(random.happens(rate))).sum();
                    search.record(at, Trials { hits, trials }).expect("trials");
                }
                Step::Found(found) => break found,
                Step::Alike { .. } => panic!("0.02 and 0.8 are not alike"),
            }
        };
        assert_eq!(found.len(), 1, "nothing was skipped");
        right += u32::from(found[0].commit == culprit);
    }
    assert!(right >= 95, "{right}");
}

/// A line is a graph whose commits have one parent each.
#[test]
fn a_line_is_a_graph() {
    let mut line = new(60);
    let parents = (0..60usize).map(|at| at.checked_sub(1).into_iter().collect());
    let mut graph = Search::of_graph(parents.collect(), COSTS).expect("a search");
    let mut random = simulated::random::Random::new(5);
    while let Step::Run { at, trials } = line.next() {
        assert_eq!(graph.next(), line.next());
        let text = serde_json::to_string(&graph).expect("text");
        assert_eq!(serde_json::from_str::<Search>(&text).expect("a search"), graph);
        if matches!(at, Place::Commit(at) if at % 3 == 0 && at != 0) {
            let Place::Commit(at) = at else { continue };
            line.skip(at).expect("no end");
            graph.skip(at).expect("no end");
            continue;
        }
        let rate = if matches!(at, Place::Commit(31..)) { 0.7 } else { 0.1 };
        let hits = (0..trials).map(|_| u32::from(random.happens(rate))).sum();
        line.record(at, Trials { hits, trials }).expect("trials");
        graph.record(at, Trials { hits, trials }).expect("trials");
        assert_eq!(graph.time_to_go_s(), line.time_to_go_s());
    }
    assert_eq!(graph.next(), line.next());
    assert_eq!(graph.time_to_go_s(), Some(0.0));
}

/// What cannot be told apart is what is in the same kernels of those that can be tested.
#[test]
fn skipped_commits_of_a_graph_are_named_with_those_they_cannot_be_parted_from() {
    for seed in 0..40 {
        let parents = graph(60, seed);
        let inside: Vec<_> = (0..60).map(|at| contained(&parents, at)).collect();
        let mut random = simulated::random::Random::new(2000 + seed);
        let culprit = random.below(60);
        let skipped: Vec<_> = (0..60).map(|at| at != 59 && random.happens(0.4)).collect();
        let mut search = Search::of_graph(parents, COSTS).expect("a search");
        let end = go(&mut search, |at| match at {
            Place::Good => Some(false),
            Place::Commit(at) => (!skipped[at]).then(|| inside[at][culprit]),
        });
        let Step::Found(found) = end else { panic!("{end:?}") };
        let found: Vec<_> = found.iter().map(|one| one.commit).collect();
        // The search need not try to build all that would be skipped.
        let is_open = |at: &usize| !skipped[*at];
        let alike =
            |one: usize| (0..60).filter(is_open).all(|at| inside[at][one] == inside[at][culprit]);
        assert!(found.contains(&culprit), "{seed}: {culprit} {found:?}");
        assert!(found.iter().all(|one| alike(*one)), "{seed}: {culprit} {found:?}");
    }
}

#[test]
fn what_is_no_graph_is_refused() {
    let of = |parents: &[&[usize]]| {
        let parents = parents.iter().map(|of_one| of_one.to_vec()).collect();
        Search::of_graph(parents, COSTS).map(|search| search.commits())
    };
    assert_eq!(of(&[]), Err(SearchError::NoCommits));
    assert_eq!(of(&[&[], &[0], &[0, 1]]), Ok(3));
    assert_eq!(of(&[&[1], &[0]]), Err(SearchError::Order { at: 0, parent: 1 }));
    assert_eq!(of(&[&[], &[], &[1]]), Err(SearchError::Outside { at: 0 }));
    let many = vec![Vec::new(); decision::bisect::MAX_GRAPH + 1];
    assert!(matches!(Search::of_graph(many, COSTS), Err(SearchError::TooMany { .. })));
}
