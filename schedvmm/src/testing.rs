// SPDX-License-Identifier: Apache-2.0
//! What unit tests share.

use std::time::Duration;

use guest::job::{LoadSpec, SleepSpec};

/// A second of so many groups of threads that never sleep, on the first CPUs.
pub fn load(groups: u32, threads_per_group: u32, cpus: u32) -> LoadSpec {
    LoadSpec {
        groups,
        threads_per_group,
        cpus: (0..cpus).collect(),
        busy: Duration::from_secs(1),
        sleep: SleepSpec::Fixed(Duration::ZERO),
        seed: 0,
        duration: Duration::from_secs(1),
        floor: Duration::from_nanos(1),
        threshold: None,
        records_per_thread: 1,
    }
}
