// SPDX-License-Identifier: Apache-2.0
//! Reads what the running kernel's scheduler goes by.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use protocol::scheduler::{Family, SchedulerFacts};
use rustix::time::ClockId;

use crate::kernel::obstacle::Obstacle;
use crate::kernel::tunables::table::{BASE_SLICE, FEATURES, LATENCY, MIN_GRANULARITY};

/// Facts about the kernel whose files are below `root`; its release as `uname -r` has it.
pub fn facts(root: &Path, release: &str) -> SchedulerFacts {
    let base_slice = first_number(&[BASE_SLICE], root);
    let latency_ns = first_number(LATENCY, root);
    let features = FEATURES.iter().find_map(|file| read(file, root));
    let family = match (base_slice, latency_ns) {
        (Some(_), _) => Some(Family::Eevdf),
        (None, Some(_)) => Some(Family::Cfs),
        (None, None) => version(release)
            .map(|version| if version >= (6, 6) { Family::Eevdf } else { Family::Cfs }),
    };
    let slice_ns = base_slice.or_else(|| first_number(MIN_GRANULARITY, root));
    SchedulerFacts {
        family,
        tick_ns: tick_ns(),
        slice_ns,
        slice_note: slice_ns.is_none().then(|| no_slice(root)),
        latency_ns,
        hrtick: features.map(|text| text.split_ascii_whitespace().any(|word| word == "HRTICK")),
        autogroup: read("proc/sys/kernel/sched_autogroup_enabled", root).map(|text| text == "1"),
    }
}

fn read(file: &str, root: &Path) -> Option<String> {
    let text = fs::read_to_string(root.join(file)).ok()?;
    Some(text.trim().to_owned())
}

fn first_number(files: &[&str], root: &Path) -> Option<u64> {
    files.iter().find_map(|file| read(file, root)?.parse().ok())
}

/// Why none of the files of the slice can be read.
fn no_slice(root: &Path) -> String {
    let errors = [BASE_SLICE].iter().chain(MIN_GRANULARITY).filter_map(|file| {
        let error = fs::read_to_string(root.join(file)).err()?;
        Some(Obstacle::below(root, Path::new(file), &error))
    });
    let obstacles: Vec<_> = errors.collect();
    let hidden = obstacles.iter().find(|obstacle| !obstacle.is_absence());
    match hidden.or_else(|| {
        obstacles.iter().find(|obstacle| matches!(obstacle, Obstacle::NoFileSystem { .. }))
    }) {
        Some(obstacle) => obstacle.to_string(),
        None => "before Linux 6.15 it needs CONFIG_SCHED_DEBUG=y".into(),
    }
}

/// Directories whose files steer the scheduler.
const DIRECTORIES: [&str; 2] = ["proc/sys/kernel", "sys/kernel/debug/sched"];

/// Longer ones are reports, not tunables.
const MAX_TUNABLE_BYTES: usize = 4096;

/// Every file that steers the scheduler of the kernel whose files are below `root`, with what
/// is in it: whatever a kernel adds is there without our knowing it. Empty where this user may
/// read none.
pub fn files(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for directory in DIRECTORIES {
        // All of debugfs's directory, and of /proc/sys/kernel what is named so.
        let entries = fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| !directory.starts_with("proc") || name.starts_with("sched_"))
        }) {
            tunable(root, &entry.path(), &mut found);
        }
    }
    tunable(root, &root.join("sys/kernel/debug/sched_features"), &mut found);
    // What fair threads are kept of a CPU under real-time ones (6.12); one CPU's stands for all.
    for name in ["runtime", "period"] {
        let path = format!("sys/kernel/debug/sched/fair_server/cpu0/{name}");
        tunable(root, &root.join(path), &mut found);
    }
    found
}

fn tunable(root: &Path, path: &Path, found: &mut BTreeMap<String, String>) {
    if !path.is_file() || path.file_name().is_some_and(|name| name == "debug") {
        // `debug` is the scheduler's whole state, of all CPUs and threads.
        return;
    }
    let Ok(text) = fs::read_to_string(path) else { return };
    let name = path.strip_prefix(root).unwrap_or(path);
    if text.len() <= MAX_TUNABLE_BYTES {
        found.insert(format!("/{}", name.display()), text.trim_end().to_owned());
    }
}

