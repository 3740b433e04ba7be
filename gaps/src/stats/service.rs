// SPDX-License-Identifier: Apache-2.0
//! Service lag: how far what a thread got of the CPUs is behind what it would have got of an ideal
//! that divides them at each instant, by weight, among those that want them at that instant.
//!
//! The ideal is fluid: it has no turns. What it gives follows from who wants to run, and from nothing
//! else, so that a schedule that does the same has no lag at any moment.

use crate::span::Span;

/// Lags are counted in parts of a tick, so that what rounding leaves does not add up.
const PARTS: i64 = 1 << 10;

/// More legs than this are too many to keep.
const MAX_LEGS: usize = 2_000_000;

/// What the threads of a team weigh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// All of them together, however many want to run.
    OfTeam(u64),
    /// Each of them.
    OfThread(u64),
}

/// What is divided, and among whom.
#[derive(Clone, Debug)]
pub struct Machine {
    /// So many teams can run at the same time.
    pub places: u64,
    /// So many threads of one team, of one that has a place.
    pub width: u64,
    /// Who is weighed against whom.
    pub teams: Vec<Weight>,
}

impl Machine {
    /// What a team weighs while so many of it want to run.
    fn weight(&self, team: usize, wanting: u64) -> i128 {
        match self.teams[team] {
            Weight::OfTeam(weight) => i128::from(weight.max(1)),
            Weight::OfThread(weight) => i128::from(weight.max(1)) * i128::from(wanting),
        }
    }

    /// What so many can use of places, each of them times the width.
    fn use_up(&self, wanting: u64) -> i128 {
        i128::from(wanting.max(self.width))
    }
}

/// What a thread got: so many ticks of a CPU, spread evenly over this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// This time.
    pub span: Span,
    /// No more than it has.
    pub ticks: u64,
}

/// One thread. Times rise, and do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Wanting {
    /// Its team's place among the machine's.
    pub team: usize,
    /// When it wanted to run.
    pub wants: Vec<Span>,
    /// What it got in these times.
    pub got: Vec<Service>,
}

/// What threads are due.
#[derive(Clone, Debug)]
pub struct Ideal {
    /// Of each thread.
    due: Vec<Vec<Leg>>,
    /// So many CPUs those could use at the same time, at most, that wanted to run then. Where a place is
    /// wider than who has it, its whole width.
    pub most_load: u64,
}

/// Parts of ticks that are added evenly within a time.
#[derive(Clone, Copy, Debug)]
struct Leg {
    span: Span,
    parts: i64,
}

/// A thread begins to want to run, or ceases to.
#[derive(Clone, Copy, Debug)]
struct Edge {
    tsc: u64,
    thread: usize,
    wants: bool,
}

impl Ideal {
    /// Of these threads on this machine; `None` where that is too much to keep, or a team is none of
    /// the machine's.
    pub fn of(threads: &[Wanting], machine: &Machine) -> Option<Self> {
        let got = threads.iter().map(|wanting| wanting.got.len());
        if got.fold(0, usize::saturating_add) > MAX_LEGS {
            return None;
        }
        let mut edges = Vec::new();
        for (thread, wanting) in threads.iter().enumerate() {
            machine.teams.get(wanting.team)?;
            for span in wanting.wants.iter().filter(|span| span.ticks() > 0) {
                edges.push(Edge { tsc: span.begin, thread, wants: true });
                edges.push(Edge { tsc: span.end, thread, wants: false });
            }
        }
        edges.sort_unstable_by_key(|edge| (edge.tsc, edge.wants));
        let mut ideal = Self { due: vec![Vec::new(); threads.len()], most_load: 0 };
        let mut active: Vec<usize> = Vec::new();
        let (mut legs, mut since) = (0, 0);
        for edge in edges {
            if edge.tsc > since && !active.is_empty() {
                legs += active.len();
                if legs > MAX_LEGS {
                    return None;
                }
                ideal.go_on(Span { begin: since, end: edge.tsc }, &active, threads, machine);
            }
            since = edge.tsc;
            if edge.wants {
                active.push(edge.thread);
            } else if let Some(place) = active.iter().position(|one| *one == edge.thread) {
                active.swap_remove(place);
            }
        }
        Some(ideal)
    }

