// SPDX-License-Identifier: Apache-2.0
//! All that runs as PID 1 inside the virtual machine: the agent, the load it starts, and
//! the channel on which results leave.
//!
//! The load does not need the agent: [`load::run`] measures on any kernel, given an observer
//! that takes the results.

pub mod agent;
pub mod balance;
pub mod cgroup;
pub mod cmdline;
pub mod cosched;
pub mod cpus;
pub mod duration;
pub mod error;
pub mod frame;
pub mod hierarchy;
pub mod index;
pub mod job;
pub mod knobs;
pub mod load;
pub mod meter;
pub mod modules;
pub mod nested;
pub mod noise;
pub mod obstacle;
pub mod orders;
mod owner;
pub mod port;
pub mod scheduler;
pub mod setup;
pub mod shape;
pub mod system;
#[cfg(test)]
mod testing;
pub mod trace;
pub mod wire;
