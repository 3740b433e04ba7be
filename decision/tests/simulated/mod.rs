// SPDX-License-Identifier: Apache-2.0
//! Simulations, of tests and of the example that prints their tables.

pub mod comparisons;
pub mod host;
pub mod random;
