// SPDX-License-Identifier: Apache-2.0
//! A run that had not ended at its limit, as [`crate::wall`] finds it and a verdict says it.

use std::time::Duration;

use results::model::Stage;

use crate::session::waited_for;
use crate::units;

/// A run that had not ended at its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The limit.
    pub limit: Duration,
    /// How far it had come.
    pub stage: Stage,
}

impl Overrun {
    /// What is to be said of it.
    pub fn reason(&self) -> String {
        let limit = units::show_ns(units::as_ns(self.limit));
        let stage = waited_for(self.stage);
        format!("the run had not ended after {limit} (--wall-limit), and waited for {stage}")
    }
}
