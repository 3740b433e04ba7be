// SPDX-License-Identifier: Apache-2.0
//! What the launcher, the agent and the load's processes say to each other.
//!
//! Types with serde names, the frames that carry them, and the names that both sides know. No file
//! is read here and no system call made.

pub mod cmdline;
pub mod cpu_list;
pub mod duration;
pub mod error;
pub mod frame;
pub mod group;
pub mod group_process;
pub mod index;
pub mod job;
pub mod launcher;
pub mod message;
pub mod meter;
pub mod names;
pub mod noise;
pub mod report;
pub mod scheduler;
pub mod tunable;
pub mod vm;
