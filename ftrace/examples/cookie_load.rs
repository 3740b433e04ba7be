// SPDX-License-Identifier: Apache-2.0
//! Threads that want to run and may not run side by side: `cookie_load SECONDS CPUS GROUPS`.
//!
//! GROUPS processes of two threads, each process with a core-scheduling cookie of its own
//! (where the kernel has them), spin on the time stamp counter on CPUS (such as `2,3`), in
//! bursts with pauses. On standard output: `group,GROUP,TID,COOKIE` for each thread, and
//! `gap,TID,BEGIN,END` (TSC) for each interval of at least 1 ms in which it did not run.

use std::error::Error;
use std::io::Write;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{
    CoreSchedulingScope, CpuSet, core_scheduling_cookie, create_core_scheduling_cookie, gettid,
};

/// Gaps from this length on are reported, in microseconds.
const FLOOR_US: u64 = 1000;
/// How long a thread spins before it pauses, and for how long it pauses; both times a number
/// that depends on the thread.
const BURST: Duration = Duration::from_millis(40);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [seconds, cpus, groups] => start(seconds, cpus, groups.parse()?),
        ["group", number, seconds, cpus] => run_group(number.parse()?, seconds.parse()?, cpus),
        _ => Err("usage: cookie_load SECONDS CPUS GROUPS".into()),
    }
}

fn start(seconds: &str, cpus: &str, groups: u32) -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let mut children = Vec::new();
    for group in 1..=groups {
        let arguments = ["group", &group.to_string(), seconds, cpus];
        children.push(Command::new(&program).args(arguments).spawn()?);
    }
    for mut child in children {
        if !child.wait()?.success() {
            return Err("a group failed".into());
        }
    }
    Ok(())
}

fn run_group(group: u32, seconds: u64, cpus: &str) -> Result<(), Box<dyn Error>> {
    pin(cpus)?;
    let cookie = new_cookie();
    let khz = tsc_khz();
    let end = Instant::now() + Duration::from_secs(seconds);
    let threads: Vec<_> = (0..2)
        .map(|number| {
            let cookie = cookie.clone();
            let name = format!("vm{group}-{number}");
            thread::Builder::new().name(name).spawn(move || {
                let tid = gettid();
                let mut text = format!("group,{group},{tid},{cookie}\n");
                for (begin, end) in spin(group * 2 + number, khz * FLOOR_US / 1000, end) {
                    text += &format!("gap,{tid},{begin},{end}\n");
                }
                text
            })
        })
        .collect::<Result<_, _>>()?;
    for thread in threads {
        let text = thread.join().map_err(|_| "a thread panicked")?;
        // One write each, so that the lines of several processes do not mix.
        std::io::stdout().write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Bursts until `end`; the gaps in them in TSC.
fn spin(number: u32, floor: u64, end: Instant) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    for turn in 0.. {
        if Instant::now() >= end {
            break;
        }
        let burst_end = Instant::now() + BURST * (1 + (number + turn) % 4);
        let mut last = tsc();
        while Instant::now() < burst_end {
            let now = tsc();
            if now.wrapping_sub(last) >= floor {
                gaps.push((last, now));
            }
            last = now;
        }
        thread::sleep(Duration::from_millis(u64::from((number * 7 + turn * 3) % 20)));
    }
    gaps
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has RDTSC, and Linux lets user space use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn tsc_khz() -> u64 {
    let (start, begin) = (Instant::now(), tsc());
    thread::sleep(Duration::from_millis(50));
    let ticks = u128::from(tsc() - begin) * 1_000_000;
    u64::try_from(ticks / start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn pin(cpus: &str) -> Result<(), Box<dyn Error>> {
    let mut set = CpuSet::new();
    for cpu in cpus.split(',') {
        set.set(cpu.parse()?);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Gives this process a cookie of its own; the cookie, or why there is none.
fn new_cookie() -> String {
    let (process, threads) = (rustix::process::getpid(), CoreSchedulingScope::ThreadGroup);
    let cookie = create_core_scheduling_cookie(process, threads)
        .and_then(|()| core_scheduling_cookie(gettid(), CoreSchedulingScope::Thread));
    match cookie {
        Ok(cookie) => format!("{cookie:x}"),
        Err(error) => std::io::Error::from(error).to_string(),
    }
}
