// SPDX-License-Identifier: Apache-2.0
//! Threads, files and mappings of the host: where they are, and that they go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs, hint, thread};

use libtest_mimic::{Completion, Failed};
use vmm::vcpu::sched;
use vmm::vm::StartError;

use crate::tiny::{Guest, Live, code, eventually};
use crate::{same, skip};

/// Promised to users: a run ends at most so long after it was decided.
const STOP_LIMIT: Duration = Duration::from_millis(100);
const STOPS: usize = 50;
/// So often a busy host gets another chance.
const ATTEMPTS: usize = 3;
/// What a stop counts that has not succeeded at all within its own deadline.
const LATE: Duration = Duration::from_secs(1);
const MACHINES: usize = 200;

/// Names of this process's threads, with the CPUs each may use.
pub fn threads() -> Result<Vec<(String, String)>, Failed> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        // A thread may end between the listing and the reading.
        let Ok(status) = fs::read_to_string(entry?.path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        threads.push((field("Name:"), field("Cpus_allowed_list:")));
    }
    threads.sort_unstable();
    Ok(threads)
}

fn entries(directory: &str) -> Result<usize, Failed> {
    Ok(fs::read_dir(directory)?.count())
}

/// Waits until only this thread is left.
fn alone() -> Result<(), Failed> {
    eventually(|| match threads() {
        Ok(threads) if threads.len() <= 1 => Ok(()),
        Ok(threads) => Err(format!("threads left over: {threads:?}")),
        Err(error) => Err(format!("{error:?}")),
    })
}

/// A machine of four vCPUs, all of which are in `tail`.
fn all_in(tail: &[u8]) -> Result<Live, Failed> {
    let boot = [code::WAKE_OTHERS, &code::say(0), tail].concat();
    let live = Guest::four(&boot, &[code::SAY_APIC_ID, tail].concat()).start()?;
    let mut ids = live.hear(4)?;
    ids.sort_unstable();
    same("vCPUs that run", ids, vec![0, 1, 2, 3])?;
    Ok(live)
}

/// Least, median and most of some times.
struct Spread {
    min: Duration,
    median: Duration,
    max: Duration,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, median, max } = self;
        write!(f, "min {min:?} median {median:?} max {max:?}")
    }
}

fn spread(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    Spread { min: times[0], median: times[times.len() / 2], max: times[times.len() - 1] }
}

/// How long four threads without a guest take to stop on this host, as busy as it is now.
fn stop_plain_threads(spin: bool) -> Result<Duration, Failed> {
    let stop = Arc::new(AtomicBool::new(false));
    let body = |stop: Arc<AtomicBool>| {
        move || {
            while !stop.load(Ordering::Acquire) {
                if spin { hint::spin_loop() } else { thread::park() }
            }
        }
    };
    let plain: Vec<_> = (0..4).map(|_| thread::spawn(body(stop.clone()))).collect();
    thread::sleep(Duration::from_millis(1));
    let begin = Instant::now();
    stop.store(true, Ordering::Release);
    for thread in plain {
        thread.thread().unpark();
        thread.join().map_err(|_| "a plain thread panicked")?;
    }
    Ok(begin.elapsed())
}

/// Stops machines in which all vCPUs execute `tail`. A host that cannot stop plain threads
/// in time either proves nothing; then this is a skip.
fn stops_in_time(name: &str, tail: &[u8]) -> Result<Completion, Failed> {
    let mut plain = Vec::new();
    for attempt in 1..=ATTEMPTS {
        let mut stops = Vec::new();
        for _ in 0..STOPS {
            let live = all_in(tail)?;
            // The last instruction before `tail` was seen; give `tail` itself a moment.
            thread::sleep(Duration::from_millis(1));
            let (took, ends) = live.stop(false)?;
            same("ends", ends.len(), 4)?;
            stops.push(took.unwrap_or(LATE));
            plain.push(stop_plain_threads(tail == code::SPIN)?);
        }
        let stops = spread(stops);
        eprintln!("{name}, attempt {attempt}: {STOPS} stops {stops}");
        if stops.median > STOP_LIMIT {
            return Err(format!("half of all stops take {:?} or more", stops.median).into());
        }
        if stops.max <= STOP_LIMIT {
            return Ok(Completion::Completed);
        }
    }
    let plain = spread(plain);
    if plain.max > STOP_LIMIT {
        return Ok(skip(name, &format!("this host is too busy: plain threads stop in {plain}")));
    }
    Err(format!("stops took more than {STOP_LIMIT:?}, plain threads {plain}").into())
}

