// SPDX-License-Identifier: Apache-2.0
//! The tunables that there are, and where each era of kernels keeps them.

use protocol::tunable::TunableName;

/// What a tunable's file holds.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Nanoseconds,
    Microseconds,
    Number,
    /// Words and the numbers the file knows them by.
    Words(&'static str, &'static [(&'static str, &'static str)]),
    /// A word of the kernel's own.
    Text,
    /// A scheduler feature: its name in the features file.
    Feature(&'static str),
}

/// A tunable by intent.
pub(super) struct Tunable {
    pub(super) name: TunableName,
    pub(super) unit: Unit,
    /// Below the root of the file system, newest kernel first.
    pub(super) files: &'static [&'static str],
    /// Why a kernel has none of the files, where their file systems are there.
    pub(super) absent: &'static str,
}

pub(super) const DURATION: &str = "a time such as 1.875ms, 100us or 500ns";

pub(super) const WHOLE_MICROSECONDS: &str = "a time in whole microseconds, such as 100us or 5ms";

pub(super) const ON_OFF: &[(&str, &str)] = &[("on", "1"), ("off", "0"), ("1", "1"), ("0", "0")];

/// The scheduler's features, newest kernel first.
pub(in crate::kernel) const FEATURES: &[&str] =
    &["sys/kernel/debug/sched/features", "sys/kernel/debug/sched_features"];

/// It is there with EEVDF only.
pub(in crate::kernel) const BASE_SLICE: &str = "sys/kernel/debug/sched/base_slice_ns";

/// CFS's slice, newest kernel first.
pub(in crate::kernel) const MIN_GRANULARITY: &[&str] =
    &["sys/kernel/debug/sched/min_granularity_ns", "proc/sys/kernel/sched_min_granularity_ns"];

/// CFS's targeted latency, newest kernel first.
pub(in crate::kernel) const LATENCY: &[&str] =
    &["sys/kernel/debug/sched/latency_ns", "proc/sys/kernel/sched_latency_ns"];

/// Of a tunable that only CFS has.
pub(super) const NO_CFS_TUNABLE: &str =
    "CFS only: gone with EEVDF in 6.6, or CONFIG_SCHED_DEBUG is missing";

pub(super) const NO_FEATURES: &str = "needs CONFIG_SCHED_DEBUG=y (before 6.15)";

pub(super) const TUNABLES: &[Tunable] = &[
    Tunable {
        name: TunableName::Scaling,
        unit: Unit::Words(
            "none, log or linear, or 0, 1, 2",
            &[("none", "0"), ("log", "1"), ("linear", "2"), ("0", "0"), ("1", "1"), ("2", "2")],
        ),
        files: &["sys/kernel/debug/sched/tunable_scaling", "proc/sys/kernel/sched_tunable_scaling"],
        absent: NO_FEATURES,
    },
    Tunable {
        name: TunableName::Slice,
        unit: Unit::Nanoseconds,
        files: &[BASE_SLICE, MIN_GRANULARITY[0], MIN_GRANULARITY[1]],
        absent: NO_FEATURES,
    },
    Tunable {
        name: TunableName::Latency,
        unit: Unit::Nanoseconds,
        files: LATENCY,
        absent: NO_CFS_TUNABLE,
    },
    Tunable {
        name: TunableName::MinGranularity,
        unit: Unit::Nanoseconds,
        files: MIN_GRANULARITY,
        absent: NO_CFS_TUNABLE,
    },
    Tunable {
        name: TunableName::Wakeup,
        unit: Unit::Nanoseconds,
        files: &[
            "sys/kernel/debug/sched/wakeup_granularity_ns",
            "proc/sys/kernel/sched_wakeup_granularity_ns",
        ],
        absent: NO_CFS_TUNABLE,
    },
    Tunable {
        name: TunableName::MigrationCost,
        unit: Unit::Nanoseconds,
        files: &[
            "sys/kernel/debug/sched/migration_cost_ns",
            "proc/sys/kernel/sched_migration_cost_ns",
        ],
        absent: NO_FEATURES,
    },
    Tunable {
        name: TunableName::NrMigrate,
        unit: Unit::Number,
        files: &["sys/kernel/debug/sched/nr_migrate", "proc/sys/kernel/sched_nr_migrate"],
        absent: NO_FEATURES,
    },
    Tunable {
        name: TunableName::BandwidthSlice,
        unit: Unit::Microseconds,
        files: &["proc/sys/kernel/sched_cfs_bandwidth_slice_us"],
        absent: "needs CONFIG_CFS_BANDWIDTH",
    },
    Tunable {
        name: TunableName::Autogroup,
        unit: Unit::Words("on or off", ON_OFF),
        files: &["proc/sys/kernel/sched_autogroup_enabled"],
        absent: "this kernel has no CONFIG_SCHED_AUTOGROUP, so it groups nothing",
    },
    Tunable {
        name: TunableName::Schedstats,
        unit: Unit::Words("on or off", ON_OFF),
        files: &["proc/sys/kernel/sched_schedstats"],
        absent: "needs CONFIG_SCHEDSTATS",
    },
    Tunable {
        name: TunableName::Preempt,
        unit: Unit::Text,
        files: &["sys/kernel/debug/sched/preempt", "sys/kernel/debug/sched_preempt"],
        absent: "needs CONFIG_PREEMPT_DYNAMIC=y",
    },
    Tunable {
        name: TunableName::Hrtick,
        unit: Unit::Feature("HRTICK"),
        files: FEATURES,
        absent: NO_FEATURES,
    },
];
