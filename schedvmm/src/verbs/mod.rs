// SPDX-License-Identifier: Apache-2.0
//! The verbs of `--help`, a module each. Without a verb it is [`measure`].

pub mod bisect;
pub mod boot;
pub mod check;
pub mod compare;
pub mod completions;
pub mod config;
pub mod explain;
pub mod history;
pub mod host;
pub mod list;
pub mod man;
pub mod matrix;
pub mod measure;
pub mod probe;
pub mod report;
pub mod run;
pub mod selftest;
pub mod show;
pub mod trials;
