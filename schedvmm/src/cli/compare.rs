// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm compare`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use results::metric::Metric;

use crate::units;

/// What is compared, and by what.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Kernels, named as for the main job, or folders of `schedvmm trials`. Each is compared with the
    /// first.
    #[arg(required = true, value_name = "KERNEL|TRIALS", value_parser = units::named())]
    pub sides: Vec<PathBuf>,
    /// The figure that decides; the others are told beside it.
    #[arg(long, value_name = "METRIC", default_value = "wait-p99", value_parser = metric())]
    pub metric: Metric,
    /// The smallest change that matters: "same" are those that differ by less for certain.
    #[arg(long, value_name = "PERCENT", default_value = "10%", value_parser = units::percent)]
    pub min_effect: f64,
    /// With one kernel: options of the main job for the base …
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, requires = "option_b")]
    pub option_a: Option<String>,
    /// … and for what is compared with it. Each is one word of the shell, and may be empty.
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true, requires = "option_a")]
    pub option_b: Option<String>,
    /// What the seeds and the order of pairs are made of [default: another one for each comparison].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Folder of the trials; must be new or empty, or one of the same comparison, which goes on
    /// [default: a new one under results/].
    #[arg(long, value_name = "DIR", value_parser = units::named())]
    pub output: Option<PathBuf>,
    /// A value that may differ between kernels, or between stored trials, by its name in the list of
    /// differences, with all below it; may be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "option_a")]
    pub allow: Vec<String>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Print a table and a sentence for a commit message or a pull request.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Options of the main job for all sides.
    #[arg(last = true, value_name = "OPTIONS")]
    pub run: Vec<String>,
}

/// A metric by its name.
pub fn metric() -> impl TypedValueParser<Value = Metric> {
    PossibleValuesParser::new(Metric::ALL.map(Metric::name))
        // Those are all names that there are.
        .map(|name| Metric::named(&name).unwrap_or(Metric::WaitP99))
}
