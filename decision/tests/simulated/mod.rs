// SPDX-License-Identifier: Apache-2.0
//! Simulations, of tests and of the examples that print their tables.
#![allow(dead_code, reason = "each test and example uses a part")]

pub mod comparisons;
pub mod histories;
pub mod host;
pub mod kernels;
pub mod matrices;
pub mod random;
