// SPDX-License-Identifier: Apache-2.0
//! Kernels that are really built and run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use results::bisection::{Bisection, FoundCommit};
use results::folder;
use results::set_file::SetFile as _;
use results::trials::{Attempt, Conditions, State, TrialTerms};

use super::build::{Builder, unkept};
use super::hunt::{Built, Lab};
use crate::cli::RunArgs;
use crate::measurement::millis;
use crate::signals;
use crate::status::{Failure, chain};
use crate::verbs::measure::repeated::{Inbox, Repeated};
use crate::verbs::trials::series;

/// A kernel at a time.
pub struct Machines {
    builder: Builder,
    folder: PathBuf,
    run: RunArgs,
    inbox: Inbox,
    seed: u64,
    kernel: Option<Repeated>,
}

impl Machines {
    /// With these options for all runs.
    pub fn new(builder: Builder, folder: &Path, run: RunArgs, inbox: Inbox, seed: u64) -> Self {
        Self { builder, folder: folder.to_owned(), run, inbox, seed, kernel: None }
    }

    /// Nothing more is built.
    pub fn end(&self) {
        self.builder.end();
    }

    /// A signal that has come.
    pub fn received(&self) -> Option<i32> {
        signals::received()
    }
}

impl Lab for Machines {
    fn has(&self, commit: &str) -> bool {
        self.builder.kernel(commit).is_some()
    }

    fn build(&mut self, commit: &str) -> Result<Option<Built>, Failure> {
        // A compiler needs the memory that an unpacked kernel takes.
        self.kernel = None;
        let made = self.builder.build(commit)?;
        Ok(made.map(|made| Built { took: made.took, why_not: made.why_not }))
    }

    fn open(&mut self, commit: &str) -> Result<Conditions, Failure> {
        self.kernel = None;
        let mut run = self.run.clone();
        run.kernel = self.builder.kernel(commit);
        let kernel = self.kernel.insert(Repeated::open(&run, Some(self.seed))?);
        Ok(kernel.conditions())
    }

    fn run(&mut self, attempt: &mut Attempt, terms: TrialTerms) -> Result<(), Failure> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let begin = Instant::now();
        let folder = self.folder.join(&attempt.folder);
        let run = kernel.measure(attempt.seed, &folder, &mut self.inbox);
        attempt.took_ms = millis(begin.elapsed());
        let (result, kept) = run?;
        series::fill(attempt, &result, terms);
        kept.map_err(|error| {
            (attempt.state, attempt.why) = (State::Failed, chain(&error));
            unkept(error)
        })
    }

    fn describe(&self, commit: &str, probability: f64) -> Result<FoundCommit, Failure> {
        self.builder.git().describe(commit, probability)
    }

    fn count_before(&self, commit: &str, others: &[&str]) -> Result<u64, Failure> {
        self.builder.git().count_before(commit, others)
    }

    fn keep(&mut self, state: &Bisection) -> Result<(), Failure> {
        state.write(&self.folder).map_err(unkept)
    }

    fn now_utc(&self) -> String {
        folder::started_utc()
    }

    fn signal(&self) -> Option<i32> {
        signals::received()
    }
}
