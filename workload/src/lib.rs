// SPDX-License-Identifier: Apache-2.0
//! What runs on the measured kernel, as PID 1's child in a virtual machine or natively.
//!
//! [`supervisor::run`] re-executes the running program once for each group (see
//! [`group_process::group_main`]), waits until every thread stands at the start barrier, releases
//! them all with one agreed moment to begin, and hands what they measure to an
//! [`observer::Observer`] while they run. Nothing here needs to be PID 1, or root.
//!
//! Files below /proc and /sys, and system calls that tell the scheduler something, are in [`kernel`];
//! tracefs and /proc/kallsyms in [`tracing`]. A measuring thread's clocks, its yield and its timer
//! slack are where it measures, its own accounting in [`gaps::accounting`].

mod burst_account;
mod bursts;
pub mod context;
pub mod error;
pub mod ground;
pub mod group_process;
mod group_processes;
mod hit;
pub mod kernel;
pub mod kernel_meter;
mod monitor;
pub mod noise_floor;
pub mod observer;
mod owner;
pub mod placement;
pub mod setup;
pub mod shared_memory;
mod slots;
pub mod supervisor;
#[cfg(test)]
mod testing;
mod thread;
pub mod thread_accounting;
pub mod tracing;