pub fn spinning_machine_stops_in_time() -> Result<Completion, Failed> {
    stops_in_time("spinning_machine_stops_in_time", code::SPIN)
}

pub fn halted_machine_stops_in_time() -> Result<Completion, Failed> {
    stops_in_time("halted_machine_stops_in_time", code::HALT)
}

pub fn a_dropped_machine_is_gone() -> Result<Completion, Failed> {
    let live = all_in(code::SPIN)?;
    drop(live);
    alone()?;
    Ok(Completion::Completed)
}

pub fn impossible_pin_starts_nothing() -> Result<Completion, Failed> {
    let here = sched::affinity()?[0];
    let boot = [code::WAKE_OTHERS, &code::say(0), code::SPIN].concat();
    for pins in [vec![here, here, here, 1023], vec![1 << 20, here, here, here]] {
        let wanted = if pins[0] == here { (3, 1023) } else { (0, 1 << 20) };
        let guest = Guest::four(&boot, code::SPIN).pins(pins);
        let Err((error, ends)) = guest.try_start()? else {
            return Err("it started all the same".into());
        };
        let StartError::Sched(sched::SchedError::Refused { thread, cpu, .. }) = &error else {
            return Err(format!("{error:?}").into());
        };
        same("refused", (thread.as_str(), *cpu), (&format!("CPU {}/KVM", wanted.0), wanted.1))?;
        alone()?;
        // No vCPU has run, so none has an end.
        same("ends", ends.try_iter().count(), 0)?;
    }
    Ok(Completion::Completed)
}

pub fn threads_are_named_and_pinned() -> Result<Completion, Failed> {
    let name = "threads_are_named_and_pinned";
    let allowed = sched::affinity()?;
    let [first, .., last] = allowed[..] else {
        return Ok(skip(name, "it takes two host CPUs"));
    };
    for (pins, measured) in [([first, last, last, first], None), ([first; 4], Some(first))] {
        let boot = [&code::say(0)[..], code::HALT].concat();
        let live = Guest::four(&boot, &[]).pins(pins.to_vec()).start()?;
        live.hear(1)?;
        let threads = threads()?;
        for (cpu, pin) in pins.iter().enumerate() {
            let wanted = (format!("CPU {cpu}/KVM"), pin.to_string());
            same("a thread pinned as asked", threads.contains(&wanted), true)?;
        }
        // I/O threads name and place themselves when they first run, which nobody waits for.
        // They keep off the measured CPUs where there are others.
        eventually(|| {
            let threads = self::threads().map_err(|error| format!("{error:?}"))?;
            let mut of_io = threads.iter().filter(|(name, _)| name.starts_with("vmm-"));
            let off = |list: &str| {
                measured.is_none_or(|cpu: usize| {
                    list != cpu.to_string() && !list.starts_with(&format!("{cpu}-"))
                })
            };
            if of_io.clone().count() == 2 && of_io.all(|(_, list)| off(list)) {
                return Ok(());
            }
            Err(format!("not two I/O threads off CPU {measured:?}: {threads:?}"))
        })?;
        live.stop(false)?;
    }
    Ok(Completion::Completed)
}

/// What this process holds: files, threads, mappings.
fn held() -> Result<[usize; 3], Failed> {
    let maps = fs::read_to_string("/proc/self/maps")?.lines().count();
    Ok([entries("/proc/self/fd")?, entries("/proc/self/task")?, maps])
}

pub fn two_hundred_machines_leave_nothing() -> Result<Completion, Failed> {
    /// Stacks that glibc caches and allocator arenas come and go.
    const MAPPINGS_SLACK: usize = 24;
    // What a process makes once is made by then.
    for _ in 0..5 {
        all_in(code::HALT)?.stop(false)?;
    }
    alone()?;
    let before = held()?;
    let begin = Instant::now();
    for round in 0..MACHINES {
        let tail = if round % 2 == 0 { code::SPIN } else { code::HALT };
        all_in(tail)?.stop(false)?;
    }
    alone()?;
    let (took, after) = (begin.elapsed(), held()?);
    eprintln!("{MACHINES} machines in {took:?}; files, threads, mappings {before:?} -> {after:?}");
    same("files and threads", &after[..2], &before[..2])?;
    if after[2] > before[2] + MAPPINGS_SLACK {
        return Err(format!("mappings grew from {} to {}", before[2], after[2]).into());
    }
    Ok(Completion::Completed)
}
