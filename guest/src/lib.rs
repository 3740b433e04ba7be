// SPDX-License-Identifier: Apache-2.0
//! All that runs as PID 1 inside the virtual machine: the agent, the load it starts, and
//! the channel on which results leave.

pub mod job;
pub mod wire;
