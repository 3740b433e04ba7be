// SPDX-License-Identifier: Apache-2.0
//! One case: what to do in the emulated host, and what to find afterwards.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use libtest_mimic::{Completion, Failed};
use testhost::host::accident::Accident;

use crate::outcome::Outcome;

/// Longest time of a case that says nothing else. A run of the main job takes a quarter of it
/// on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

type Check = Box<dyn Fn(&Outcome) + Send + Sync>;

/// One case of a group.
pub struct Case {
    pub name: String,
    /// Shell words, run in a folder of their own that is fetched afterwards.
    pub script: String,
    /// After this time the case is killed and has failed.
    pub limit: Duration,
    /// How the guest ends because the case wants it so: then it is no accident.
    pub expects: Option<Accident>,
    /// Panics where the outcome is wrong.
    check: Check,
}

impl Case {
    /// A case of any shell words.
    pub fn new(
        name: impl Into<String>,
        script: impl Into<String>,
        check: impl Fn(&Outcome) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            script: script.into(),
            limit: LIMIT,
            expects: None,
            check: Box::new(check),
        }
    }

    /// A case of one `schedvmm` run with these options, its results in `r`.
    pub fn run(
        name: impl Into<String>,
        options: &str,
        check: impl Fn(&Outcome) + Send + Sync + 'static,
    ) -> Self {
        Self::new(name, main_job(options), check)
    }

    /// Another time limit.
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// A guest that is broken so that it ends in this way.
    pub fn expecting(self, accident: Accident) -> Self {
        Self { expects: Some(accident), ..self }
    }

    /// What a check says by a panic is the failure.
    pub fn judge(&self, outcome: &Outcome) -> Result<Completion, Failed> {
        println!("     {}: status {} after {:.1} s", self.name, outcome.status, outcome.seconds);
        let check = AssertUnwindSafe(|| {
            outcome.assert_civil();
            (self.check)(outcome);
        });
        match catch_unwind(check) {
            Ok(()) => Ok(Completion::Completed),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                Err(text.unwrap_or_else(|| "a panic without words".to_owned()).into())
            }
        }
    }
}

/// A gap over the threshold counts however noisy the machine is: an emulated one is beyond every
/// budget. What the host took of the gap itself is never the kernel's.
pub const NOISY: &str = "--on-contaminated report";

/// The main job on the kernel of the host, its results in `r`.
pub fn main_job(options: &str) -> String {
    // What a meter in place of the load finds is judged by its length alone.
    let metered = options.contains("--meter ") && !options.contains("--nested");
    let noisy = if metered { "" } else { NOISY };
    format!("schedvmm --kernel /bzImage --output r {noisy} {options}")
}
