// SPDX-License-Identifier: Apache-2.0
//! What unit tests share.

use std::time::Duration;

use guest::job::{LoadSpec, SleepSpec};
use guest::shape::GroupSpec;

/// A second of so many groups of threads that never sleep, on the first CPUs.
pub fn load(groups: u32, threads_per_group: u32, cpus: u32) -> LoadSpec {
    let sleep = SleepSpec::Fixed(Duration::ZERO);
    let group = GroupSpec::plain(threads_per_group, Duration::from_secs(1), sleep);
    LoadSpec {
        name: None,
        groups: vec![group; groups as usize],
        cpus: (0..cpus).collect(),
        seed: 0,
        duration: Duration::from_secs(1),
        floor: Duration::from_nanos(1),
        threshold: None,
        records_per_thread: 1,
    }
}
