// SPDX-License-Identifier: Apache-2.0
//! The meter changes nothing: threads that measure themselves are scheduled as threads that only
//! read the time stamp counter. Four of them compete for a CPU, with and without evidence, in
//! turns.
//!
//! The spinners are processes of this program. What cannot be tried here is skipped, and says why.

use std::hint::black_box;
use std::io;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::AtomicU32;
use std::{env, fs, thread, time::Duration};

use gaps::bench;
use gaps::evidence::{Evidence, GapClassifier};
use gaps::meter::{Limits, Meter, Rdtscp, Until};
use gaps::tally::{RecordCell, Recorder, Tally};
use gaps::tsc::{self, Sources, ns_to_ticks, ticks_to_ns};
use libtest_mimic::{Arguments, Completion, Trial};
use perf_event::events::Tracepoint;
use perf_event::{Builder, SampleFlag, Sampler};
use protocol::cpu_list::CpuSet;
use serde::{Deserialize, Serialize};
use workload::kernel::affinity;
use workload::supervisor::tsc_frequency;
use workload::thread_accounting::{self, KernelAccounting};

/// First argument of a spinner.
const SPIN: &str = "spin";
/// On one CPU at once.
const SPINNERS: usize = 4;
/// Of each trial: some hundred gaps.
const SPIN_NS: u64 = 1_500_000_000;
/// As `--floor` has it.
const FLOOR_NS: u64 = 100_000;
/// Of each kind, in turns.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == SPIN) {
        let spun = spin(&words[1..]).expect("spins");
        println!("{}", serde_json::to_string(&spun).expect("JSON"));
        return ExitCode::SUCCESS;
    }
    let trial =
        |name: &str, test: fn() -> Completion| Trial::ignorable_test(name, move || Ok(test()));
    let trials = vec![
        trial("observed_by_records_is_as_unobserved", || as_unobserved(Kind::Records)),
        trial("observed_without_records_is_as_unobserved", || as_unobserved(Kind::WithoutRecords)),
        trial("a_burst_makes_no_other_calls", a_burst_makes_no_other_calls),
    ];
    let mut arguments = Arguments::from_args();
    // They compete for the same CPU.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What a spinner does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// Reads the counter, and nothing else.
    Bare,
    /// The meter, with the kernel's records of switches.
    Records,
    /// The meter where the kernel lets nobody have these.
    WithoutRecords,
}

/// What a spinner is told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Orders {
    kind: Kind,
    cpu: u32,
    start_tsc: u64,
    khz: u64,
    /// Only calls that are on the list are let through, else the process is killed.
    confined: bool,
}

/// What it found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Spun {
    gaps_ns: Vec<u64>,
    /// How often the scheduler brought its figures up to date (`sched_stat_runtime`).
    updates: Option<u64>,
    recorded: bool,
}

fn spin(words: &[String]) -> io::Result<Spun> {
    let orders: Orders = serde_json::from_str(&words[0])?;
    let Orders { kind, cpu, start_tsc, khz, confined } = orders;
    affinity::confine_this_thread(&CpuSet::from_iter([cpu]))?;
    let mut updates = if confined { None } else { updates() };
    let mut spun = Spun::default();
    let mut accounting = match kind {
        Kind::WithoutRecords => KernelAccounting::without_records(),
        Kind::Bare | Kind::Records => KernelAccounting::of_this_thread(khz),
    };
    let begin = tsc::read().tsc;
    spun.recorded =
        gaps::evidence::ThreadAccounting::switches(&mut accounting, begin, begin).is_some();
    let cost = thread_accounting::cost(&mut accounting, bench::iteration_ticks());
    let until = start_tsc.wrapping_add(ns_to_ticks(SPIN_NS, khz));
    if kind == Kind::Bare {
        drop(accounting);
        wait_for(start_tsc);
        updates.as_mut().map(count);
        spun.gaps_ns = bare(until, khz);
    } else {
        let mut evidence = Evidence::new(accounting, khz, cost, thread_accounting::facts());
        let (tally, cells) = (Box::<Tally>::default(), cells());
        let recorder = Recorder { tally: &tally, cells: &cells, tsc_khz: khz };
        let limits = Limits { floor_ticks: ns_to_ticks(FLOOR_NS, khz), threshold_ticks: None };
        let meter = Meter::new(recorder, limits);
        wait_for(start_tsc);
        updates.as_mut().map(count);
        if confined {
            confine(kind)?;
        }
        evidence.begin();
        meter.burst(
            &mut Rdtscp,
            &mut evidence,
            tsc::read(),
            Until { tsc: until, stop: &AtomicU32::new(0) },
        );
        let gaps = tally.records(&cells, 0);
        spun.gaps_ns = gaps.map(|gap| ticks_to_ns(gap.ticks(), khz)).collect();
    }
    spun.updates = updates.as_mut().map(count);
    Ok(spun)
}

