// SPDX-License-Identifier: Apache-2.0
//! Limits on figures of a run (`--fail-if`), and what the run comes to by them.

use std::fmt;

use results::metric::{Metric, Quantity};
use results::model::{Answer, LimitFinding, ReasonCode, RunResult};

use crate::doubt::Doubt;
use crate::units;
use crate::verdict::Verdict;

/// How a figure fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Above,
    Below,
}

/// A run fails if this figure is above, or below, this value.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    metric: Metric,
    comparison: Comparison,
    bound: f64,
    /// As it was given.
    text: String,
}

impl Limit {
    /// `wakeup-p99 > 5ms`, `forced-idle > 20%`, `fairness < 0.9`.
    ///
    /// # Errors
    /// What is wrong, for clap to show beside the option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']).ok_or("it needs the form FIGURE > VALUE or FIGURE < VALUE")?;
        let (name, rest) = text.split_at(at);
        let comparison = if rest.starts_with('>') { Comparison::Above } else { Comparison::Below };
        let name = name.trim();
        // As they are in result.json, too.
        let metric = Metric::named(&name.replace(['.', '_'], "-")).ok_or_else(|| {
            let known = Metric::ALL.map(Metric::name).join(", ");
            format!("there is no figure \"{name}\"; there are {known}")
        })?;
        let value = rest[1..].trim();
        let bound = match metric.quantity() {
            Quantity::LengthNs => units::duration(value).map(units::as_ns).map(as_float),
            Quantity::Share => units::percent(value),
            Quantity::Number => value.parse::<f64>().map_err(|_| "it needs a number".into()),
        };
        let bound = bound.and_then(|bound| {
            if bound.is_finite() && bound >= 0.0 { Ok(bound) } else { Err("it needs a number".into()) }
        });
        let bound = bound.map_err(|why: String| format!("the value \"{value}\": {why}"))?;
        Ok(Self { metric, comparison, bound, text: text.trim().into() })
    }

    /// What a run has of it.
    fn find(&self, result: &RunResult) -> LimitFinding {
        let value = self.metric.of(result);
        let failed = value.map(|value| match self.comparison {
            Comparison::Above => value > self.bound,
            Comparison::Below => value < self.bound,
        });
        LimitFinding { limit: self.text.clone(), metric: self.metric, value, failed }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
