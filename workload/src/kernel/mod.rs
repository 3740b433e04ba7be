// SPDX-License-Identifier: Apache-2.0
//! The running kernel's interfaces: every file below /proc and /sys, and every system call that
//! concerns scheduling or memory. Tracefs has a room of its own, [`crate::tracing`].

pub mod accounting;
pub mod affinity;
pub mod balance;
pub mod cgroup;
pub mod core_sched;
pub mod files;
pub mod futex;
pub mod hierarchy;
pub mod info;
pub(crate) mod memory;
pub mod obstacle;
pub mod process;
pub mod sched_policy;
pub mod scheduler;
pub mod signals;
pub mod switches;
pub mod tunables;