    /// These threads want to run, and no others.
    fn go_on(&mut self, span: Span, active: &[usize], threads: &[Wanting], machine: &Machine) {
        let mut wanting = vec![0; machine.teams.len()];
        active.iter().for_each(|thread| wanting[threads[*thread].team] += 1);
        let load = wanting.iter().filter(|wanting| **wanting > 0);
        let load = load.map(|wanting| (*wanting).max(machine.width)).sum();
        self.most_load = self.most_load.max(load);
        let rates = rates(machine, &wanting);
        for &thread in active {
            let rate = rates[threads[thread].team];
            let parts = i128::from(span.ticks()) * i128::from(PARTS) * rate.of / rate.whole;
            let parts = i64::try_from(parts).unwrap_or(i64::MAX);
            self.due[thread].push(Leg { span, parts });
        }
    }
}

/// Parts of a CPU: `of` by `whole`.
#[derive(Clone, Copy, Debug)]
struct Rate {
    of: i128,
    whole: i128,
}

/// What each thread of each team gets of a CPU, while so many of them want to run. Whoever cannot use
/// all that its weight gives leaves the rest to the others.
fn rates(machine: &Machine, wanting: &[u64]) -> Vec<Rate> {
    let width = i128::from(machine.width.max(1));
    let mut rates = vec![Rate { of: 0, whole: 1 }; wanting.len()];
    // In places by the width, so that all that somebody can use is whole.
    let mut left = i128::from(machine.places) * width;
    let mut open: Vec<usize> = (0..wanting.len()).filter(|team| wanting[*team] > 0).collect();
    while !open.is_empty() {
        let all: i128 = open.iter().map(|team| machine.weight(*team, wanting[*team])).sum();
        let (full, rest): (Vec<usize>, Vec<usize>) = open.iter().copied().partition(|&team| {
            machine.weight(team, wanting[team]) * left >= machine.use_up(wanting[team]) * all
        });
        let done = if full.is_empty() { &rest } else { &full };
        for &team in done {
            let threads = i128::from(wanting[team]);
            let places = if full.is_empty() {
                Rate { of: machine.weight(team, wanting[team]) * left, whole: all }
            } else {
                Rate { of: machine.use_up(wanting[team]), whole: 1 }
            };
            // In a place run as many threads as it is wide, or as there are.
            rates[team] =
                Rate { of: places.of * threads.min(width), whole: places.whole * width * threads };
        }
        if full.is_empty() {
            break;
        }
        left -= full.iter().map(|team| machine.use_up(wanting[*team])).sum::<i128>();
        open = rest;
    }
    rates
}

/// Adds up legs, at moments that rise.
struct Sum<'a> {
    legs: std::slice::Iter<'a, Leg>,
    now: Option<&'a Leg>,
    before: i64,
}

impl<'a> Sum<'a> {
    fn new(legs: &'a [Leg]) -> Self {
        let mut legs = legs.iter();
        Self { now: legs.next(), legs, before: 0 }
    }

    fn until(&mut self, tsc: u64) -> i64 {
        while let Some(leg) = self.now.filter(|leg| leg.span.end <= tsc) {
            self.before = self.before.saturating_add(leg.parts);
            self.now = self.legs.next();
        }
        let part = self.now.map_or(0, |leg| {
            let passed = i128::from(tsc.saturating_sub(leg.span.begin));
            i128::from(leg.parts) * passed / i128::from(leg.span.ticks().max(1))
        });
        self.before.saturating_add(i64::try_from(part).unwrap_or(i64::MAX))
    }

    /// Whether one is under way at the moment that was asked last.
    fn is_on(&self, tsc: u64) -> bool {
        self.now.is_some_and(|leg| leg.span.begin <= tsc)
    }
}

/// How far one thread is behind, from moment to moment; straight between two.
#[derive(Clone, Debug, Default)]
pub struct Curve(Vec<Point>);

#[derive(Clone, Copy, Debug)]
struct Point {
    tsc: u64,
    parts: i64,
    /// It wants to run from here to the next one.
    wants: bool,
}

impl Curve {
    /// Of this thread of those that the ideal is of.
    pub fn of(thread: usize, threads: &[Wanting], ideal: &Ideal) -> Self {
        let due = ideal.due.get(thread).map_or(&[][..], Vec::as_slice);
        let got: Vec<_> =
            threads.get(thread).map_or(&[][..], |one| &one.got).iter().map(leg).collect();
        let mut moments: Vec<u64> =
            due.iter().chain(&got).flat_map(|leg| [leg.span.begin, leg.span.end]).collect();
        moments.sort_unstable();
        moments.dedup();
        let (mut due, mut got) = (Sum::new(due), Sum::new(&got));
        let mut points = Vec::with_capacity(moments.len());
        for tsc in moments {
            let parts = due.until(tsc).saturating_sub(got.until(tsc));
            points.push(Point { tsc, parts, wants: due.is_on(tsc) });
        }
        Self(points)
    }