/// Coarse clocks advance with the tick, and their resolution is its length
/// (kernel/time/posix-timers.c, posix_get_coarse_res).
pub fn tick_ns() -> Option<u64> {
    let resolution = rustix::time::clock_getres(ClockId::MonotonicCoarse);
    u64::try_from(resolution.tv_nsec).ok().filter(|&ns| ns > 0)
}

/// `6.12.117-rc1` is 6.12.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;

    #[test]
    fn each_family_is_known_by_its_files() {
        let eevdf = tree(&[
            ("sys/kernel/debug/sched/base_slice_ns", "1875000\n"),
            ("sys/kernel/debug/sched/features", "PLACE_LAG HRTICK NO_HRTICK_DL\n"),
            ("proc/sys/kernel/sched_autogroup_enabled", "0\n"),
        ]);
        let found = facts(eevdf.path(), "6.12.117");
        assert_eq!((found.family, found.slice_ns), (Some(Family::Eevdf), Some(1_875_000)));
        assert_eq!(found.slice_note, None);
        assert_eq!((found.hrtick, found.autogroup), (Some(true), Some(false)));
        let cfs = tree(&[
            ("sys/kernel/debug/sched/latency_ns", "30000000\n"),
            ("sys/kernel/debug/sched/min_granularity_ns", "1875000\n"),
            ("sys/kernel/debug/sched/features", "NO_HRTICK\n"),
        ]);
        let found = facts(cfs.path(), "6.1.0");
        assert_eq!((found.family, found.slice_ns), (Some(Family::Cfs), Some(1_875_000)));
        assert_eq!((found.latency_ns, found.hrtick), (Some(30_000_000), Some(false)));
    }

    #[test]
    fn every_file_that_steers_is_told_and_no_report() {
        let long = "x".repeat(MAX_TUNABLE_BYTES + 1);
        let root = tree(&[
            ("proc/sys/kernel/sched_rt_runtime_us", "950000\n"),
            ("proc/sys/kernel/hostname", "x\n"),
            ("sys/kernel/debug/sched/features", "PLACE_LAG\n"),
            ("sys/kernel/debug/sched/debug", "Sched Debug Version\n"),
            ("sys/kernel/debug/sched/long", &long),
            ("sys/kernel/debug/sched/domains/cpu0/x", "1\n"),
            ("sys/kernel/debug/sched/fair_server/cpu0/runtime", "50000000\n"),
        ]);
        let found: Vec<_> = files(root.path()).into_iter().collect();
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let expected = [
            pair("/proc/sys/kernel/sched_rt_runtime_us", "950000"),
            pair("/sys/kernel/debug/sched/fair_server/cpu0/runtime", "50000000"),
            pair("/sys/kernel/debug/sched/features", "PLACE_LAG"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn without_files_the_release_tells_the_family_and_nothing_more() {
        let root = tree(&[]);
        let family = |release| facts(root.path(), release).family;
        assert_eq!(family("6.6.0"), Some(Family::Eevdf));
        assert_eq!(family("6.5.13-cloud"), Some(Family::Cfs));
        assert_eq!(family("nonsense"), None);
        let found = facts(root.path(), "6.6.0");
        assert_eq!((found.slice_ns, found.hrtick), (None, None));
        assert!(found.slice_note.unwrap().contains("CONFIG_SCHED_DEBUG"));
        let mounts = ("proc/self/mounts", "proc /proc proc rw 0 0\n");
        let unmounted = tree(&[mounts, ("proc/filesystems", "nodev\tdebugfs\n")]);
        let note = facts(unmounted.path(), "6.6.0").slice_note.unwrap();
        assert!(note.starts_with("debugfs is not mounted on /sys/kernel/debug"), "{note}");
    }

    #[test]
    fn this_kernels_tick_is_one_of_the_rates_that_linux_has() {
        let tick = tick_ns().expect("coarse clocks are as old as 2.6.32");
        let hz = 1_000_000_000_f64 / tick as f64;
        assert!([100.0, 250.0, 300.0, 1000.0].iter().any(|rate| (hz - rate).abs() < 1.0), "{hz}");
    }
}
