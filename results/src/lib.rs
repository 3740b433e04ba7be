// SPDX-License-Identifier: Apache-2.0
//! What a run leaves behind, as docs/formats.md describes it: each file is written and read by
//! the same types.
//!
//! - [`model`]: `result.json`. Its types hold what is in the file and nothing else; how figures
//!   follow from what was measured is no business of theirs.
//! - [`saved`]: a result folder that is read back, whatever version wrote it; [`upgrade`] is from
//!   older versions to this one.
//! - [`folder`]: a result folder that is written while a run goes on.
//! - [`trials`]: `trials.json`, of many runs of one kernel; [`metric`]: the figures by which such runs
//!   are compared.
//! - [`comparison`]: what two such sets come to; [`bisection`]: a search of a history of kernels;
//!   [`history`]: what many such sets come to, in the order of their kernels; [`matrix`]: kernels,
//!   tunables and loads, each with each. [`set_file`]: how the files of all these are read and written.
//! - [`selftest`]: whether the meter is right on a machine.
//! - [`gaps_csv`], [`gaps_hlog`]: the files with single gaps, and with distributions.

pub mod bisection;
pub mod clock;
pub mod comparison;
pub mod error;
pub mod folder;
pub mod gaps_csv;
pub mod gaps_hlog;
pub mod history;
pub mod host_cpus;
pub mod json;
pub mod matrix;
pub mod metric;
pub mod model;
pub mod saved;
pub mod selftest;
pub mod set_file;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trials;
pub mod upgrade;
