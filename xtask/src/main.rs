// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: everything around the product, one verb each.

mod demo;
#[cfg(test)]
mod docs;
mod host;
mod house;
mod kernels;
mod test;

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::demo::Demo;
use crate::host::HostOptions;
use crate::kernels::Matrix;
use benches::{
    analyse, boot, bulk, edit_loop, meter, nested, spread, start, trace, tracing, validity,
};

use testhost::host::{Interrupted, init};

use testhost::kernel::{self, Variant, Wanted};
use testhost::venue::MachineOptions;

/// What `xtask` itself ends with when it fails; outside the range of what it runs for others.
const OWN_FAILURE: u8 = 202;

/// Set-up, test kernels, the emulated host, tests and benchmarks of schedvmm.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build a kernel, unless the cache has it, and print where it is.
    Kernel {
        /// A series such as 6.12 (EEVDF) or 6.1 (CFS), or the oldest or newest that Debian's
        /// package archives offer.
        #[arg(value_name = "oldest|newest|SERIES", default_value_t)]
        wanted: Wanted,
        /// List what the archives offer instead, and which of it is built.
        #[arg(long, conflicts_with = "wanted")]
        list: bool,
        /// How it is configured.
        #[arg(long, value_enum, value_name = "VARIANT", default_value_t)]
        config: Variant,
        /// Debian's own kernel of this flavour (cloud, rt, …) instead: downloaded and unpacked, not
        /// installed. Prints its folder.
        #[arg(long, value_name = "FLAVOUR", conflicts_with_all = ["list", "config"])]
        stock: Option<String>,
    },
    /// Run the main job on many kernels, Debian's own and self-built ones, and print a table.
    ///
    /// Without --all: the oldest kernel for clouds, 6.1's, the newest of each flavour, and each way to
    /// configure one. What was printed and the result folders are kept in results/kernels.
    Kernels(KernelsOptions),
    /// Run a command in the emulated or simulated host; its exit status becomes ours.
    Host(HostOptions),
    /// Measure a test kernel: sets up what is missing, builds, runs the main job.
    Demo(DemoOptions),
    /// Check everything that CI checks.
    Test,
    /// How the source is built: circles, long functions, unsafe blocks, in figures.
    House {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Benchmarks of schedvmm itself.
    #[command(subcommand)]
    Bench(BenchVerb),
}

