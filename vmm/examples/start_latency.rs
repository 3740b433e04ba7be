// SPDX-License-Identifier: Apache-2.0
//! How long from the start of a process to the first instruction of its guest?
//!
//! The guest has 4 vCPUs and 256 MiB, and its first instructions write to a port. The parent
//! starts itself anew for each run and tells the child when.
//!
//! ```text
//! cargo run --release -p vmm --example start_latency -- [RUNS] [--json] [--phases]
//! ```

use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use vmm::config::{Config, Topology};
use vmm::kvm::{DEVICE, Hypervisor};
use vmm::load::{self, Initrd, Kernel};
use vmm::virtio::console::{PortKind, PortSpec};
use vmm::vm::{Parts, Vm};
use vmm::x86_64::elf::flat_kernel;
use vmm::x86_64::image::KernelImage;

const RUNS: usize = 20;
/// What the project promises, in ms.
const TARGET_MS: f64 = 15.0;
/// A guest that has not begun by then never will.
const DEADLINE: Duration = Duration::from_secs(10);
/// Tells the child when it was started, in ns of CLOCK_MONOTONIC.
const STARTED: &str = "START_LATENCY_STARTED_NS";
const BASE: u32 = 0x10_0000;
const GUEST: &[u8] = &[
    0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
    0xee, // out dx, al
    0xf4, // hlt
    0xeb, 0xfd, // jmp to it
];
/// What a child measures, in order: each from its start.
const PHASES: [&str; 4] = ["main", "built", "started", "guest"];

fn main() -> ExitCode {
    let result = match env::var(STARTED) {
        Ok(started) => child(&started),
        Err(_) => parent(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("start_latency: {error}");
            ExitCode::FAILURE
        }
    }
}

fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// A serial line that tells when it was first written to.
struct Stamp(Sender<u64>);

impl Write for Stamp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The receiver takes the first one and is gone.
        let _ = self.0.send(monotonic_ns());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts one machine and prints when each phase was over.
fn child(started: &str) -> Result<(), Box<dyn Error>> {
    let main = monotonic_ns();
    let started: u64 = started.parse()?;
    let kernel = KernelImage::parse(flat_kernel(BASE, GUEST))?;
    let config = Config {
        serial: true,
        cmdline: "console=hvc0".into(),
        ..Config::new(Topology { cpus: 4, threads_per_core: 2 }, 256)
    };
    let port = |name: &str, kind| PortSpec { name: name.into(), kind, sink: Box::new(io::sink()) };
    let ports = vec![
        port("console", PortKind::Console),
        port("results", PortKind::Generic),
        port("trace", PortKind::Generic),
    ];
    let (stamp, stamps) = mpsc::channel();
    let parts = Parts {
        loaded: load::fill(&config, Kernel::Image(&kernel), Initrd::Bytes(&[]))?,
        ports,
        serial: Some(Box::new(Stamp(stamp))),
    };
    let vm = Vm::build(&Hypervisor::open(Path::new(DEVICE))?, &config, parts)?;
    let built = monotonic_ns();
    let mut running = vm.start(|_| ())?;
    let begun = monotonic_ns();
    let guest = stamps.recv_timeout(DEADLINE)?;
    let times = [main, built, begun, guest].map(|at| at.saturating_sub(started).to_string());
    println!("{}", times.join(" "));
    running.stop(false)?;
    Ok(())
}

/// Starts the children one after the other and prints their figures.
fn parent() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let wants = |option: &str| arguments.iter().any(|argument| argument == option);
    let runs = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(RUNS).max(1);
    let mut phases = [const { Vec::new() }; PHASES.len()];
    for _ in 0..runs {
        for (all, one) in phases.iter_mut().zip(run_child()?) {
            all.push(one);
        }
    }
    let phases = phases.map(Spread::of);
    let [.., guest] = &phases;
    let Spread { min, median, max } = guest;
    if wants("--json") {
        println!(
            "{{\"runs\": {runs}, \"min_ms\": {min:.3}, \"median_ms\": {median:.3}, \
             \"max_ms\": {max:.3}, \"target_ms\": {TARGET_MS}}}"
        );
        return Ok(());
    }
    if wants("--phases") {
        for (name, Spread { min, median, max }) in PHASES.iter().zip(&phases) {
            println!("{name:<8} min {min:8.3}  median {median:8.3}  max {max:8.3} ms");
        }
    }
    println!(
        "process start to first guest instruction, 4 vCPUs, 256 MiB, {runs} runs: \
         min {min:.2} ms, median {median:.2} ms, max {max:.2} ms (target: median {TARGET_MS} ms)"
    );
    Ok(())
}

fn run_child() -> Result<[f64; PHASES.len()], Box<dyn Error>> {
    let mut command = Command::new(env::current_exe()?);
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.env(STARTED, monotonic_ns().to_string()).output()?;
    if !output.status.success() {
        return Err(format!("a run failed: {}", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut times = text.split_whitespace();
    let mut phases = [0.0; PHASES.len()];
    for phase in &mut phases {
        let time: u32 = times.next().ok_or("a run said nothing")?.parse()?;
        *phase = f64::from(time) / 1e6;
    }
    Ok(phases)
}

/// Least, median and most, in ms.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self { min: times[0], median: times[times.len() / 2], max: times[times.len() - 1] }
    }
}
