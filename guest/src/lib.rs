// SPDX-License-Identifier: Apache-2.0
//! PID 1 of the virtual machine: the agent, its channel to the host, and the supervision of
//! second-level guests.

pub mod agent;
pub mod commands;
pub mod modules;
pub mod nested;
mod owner;
pub mod pid1;
pub mod port;