#[derive(Subcommand)]
enum BenchVerb {
    /// Start to PID 1 to exit, against QEMU's microvm, in the emulated host; and what it takes to
    /// load the console's driver, against a kernel that has it built in.
    Boot {
        /// Timed runs of each.
        #[arg(long, value_name = "N", default_value_t = 5)]
        runs: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Bulk data from guest to host, against QEMU's virtio-serial, in the emulated host.
    Bulk {
        /// Size of a dump in MiB.
        #[arg(long, value_name = "MIB", default_value_t = 1024)]
        mib: u32,
        /// Timed dumps of each.
        #[arg(long, value_name = "N", default_value_t = 3)]
        runs: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Process start to first guest instruction, on this machine's own KVM.
    Start {
        /// Timed starts.
        #[arg(long, value_name = "N", default_value_t = 20)]
        runs: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Statistics and result of ten million gaps: time and memory.
    Analyse {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Virtual machines in a virtual machine: phases of their start, memory, what is left behind.
    Nested {
        /// Virtual machines in each run.
        #[arg(long, value_name = "N", default_value_t = 8)]
        l2_count: u32,
        /// Runs in a row; 20 show whether anything leaks.
        #[arg(long, value_name = "N", default_value_t = 1)]
        runs: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// From a change in one file to the result of its crate's tests, crate by crate.
    Loop {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// One iteration of the meter's loop against a bare reading of the TSC, on this machine.
    Meter {
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// The median gap of the same load with tracing off and on, in turns, on this machine.
    Tracing {
        /// Runs of each.
        #[arg(long, value_name = "N", default_value_t = 10)]
        runs: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Figures whose answer is known, measured in the simulated host; status 1 if one is out of
    /// its bound.
    Validity {
        /// Leave out what boots a guest, a third of it.
        #[arg(long)]
        short: bool,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// The main job again and again in the simulated host: how far its figures spread
    Spread {
        /// Runs, each with a seed of its own.
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
        runs: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Events read and explained in a second, against trace-cmd on the same trace.
    Trace {
        /// A trace.dat; one of four million events is made without it.
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
        /// Timed runs of each; the best one counts.
        #[arg(long, value_name = "N", default_value_t = 3)]
        runs: u32,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct KernelsOptions {
    /// Folders that kernels' packages were unpacked into, instead of those that Debian offers.
    #[arg(value_name = "FOLDER", conflicts_with = "all")]
    folders: Vec<PathBuf>,
    /// The newest kernel of every series and flavour that Debian's archives offer with all of its
    /// packages. What is downloaded for that is removed after its run, unless the cache had it
    /// before.
    #[arg(long)]
    all: bool,
    /// Only kernels whose names in the table have this text in them; may be repeated.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Print one JSON array instead of a table.
    #[arg(long)]
    json: bool,
    /// How long the main job may take on one kernel.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

#[derive(clap::Args)]
struct DemoOptions {
    /// The test kernel to measure: a series such as 6.12 (EEVDF) or 6.1 (CFS), or the oldest
    /// or newest that Debian's package archives offer.
    #[arg(long, value_name = "oldest|newest|SERIES", default_value_t)]
    kernel: Wanted,
    /// Measure virtual machines inside the virtual machine.
    #[arg(long)]
    nested: bool,
    /// Where the result folder goes, new or empty; results/demo without this.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineOptions,
    /// How long the main job may take in the emulated or simulated host.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    /// Further options of schedvmm.
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

fn main() -> ExitCode {
    if init::is_our_role() {
        init::main();
    }
    let result = match Options::parse().verb {
        Verb::Kernel { list: true, .. } => list_kernels(),
        Verb::Kernel { wanted, stock: Some(flavour), .. } => show_stock(wanted, &flavour),
        Verb::Kernel { wanted, config, .. } => show_kernel(wanted, config),
        Verb::Kernels(options) => kernels(options),
        Verb::Host(options) => options.run(),
        Verb::Demo(options) => demo(options),
        Verb::Test => test(),
        Verb::House { json } => house::figures().and_then(|figures| show(&figures, json)),
        Verb::Bench(BenchVerb::Boot { runs, json }) => boot::run(runs).and_then(|r| show(&r, json)),
        Verb::Bench(BenchVerb::Bulk { mib, runs, json }) => {
            bulk::run(mib, runs).and_then(|r| show(&r, json))
        }
        Verb::Bench(BenchVerb::Start { runs, json }) => bench_start(runs, json),
        Verb::Bench(BenchVerb::Analyse { json }) => analyse::run().and_then(|r| show(&r, json)),
        Verb::Bench(BenchVerb::Nested { l2_count, runs, json }) => {
            nested::run(l2_count, runs).and_then(|r| show(&r, json))
        }
        Verb::Bench(BenchVerb::Loop { json }) => edit_loop::run().and_then(|r| show(&r, json)),
        Verb::Bench(BenchVerb::Meter { json }) => meter::run().and_then(|r| show(&r, json)),
        Verb::Bench(BenchVerb::Tracing { runs, json }) => {
            tracing::run(runs).and_then(|r| show(&r, json))
        }
        Verb::Bench(BenchVerb::Validity { short, json }) => bench_validity(short, json),
        Verb::Bench(BenchVerb::Spread { runs, json }) => {
            spread::run(runs).and_then(|r| show(&r, json))
        }
        Verb::Bench(BenchVerb::Trace { trace, runs, json }) => {
            bench_trace(trace.as_deref(), runs, json)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        let signal = error.downcast_ref::<Interrupted>();
        ExitCode::from(signal.map_or(OWN_FAILURE, Interrupted::code))
    })
}

fn list_kernels() -> Result<ExitCode> {
    println!("{:<8}{:<22}{:<20}bzImage", "series", "version", "from");
    for listed in kernel::list()? {
        println!("{listed}");
    }
    Ok(ExitCode::SUCCESS)
}

fn show_kernel(wanted: Wanted, variant: Variant) -> Result<ExitCode> {
    println!("{}", kernel::ensure_variant(wanted, variant)?.display());
    Ok(ExitCode::SUCCESS)
}

fn show_stock(wanted: Wanted, flavour: &str) -> Result<ExitCode> {
    println!("{}", kernel::stock(wanted, flavour)?.folder.display());
    Ok(ExitCode::SUCCESS)
}

fn kernels(options: KernelsOptions) -> Result<ExitCode> {
    let KernelsOptions { folders, all, only, json, timeout } = options;
    let timeout = Duration::from_secs(timeout);
    let all_ran = Matrix { all, folders, only, json, timeout }.run()?;
    Ok(if all_ran { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn demo(options: DemoOptions) -> Result<ExitCode> {
    let ended = Demo {
        kernel: options.kernel,
        nested: options.nested,
        output: options.output,
        json: options.json,
        machine: options.machine,
        timeout: Duration::from_secs(options.timeout),
        options: options.options,
    }
    .run()?;
    Ok(ExitCode::from(ended.code()))
}

fn test() -> Result<ExitCode> {
    let tally = test::run()?;
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(report: &(impl Serialize + Display), json: bool) -> Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        println!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

fn bench_start(runs: u32, json: bool) -> Result<ExitCode> {
    let status = start::run(runs, json)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench_validity(short: bool, json: bool) -> Result<ExitCode> {
    let report = validity::run(short)?;
    show(&report, json)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench_trace(trace: Option<&Path>, runs: u32, json: bool) -> Result<ExitCode> {
    let status = trace::run(trace, runs, json)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
