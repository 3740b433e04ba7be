// SPDX-License-Identifier: Apache-2.0
//! Which commits a kernel is made of.

use super::{SearchError, evenly};

/// Commits of a graph, at most: a bit for each pair of them is kept.
pub const MAX_GRAPH: usize = 40_000;

const WORD_BITS: usize = 64;

/// Commits between a good end and a bad one, which contains all of them, by their numbers. Parents come
/// before their children, and the bad end is the last.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum History {
    /// Each contains all before it: how many.
    Line(usize),
    /// What each contains is told by its parents.
    Graph(Graph),
}

/// A history with merges.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Graph {
    pub parents: Vec<Vec<usize>>,
    /// Of each commit: those that it contains, itself among them, a bit each.
    contained: Vec<Vec<u64>>,
}

impl Graph {
    fn new(parents: Vec<Vec<usize>>) -> Result<Self, SearchError> {
        let commits = parents.len();
        if commits > MAX_GRAPH {
            return Err(SearchError::TooMany { commits });
        }
        let words = commits.div_ceil(WORD_BITS);
        let mut contained: Vec<Vec<u64>> = Vec::with_capacity(commits);
        for (at, of_one) in parents.iter().enumerate() {
            let mut bits = vec![0; words];
            for parent in of_one {
                let Some(others) = contained.get(*parent) else {
                    return Err(SearchError::Order { at, parent: *parent });
                };
                bits.iter_mut().zip(others).for_each(|(word, other)| *word |= other);
            }
            bits[at / WORD_BITS] |= 1 << (at % WORD_BITS);
            contained.push(bits);
        }
        let graph = Self { parents, contained };
        match (0..commits).find(|at| !graph.contains(commits - 1, *at)) {
            Some(at) => Err(SearchError::Outside { at }),
            None => Ok(graph),
        }
    }

    fn contains(&self, kernel: usize, commit: usize) -> bool {
        self.contained[kernel][commit / WORD_BITS] & (1 << (commit % WORD_BITS)) != 0
    }
}

impl History {
    pub fn line(commits: usize) -> Self {
        Self::Line(commits)
    }

    pub fn graph(parents: Vec<Vec<usize>>) -> Result<Self, SearchError> {
        Graph::new(parents).map(Self::Graph)
    }

    pub fn commits(&self) -> usize {
        match self {
            Self::Line(commits) => *commits,
            Self::Graph(graph) => graph.contained.len(),
        }
    }

    /// Whether a kernel has a commit in it.
    pub fn contains(&self, kernel: usize, commit: usize) -> bool {
        match self {
            Self::Line(_) => commit <= kernel,
            Self::Graph(graph) => graph.contains(kernel, commit),
        }
    }

    /// Of each kernel: the sum of what the commits in it have.
    pub fn sums(&self, of_commits: &[f64]) -> Vec<f64> {
        match self {
            Self::Line(_) => {
                let mut sum = 0.0;
                let add = of_commits.iter().map(|one| {
                    sum += one;
                    sum
                });
                add.collect()
            }
            Self::Graph(graph) => {
                graph.contained.iter().map(|bits| sum_of(bits, of_commits)).collect()
            }
        }
    }

    /// Commits that are in the same ones of these kernels, put together. The groups are in the order of
    /// their first commits, and so is each.
    pub fn groups(&self, kernels: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
        let mut groups = vec![(0..self.commits()).collect::<Vec<_>>()];
        for kernel in kernels {
            for at in 0..groups.len() {
                let is_in = |commit: &usize| self.contains(kernel, *commit);
                let (inside, outside): (Vec<_>, Vec<_>) =
                    groups[at].iter().partition(|it| is_in(it));
                if !inside.is_empty() && !outside.is_empty() {
                    groups[at] = inside;
                    groups.push(outside);
                }
            }
        }
        groups.sort_unstable_by_key(|group| group[0]);
        groups
    }

    /// Commits that no kernel parts: of each, the first that is in the same kernels of those that
    /// can be tested.
    pub fn inseparable(&self, can_be_tested: &[bool]) -> Vec<usize> {
        let mut like: Vec<_> = (0..self.commits()).collect();
        if let Self::Line(_) = self {
            // Those in front of the next that can be tested.
            for at in 1..like.len() {
                like[at] = if can_be_tested[at - 1] { at } else { like[at - 1] };
            }
            return like;
        }
        let mut known: std::collections::BTreeMap<Vec<usize>, usize> = Default::default();
        for at in (0..self.commits()).filter(|at| !can_be_tested[*at]) {
            let with = self.testable_with(at, can_be_tested);
            // The one among them that is in all others of them, if there is one, has it as they have.
            let first = with.first().copied();
            let twin = first.filter(|first| self.testable_with(*first, can_be_tested) == with);
            let group = known.entry(with).or_insert(at);
            like[at] = *group;
            if let Some(twin) = twin {
                like[twin] = *group;
            }
        }
        like
    }

    /// Kernels that have a commit in them and can be tested.
    fn testable_with(&self, commit: usize, can_be_tested: &[bool]) -> Vec<usize> {
        let kernels = commit..self.commits();
        kernels.filter(|at| can_be_tested[*at] && self.contains(*at, commit)).collect()
    }

    /// One of them, each as likely.
    pub fn prior(&self) -> f64 {
        evenly(self.commits())
    }
}

/// The sum over the commits whose bits are set.
fn sum_of(bits: &[u64], of_commits: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (word, part) in bits.iter().zip(of_commits.chunks(WORD_BITS)) {
        let mut left = *word;
        while left != 0 {
            sum += part[left.trailing_zeros() as usize];
            left &= left - 1;
        }
    }
    sum
}
