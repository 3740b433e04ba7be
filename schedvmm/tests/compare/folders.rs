// SPDX-License-Identifier: Apache-2.0
//! Folders of trials that are made up.

use std::fs;
use std::path::Path;

use results::metric::Metric;
use results::model::{Answer, RunResult};
use results::set_file::SetFile as _;
use results::testing;
use results::trials::{
    Attempt, Conditions, Ended, State, TrialKernel, TrialMachine, TrialTerms, Trials, folder_name,
    seed_of,
};

/// One side of a comparison.
#[derive(Clone)]
pub struct Side {
    trials: u32,
    wait_ns: u64,
    seed: u64,
    hour: u32,
    wild: bool,
    pub state: State,
    /// What else is different of each of its results.
    pub change: fn(&mut RunResult),
}

impl Side {
    /// So many trials of about this wait.
    pub fn new(trials: u32, wait_ns: u64) -> Self {
        let (seed, hour, wild) = (7, 20, false);
        Self { trials, wait_ns, seed, hour, wild, state: State::Measured, change: |_| {} }
    }

    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// An hour after the others.
    pub fn later(self) -> Self {
        Self { hour: self.hour + 1, ..self }
    }

    /// Every second trial has three times the wait.
    pub fn wild(self) -> Self {
        Self { wild: true, ..self }
    }

    fn wait_of(&self, trial: u32) -> u64 {
        // Within 3 %.
        let scatter = seed_of(self.seed.wrapping_mul(self.wait_ns), trial) % 60;
        let wait_ns = self.wait_ns * (970 + scatter) / 1000;
        if self.wild && trial.is_multiple_of(2) { wait_ns / 3 } else { wait_ns }
    }

    pub fn write(&self, folder: &Path) {
        let sample = testing::result("user");
        let mut trials = Trials::new(conditions(&sample, self.seed));
        trials.planned = self.trials;
        trials.ended = Some(Ended::All);
        for trial in 1..=self.trials {
            let mut result = sample.clone();
            let seed = seed_of(self.seed, trial);
            fill(&mut result, self.wait_of(trial));
            result.job.load.seed = seed;
            result.started_utc = format!("2026-11-22T{}:{trial:02}:00Z", self.hour);
            (self.change)(&mut result);
            let name = folder_name(trial, 1);
            let at = folder.join(&name);
            fs::create_dir_all(&at).expect("made");
            let text = serde_json::to_string(&result).expect("JSON");
            fs::write(at.join("result.json"), text).expect("written");
            trials.attempts.push(Attempt {
                trial,
                attempt: 1,
                folder: name,
                seed,
                started_utc: result.started_utc.clone(),
                took_ms: 30_000,
                state: self.state,
                why: String::new(),
                verdict: Some(result.verdict),
                exit_status: result.exit_status,
                reason_code: result.reason_code,
                over_threshold: false,
                cookies_missing: false,
                metrics: Metric::all_of(&result),
            });
        }
        trials.write(folder).expect("written");
    }
}

/// A run that went as it should.
fn fill(result: &mut RunResult, wait_ns: u64) {
    (result.verdict, result.exit_status) = (Answer::Measured, Some(0));
    (result.threshold_hit, result.after_hit) = (None, None);
    result.job.load.threshold = None;
    result.steal = Default::default();
    result.longest_gap_ns = Some(3 * wait_ns);
    let quantiles = result.statistics.time_quantiles.get_or_insert_default();
    quantiles.p99_ns = Some(wait_ns);
}

fn conditions(sample: &RunResult, seed: u64) -> Conditions {
    Conditions {
        seed,
        kernel: TrialKernel { path: "bzImage".into(), bytes: sample.kernel.bytes, crc32: 1 },
        l2_kernel: None,
        job: sample.job.clone(),
        machine: TrialMachine::default(),
        terms: TrialTerms { steal_budget: 1.0, noise_budget: 1.0, report_contaminated: false },
        limits: Vec::new(),
        host: sample.host.clone(),
    }
}