fn cells() -> Vec<RecordCell> {
    (0..100_000).map(|_| RecordCell::default()).collect()
}

fn wait_for(start_tsc: u64) {
    while tsc::earlier(tsc::read().tsc, start_tsc) != start_tsc {}
}

/// The same loop without any call.
fn bare(until: u64, khz: u64) -> Vec<u64> {
    let floor_ticks = ns_to_ticks(FLOOR_NS, khz);
    let mut gaps = Vec::with_capacity(100_000);
    let mut last = tsc::read().tsc;
    while last < until {
        let now = black_box(tsc::read().tsc);
        if now - last >= floor_ticks && gaps.len() < gaps.capacity() {
            gaps.push(now - last);
        }
        last = now;
    }
    gaps.iter().map(|&ticks| ticks_to_ns(ticks, khz)).collect()
}

/// Records `sched_stat_runtime` of this thread, if we may. As a counter it would count nanoseconds.
fn updates() -> Option<Sampler> {
    /// A record takes 16 bytes.
    const RING_BYTES: usize = 1 << 20;
    let id = fs::read_to_string("/sys/kernel/tracing/events/sched/sched_stat_runtime/id").ok()?;
    let event = Tracepoint::with_id(id.trim().parse().ok()?);
    let mut builder = Builder::new(event);
    builder.observe_self().any_cpu().include_kernel();
    builder.sample_period(1).sample(SampleFlag::PERIOD);
    let mut sampler = builder.build().ok()?.sampled(RING_BYTES).ok()?;
    sampler.enable().ok()?;
    Some(sampler)
}

/// How many were recorded since the last time.
fn count(updates: &mut Sampler) -> u64 {
    let mut count = 0;
    while updates.next_record().is_some() {
        count += 1;
    }
    count
}

