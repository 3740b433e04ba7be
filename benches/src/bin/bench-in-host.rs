// SPDX-License-Identifier: Apache-2.0
//! What benchmarks run inside the emulated host, and in its guests: a program of its own, which
//! `cargo xtask bench` builds and takes there.

use std::process::ExitCode;

use benches::{boot, bulk, nested};
use clap::Parser;

/// The inner parts of `cargo xtask bench`. Reports go to the current folder.
#[derive(Parser)]
enum Options {
    /// Of `bench boot`.
    Boot {
        /// Timed runs of each.
        #[arg(long)]
        runs: u32,
    },
    /// Of `bench bulk`.
    Bulk {
        /// Size of a dump in MiB.
        #[arg(long)]
        mib: u32,
        /// Timed dumps of each.
        #[arg(long)]
        runs: u32,
    },
    /// PID 1 of the guests of `bulk`.
    BulkGuest {
        /// Size of a dump in MiB.
        #[arg(long)]
        mib: u32,
    },
    /// Of `bench nested`.
    Nested {
        /// Virtual machines in each run.
        #[arg(long)]
        l2_count: u32,
        /// Runs in a row.
        #[arg(long)]
        runs: u32,
    },
}

fn main() -> ExitCode {
    let done = match Options::parse() {
        Options::Boot { runs } => boot::driver::run(runs),
        Options::Bulk { mib, runs } => bulk::driver::run(mib, runs),
        Options::BulkGuest { mib } => bulk::guest::main(mib),
        Options::Nested { l2_count, runs } => nested::driver::run_in_host(l2_count, runs),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-in-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}
