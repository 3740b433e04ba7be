// SPDX-License-Identifier: Apache-2.0
//! Cells: their places, what their runs are, which they are compared with, and in which order all
//! trials are done.

use clap::ValueEnum;
use gaps::pauses::splitmix64;
use protocol::job::CoschedRequest;
use results::matrix::{MatrixBase, MatrixQuestion};

use crate::cli::Cosched;
use crate::presets::PRESETS;

/// Makes the order something else than seeds of trials.
const ORDER: u64 = 0x6d61_7472_6978_206f;

/// Where a cell is in the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the list of kernels, from 0.
    pub kernel: usize,
    /// In that of tunables.
    pub tuning: usize,
    /// In that of loads.
    pub load: usize,
    /// In that of sources of cookies.
    pub cookies: usize,
}

impl Place {
    /// All of them; what stands last changes first.
    pub fn all(question: &MatrixQuestion) -> Vec<Self> {
        let mut places = Vec::new();
        for kernel in 0..question.kernels.len() {
            for tuning in 0..question.tunings.len() {
                for load in 0..question.loads.len() {
                    let cookies = 0..question.cookies.len();
                    places.extend(cookies.map(|cookies| Self { kernel, tuning, load, cookies }));
                }
            }
        }
        places
    }

    /// The place that it is compared with; itself where others are compared with it.
    pub fn base(self, question: &MatrixQuestion) -> Self {
        let MatrixBase { kernel, tuning, load, cookies } = &question.base;
        Self {
            kernel: at(&question.kernels, kernel.as_ref()).unwrap_or(self.kernel),
            tuning: at(&question.tunings, tuning.as_ref()).unwrap_or(self.tuning),
            load: at(&question.loads, load.as_ref()).unwrap_or(self.load),
            cookies: at(&question.cookies, Some(cookies).filter(|it| it.is_some()))
                .unwrap_or(self.cookies),
        }
    }

    /// Its values.
    pub fn parts(self, question: &MatrixQuestion) -> Parts<'_> {
        Parts {
            kernel: &question.kernels[self.kernel],
            tuning: &question.tunings[self.tuning],
            load: &question.loads[self.load],
            cookies: question.cookies[self.cookies],
        }
    }

    /// What tells it from the others: the values of lists that have several.
    pub fn name(self, question: &MatrixQuestion) -> String {
        let parts = self.parts(question);
        let cookies = format!("cookies {}", cookies_name(parts.cookies));
        let values = [
            (question.kernels.len(), parts.kernel.to_owned()),
            (question.tunings.len(), or_default(parts.tuning).to_owned()),
            (question.loads.len(), parts.load.to_owned()),
            (question.cookies.len(), cookies),
        ];
        let told = values.into_iter().filter(|(count, _)| *count > 1).map(|(_, value)| value);
        told.collect::<Vec<_>>().join(", ")
    }
}

/// A tuning for a reader.
pub fn or_default(tuning: &str) -> &str {
    if tuning.is_empty() { "(default)" } else { tuning }
}

/// A source of cookies as options name it; nothing of none.
pub fn cookies_name(request: Option<CoschedRequest>) -> String {
    let mut all = Cosched::value_variants().iter();
    let known = all.find(|it| Some(CoschedRequest::from(**it)) == request);
    let value = known.and_then(ValueEnum::to_possible_value);
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

fn at<T: PartialEq>(values: &[T], value: Option<&T>) -> Option<usize> {
    values.iter().position(|it| Some(it) == value)
}

/// The first value of the first list that has others: loads last, for they are no kernel's.
pub fn default_base(question: &MatrixQuestion) -> MatrixBase {
    let mut base = MatrixBase::default();
    if question.kernels.len() > 1 {
        base.kernel = question.kernels.first().cloned();
    } else if question.tunings.len() > 1 {
        base.tuning = question.tunings.first().cloned();
    } else if question.cookies.len() > 1 {
        base.cookies = question.cookies[0];
    } else {
        base.load = question.loads.first().cloned();
    }
    base
}

/// What is special to some runs; what is empty is left to the options of all.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// As --kernel.
    pub kernel: &'a str,
    /// Words as --tune.
    pub tuning: &'a str,
    /// A preset or a file.
    pub load: &'a str,
    /// As --cosched.
    pub cookies: Option<CoschedRequest>,
}

impl<'a> Parts<'a> {
    /// A kernel and nothing else.
    pub fn of_kernel(kernel: &'a str) -> Self {
        Self { kernel, tuning: "", load: "", cookies: None }
    }

    /// The main job's words.
    pub fn words(self, options: &[String]) -> Vec<String> {
        let mut words = vec!["schedvmm".to_owned(), format!("--kernel={}", self.kernel)];
        words.extend(options.iter().cloned());
        words.extend(self.tuning.split_whitespace().map(|word| format!("--tune={word}")));
        if !self.load.is_empty() {
            let is_preset = PRESETS.iter().any(|(name, _)| *name == self.load);
            let option = if is_preset { "preset" } else { "load" };
            words.push(format!("--{option}={}", self.load));
        }
        if self.cookies.is_some() {
            words.push(format!("--cosched={}", cookies_name(self.cookies)));
        }
        // A gap would end a run, and its figures with it.
        words.push("--threshold=off".to_owned());
        words
    }
}

/// All trials of so many cells, as many of each, in one random order: the cell, from 1, and the number
/// of its trial. Each order is as likely as any other.
pub fn order(seed: u64, cells: usize, trials: u32) -> Vec<(usize, u32)> {
    let mut order: Vec<_> =
        (1..=cells).flat_map(|cell| (1..=trials).map(move |trial| (cell, trial))).collect();
    let mut state = seed ^ ORDER;
    for last in (1..order.len()).rev() {
        let drawn = splitmix64(&mut state) % (last as u64 + 1);
        order.swap(last, usize::try_from(drawn).unwrap_or(0));
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_order_is_as_likely_as_any_other() {
        let mut counts: BTreeMap<_, u32> = BTreeMap::new();
        for seed in 0..6000 {
            *counts.entry(order(seed, 3, 1)).or_default() += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (880..1120).contains(count)), "{counts:?}");
        let mut all = order(7, 4, 5);
        assert_eq!(all, order(7, 4, 5));
        assert_ne!(all, order(8, 4, 5));
        all.sort_unstable();
        let expected: Vec<_> = (1..=4).flat_map(|cell| (1..=5).map(move |it| (cell, it))).collect();
        assert_eq!(all, expected, "each once");
    }
}