fn command(orders: Orders) -> Command {
    let mut command = Command::new(env::current_exe().expect("has a path"));
    command.args([SPIN, &serde_json::to_string(&orders).expect("JSON")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// One trial: all spinners at once.
fn trial(kind: Kind, cpu: u32, khz: u64) -> Vec<Spun> {
    let start_tsc = tsc::read().tsc.wrapping_add(ns_to_ticks(400_000_000, khz));
    let orders = Orders { kind, cpu, start_tsc, khz, confined: false };
    let all: Vec<Child> = (0..SPINNERS).map(|_| command(orders).spawn().expect("starts")).collect();
    let one = |child: Child| {
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    all.into_iter().map(one).collect()
}

/// Where the median gap of a trial lies, and how often the figures were brought up to date.
#[derive(Clone, Copy, Debug)]
struct Figures {
    p50_ns: u64,
    /// Updates in a second of CPU time.
    updates: Option<u64>,
}

fn figures(spun: &[Spun]) -> Figures {
    let mut gaps: Vec<_> = spun.iter().flat_map(|one| one.gaps_ns.iter().copied()).collect();
    gaps.sort_unstable();
    let updates: Option<u64> = spun.iter().map(|one| one.updates).sum();
    let spun_ns = SPIN_NS * spun.len() as u64;
    let ran_ns = spun_ns.saturating_sub(gaps.iter().sum()).max(1);
    let updates = updates.map(|count| count.saturating_mul(1_000_000_000) / ran_ns);
    Figures { p50_ns: gaps.get(gaps.len() / 2).copied().unwrap_or(0), updates }
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of some milliseconds, and counts")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Above whatever else runs on this machine, and all cases alike: they may run at once.
fn above_others() {
    // SAFETY: takes three integers, no pointer; not permitted to everybody.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}

fn as_unobserved(kind: Kind) -> Completion {
    above_others();
    let khz = tsc_frequency(&mut Sources::known(None)).expect("known").khz;
    let cpu = affinity::of_this_thread().expect("affinity").iter().last().expect("a CPU");
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(figures(&trial(Kind::Bare, cpu, khz)));
        let spun = trial(kind, cpu, khz);
        if kind == Kind::Records && !spun.iter().all(|one| one.recorded) {
            return Completion::ignored_with(
                "this kernel does not let us have records of switches",
            );
        }
        with.push(figures(&spun));
    }
    let all = |of: &[Figures]| of.iter().map(|one| one.p50_ns).collect::<Vec<_>>();
    let (bare, ours) = (median(all(&without)), median(all(&with)));
    println!("{kind:?}: p50 {bare} ns without, {ours} ns with: {without:?} {with:?}");
    let counts = |of: &[Figures]| of.iter().map(|one| one.updates).collect::<Option<Vec<_>>>();
    if let Some((without, with)) = counts(&without).zip(counts(&with)) {
        // As many as there are ticks and switches, which differ with whatever else runs here; an
        // update at each interruption is ten times as many.
        let more = ratio(median(with), median(without));
        assert!(more < 1.5, "{more:.2} times as many updates of the scheduler's figures");
    }
    let found = ratio(ours, bare);
    if (0.95..=1.05).contains(&found) {
        return Completion::Completed;
    }
    let spread = ratio(
        all(&without).into_iter().max().unwrap_or(0),
        all(&without).into_iter().min().unwrap_or(0),
    );
    // A median that moves by a tick of several from trial to trial is no ruler for 5 %.
    assert!(spread > 1.1 && found > 1.0 / spread && found < spread, "{found:.3} of {spread:.3}");
    Completion::ignored_with(format!(
        "this machine is too disturbed: the median gap of unobserved spinners differs by a factor \
         of {spread:.2} from trial to trial"
    ))
}

/// The list in docs/method.md, enforced by the kernel.
fn a_burst_makes_no_other_calls() -> Completion {
    above_others();
    let khz = tsc_frequency(&mut Sources::known(None)).expect("known").khz;
    let cpu = affinity::of_this_thread().expect("affinity").iter().last().expect("a CPU");
    for kind in [Kind::Records, Kind::WithoutRecords] {
        // Both are to have started by then, on a busy machine, too.
        let start_tsc = tsc::read().tsc.wrapping_add(ns_to_ticks(1_000_000_000, khz));
        let orders = Orders { kind, cpu, start_tsc, khz, confined: true };
        // Two, so that there are gaps.
        let pair = [(); 2].map(|()| command(orders).spawn().expect("starts"));
        thread::sleep(Duration::from_millis(10));
        let mut gaps = 0;
        for child in pair {
            let output = child.wait_with_output().expect("ends");
            assert!(
                output.status.success(),
                "{kind:?}: a call that is not on the list: {output:?}"
            );
            let spun: Spun = serde_json::from_slice(&output.stdout).expect("JSON");
            gaps += spun.gaps_ns.len();
        }
        // One that came too late had none, and its burst was empty.
        assert!(gaps > 0, "{kind:?}: no gap, so that nothing was asked of the kernel");
    }
    Completion::Completed
}

/// From here on the kernel kills this process for any call but those of a burst and of its end.
fn confine(kind: Kind) -> io::Result<()> {
    /// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h).
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    // What allocates, writes and ends a process, after the burst.
    let mut allowed = vec![
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_brk,
        libc::SYS_madvise,
        libc::SYS_close,
        libc::SYS_fcntl,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_exit_group,
    ];
    if kind == Kind::WithoutRecords {
        allowed.push(libc::SYS_getrusage);
    }
    let load = u16::try_from(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS).expect("small");
    let jump = u16::try_from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K).expect("small");
    let end = u16::try_from(libc::BPF_RET | libc::BPF_K).expect("small");
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![step(load, 0, 0, NUMBER)];
    for call in allowed {
        program.push(step(jump, 0, 1, u32::try_from(call).expect("a call's number")));
        program.push(step(end, 0, 0, libc::SECCOMP_RET_ALLOW));
    }
    // clock_gettime of one clock, where the vDSO cannot tell it.
    program.push(step(jump, 0, 3, u32::try_from(libc::SYS_clock_gettime).expect("a number")));
    program.push(step(load, 0, 0, FIRST_ARGUMENT));
    program.push(step(jump, 0, 1, libc::CLOCK_MONOTONIC_RAW.cast_unsigned()));
    program.push(step(end, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(step(end, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("short"),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: takes integers only.
    let free = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the pointer is to a local that lives until the call returns, and has as many steps as
    // it says.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) };
    if free == 0 && set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
