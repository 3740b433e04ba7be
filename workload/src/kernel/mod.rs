// SPDX-License-Identifier: Apache-2.0
//! The running kernel's interfaces: files below /proc and /sys, and system calls that tell the
//! scheduler something, wait for another thread, or lock memory. Not here: tracefs and kallsyms
//! ([`crate::tracing`]), memory that processes share ([`crate::shared_memory`]), what a measuring
//! thread asks of itself (its clocks; [`gaps::accounting`]).

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