    /// How much less than it was due the thread got within the last so many ticks, at each moment at
    /// which it wants to run.
    pub fn within(&self, window_ticks: u64) -> Vec<Behind> {
        let mut moments: Vec<u64> = self.0.iter().map(|point| point.tsc).collect();
        let end = moments.last().copied().unwrap_or(0);
        let later = self.0.iter().map(|point| point.tsc.saturating_add(window_ticks));
        moments.extend(later.filter(|tsc| *tsc < end));
        moments.sort_unstable();
        moments.dedup();
        let (mut now, mut before) = (Reader::new(&self.0), Reader::new(&self.0));
        let mut behind = Vec::new();
        let mut last: Option<(u64, i64, bool)> = None;
        for tsc in moments {
            let (parts, wants) = now.at(tsc);
            let parts_before = tsc.checked_sub(window_ticks).map_or(0, |tsc| before.at(tsc).0);
            let parts = parts.saturating_sub(parts_before);
            if let Some((since, first, true)) = last {
                behind.push(Behind { ticks: tsc - since, first, last: parts });
            }
            last = Some((tsc, parts, wants));
        }
        behind
    }
}

fn leg(service: &Service) -> Leg {
    let ticks = service.ticks.min(service.span.ticks());
    let parts = i64::try_from(ticks).unwrap_or(i64::MAX).saturating_mul(PARTS);
    Leg { span: service.span, parts }
}

/// Reads a curve at moments that rise.
struct Reader<'a> {
    points: &'a [Point],
    next: usize,
}

impl<'a> Reader<'a> {
    fn new(points: &'a [Point]) -> Self {
        Self { points, next: 0 }
    }

    /// The value, and whether the thread wants to run from there on.
    fn at(&mut self, tsc: u64) -> (i64, bool) {
        while self.points.get(self.next).is_some_and(|point| point.tsc <= tsc) {
            self.next += 1;
        }
        let before = self.next.checked_sub(1).and_then(|place| self.points.get(place));
        let Some(before) = before else { return (0, false) };
        let Some(after) = self.points.get(self.next) else { return (before.parts, false) };
        let rise = i128::from(after.parts) - i128::from(before.parts);
        let passed = i128::from(tsc - before.tsc);
        let part = rise * passed / i128::from((after.tsc - before.tsc).max(1));
        let part = i64::try_from(part).unwrap_or(i64::MAX);
        (before.parts.saturating_add(part), before.wants)
    }
}

/// For so many ticks a thread was so far behind, in parts of a tick: straight from the first to the
/// last. Below 0 it was ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    ticks: u64,
    first: i64,
    last: i64,
}

impl Behind {
    fn most(&self) -> i64 {
        self.first.max(self.last)
    }

    /// For how much of it the thread was behind by no more than this.
    fn ticks_within(&self, parts: i64) -> u64 {
        let least = self.first.min(self.last);
        if parts >= self.most() {
            self.ticks
        } else if parts < least {
            0
        } else {
            let part = i128::from(parts) - i128::from(least);
            let whole = (i128::from(self.most()) - i128::from(least)).max(1);
            let ticks = (i128::from(self.ticks) * part).unsigned_abs();
            u64::try_from(ticks.div_ceil(whole.unsigned_abs())).unwrap_or(0)
        }
    }
}

/// The furthest that it was behind, in ticks, rounded up.
pub fn furthest_ticks(behind: &[Behind]) -> u64 {
    ticks_of(behind.iter().map(Behind::most).max().unwrap_or(0))
}

/// In so many millionths of the time it was behind by no more than this, in ticks, rounded up; `None`
/// without any time.
pub fn quantile_ticks(behind: &[Behind], millionths: u32) -> Option<u64> {
    let all: u128 = behind.iter().map(|one| u128::from(one.ticks)).sum();
    let wanted = (all * u128::from(millionths)).div_ceil(1_000_000);
    let (mut least, mut most) = (0, behind.iter().map(Behind::most).max()?.max(0));
    while least < most {
        let middle = least + (most - least) / 2;
        let within = behind.iter().map(|one| u128::from(one.ticks_within(middle)));
        if within.sum::<u128>() >= wanted {
            most = middle;
        } else {
            least = middle + 1;
        }
    }
    (all > 0).then(|| ticks_of(least))
}

fn ticks_of(parts: i64) -> u64 {
    u64::try_from(parts.max(0)).unwrap_or(0).div_ceil(PARTS.unsigned_abs())
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
