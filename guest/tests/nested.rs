// SPDX-License-Identifier: Apache-2.0
//! The agent's side of the nested target, with launchers that have no machine: each way in
//! which one can fail, and what becomes of the others.
//!
//! The agent re-executes its program as launchers, so this test has a `main` of its own. What
//! a launcher does, its machine's kernel command line tells.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, panic, process, thread};

use gaps::record::GapRecord;
use gaps::tsc;
use guest::nested::{self, NestedError};
use protocol::cpu_list::CpuSet;
use protocol::frame::{Decoder, encode_gaps, encode_message};
use protocol::group::{GroupSpec, SleepSpec};
use protocol::index::Kind;
use protocol::job::{Confine, CoschedRequest, Job, LoadSpec, NestedSpec, Pv, Transport};
use protocol::launcher::{
    LAUNCH_COMMAND, LaunchSpec, LauncherCommand, PREPARE_COMMAND, PrepareSpec, Report,
    encode_console, encode_control, encode_report, next_launcher_command,
};
use protocol::message::{Gap, Hello, Message, Setup, ThresholdHit, Tick};
use protocol::report::{LoadReport, ThreadReport};
use protocol::vm::{VmFault, VmPhase, VmStatus, VmThread};
use workload::context::WorkloadContext;
use workload::observer::{Observer, Outcome, Prepared};

const TESTS: &[(&str, fn())] = &[
    ("all_measure_and_nothing_stays", all_measure_and_nothing_stays),
    ("each_failure_is_named_and_the_others_go_on", each_failure_is_named_and_the_others_go_on),
    (
        "they_boot_by_turns_and_one_that_hangs_holds_up_nobody",
        they_boot_by_turns_and_one_that_hangs_holds_up_nobody,
    ),
    (
        "those_that_come_further_have_time_and_one_that_hangs_has_not",
        those_that_come_further_have_time_and_one_that_hangs_has_not,
    ),
    (
        "those_that_are_ready_leave_the_cpus_to_others",
        those_that_are_ready_leave_the_cpus_to_others,
    ),
    ("a_hit_names_the_machine_and_its_vcpu", a_hit_names_the_machine_and_its_vcpu),
    ("cookies_are_read_back_past_the_launchers", cookies_are_read_back_past_the_launchers),
    ("a_thread_elsewhere_fails_the_run", a_thread_elsewhere_fails_the_run),
    ("none_that_comes_up_fails_the_run", none_that_comes_up_fails_the_run),
    ("twenty_runs_leave_no_process_and_no_file", twenty_runs_leave_no_process_and_no_file),
];

fn main() {
    let words: Vec<_> = env::args_os().skip(1).collect();
    if let [role, command] = words.as_slice() {
        let command = command.as_encoded_bytes();
        if role == PREPARE_COMMAND {
            let spec: PrepareSpec = serde_json::from_slice(command).unwrap();
            fs::write(spec.kernel_image, "kernel").unwrap();
            fs::write(spec.initrd, "initrd").unwrap();
            return;
        }
        if role == LAUNCH_COMMAND {
            launcher(&serde_json::from_slice(command).unwrap());
        }
    }
    let wanted = |name: &str| {
        let mut filters = words.iter().filter_map(|a| a.to_str()).filter(|a| !a.starts_with('-'));
        filters.clone().next().is_none() || filters.any(|filter| name.contains(filter))
    };
    if words.iter().any(|word| word == "--list") {
        // As libtest; none are ignored.
        if !words.iter().any(|word| word == "--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let passed = panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += i32::from(!passed);
    }
    process::exit(failed.min(1));
}

/// A launcher whose guest does what the command line says.
fn launcher(spec: &LaunchSpec) -> ! {
    let socket = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut agent = UnixStream::from(socket);
    let mut say = agent.try_clone().unwrap();
    let mut tell = |bytes: Vec<u8>| say.write_all(&bytes).unwrap();
    let guest = |message: Message| encode_control(&encode_message(&message).unwrap()).unwrap();
    assert_eq!(fs::read_to_string(&spec.kernel_image).unwrap(), "kernel");
    let does = spec.cmdline.as_str();
    let thread = |n| VmThread {
        tid: if does == "lies" { process::id() } else { 100 * spec.vm + n },
        cookie: 7 + u64::from(spec.vm),
        ..VmThread::default()
    };
    let threads = (0..spec.cpus).map(thread).collect();
    let transport = Transport::Mmio;
    tell(encode_report(&Report::Booting { threads, transport, tsc_shared: true }).unwrap());
    tell(encode_console(format!("console of {}\n", spec.vm).as_bytes()).unwrap());
    if does == "panics" {
        let reason = "reset".into();
        let state = Some("rip 0".into());
        tell(encode_report(&Report::Ended { reason, orderly: false, state }).unwrap());
        process::exit(0);
    }
    let cmdline = if does == "has-a-line-of-its-own" { "root=/dev/vda" } else { does };
    tell(guest(Message::Hello(Hello { cmdline: cmdline.into(), ..Hello::default() })));
    match does {
        "is-killed" => {
            // SAFETY: a signal to this process itself.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        "talks-nonsense" => tell(vec![0xff; 64]),
        "hangs" => {}
        "talks-on" => {
            let mut say = agent.try_clone().unwrap();
            let words = encode_console(b"a kernel that complains for ever\n").unwrap();
            thread::spawn(move || {
                while say.write_all(&words).is_ok() {
                    thread::sleep(Duration::from_millis(100));
                }
            });
        }
        "grows" => {
            // Half a second is less than the time in which it has to come further, all of it more.
            let mut memory = Vec::new();
            for _ in 0..12 {
                thread::sleep(Duration::from_millis(500));
                memory.push(vec![1u8; 1 << 20]);
            }
            tell(guest(Message::Prepared));
        }
        _ => tell(guest(Message::Prepared)),
    }
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = agent.read(&mut bytes) {
        decoder.push(&bytes[..length]);
        while let Some(command) = next_launcher_command(&mut decoder).unwrap() {
            match command {
                LauncherCommand::Confine { cpus } => {
                    let list =
                        |cpus: &Vec<u32>| cpus.iter().copied().collect::<CpuSet>().to_string();
                    let mut affinity: Vec<_> = cpus.iter().map(list).collect();
                    if does == "is-elsewhere" {
                        affinity[1] = "0-3".into();
                    }
                    tell(encode_report(&Report::Confined { affinity }).unwrap());
                }
                LauncherCommand::Go => {
                    tell(guest(Message::Going { tsc: tsc::read().tsc }));
                    tell(guest(Message::Ready(Setup::default())));
                    let now = tsc::read().tsc;
                    let record =
                        GapRecord { tsc_begin: now - 1000, tsc_end: now, ..GapRecord::default() };
                    tell(encode_control(&encode_gaps(1, &[record]).unwrap()).unwrap());
                    // Of a vCPU that does not exist, and one that ends before it begins.
                    tell(encode_control(&encode_gaps(9, &[record]).unwrap()).unwrap());
                    let false_one = GapRecord { tsc_begin: 9, tsc_end: 1, ..GapRecord::default() };
                    tell(encode_control(&encode_gaps(0, &[false_one]).unwrap()).unwrap());
                    let gap = Gap { thread: 1, record };
                    tell(guest(Message::Tick(Tick { second: 1, online: 2, longest: Some(gap) })));
                    match does {
                        "hits" => tell(guest(Message::ThresholdHit(ThresholdHit { tid: 1, gap }))),
                        "dies-measuring" => process::exit(3),
                        _ => {}
                    }
                }
                LauncherCommand::Memory => {
                    let report = Report::Memory { rss_kib: Some(2), pss_kib: Some(1) };
                    tell(encode_report(&report).unwrap());
                }
                LauncherCommand::Stop if does == "never-reports" => {}
                LauncherCommand::Stop => {
                    // More threads than it has are no one's.
                    let threads = vec![ThreadReport { gaps: 1, ..ThreadReport::default() }; 5];
                    let report = LoadReport { threads, ..LoadReport::default() };
                    tell(guest(Message::Finished(report)));
                    tell(guest(Message::Bye));
                    let reason = "power-off".into();
                    let ended = Report::Ended { reason, orderly: true, state: None };
                    tell(encode_report(&ended).unwrap());
                    process::exit(0);
                }
                LauncherCommand::End => {
                    let reason = "ended by the agent".into();
                    let state = Some("rip 1".into());
                    tell(encode_report(&Report::Ended { reason, orderly: false, state }).unwrap());
                    process::exit(0);
                }
            }
        }
    }
    process::exit(1)
}

/// Records what the run says.
#[derive(Default)]
struct Taken {
    prepared: Option<Prepared>,
    records: Vec<(u32, GapRecord)>,
    hit: Option<ThresholdHit>,
    vms: Vec<VmStatus>,
    consoles: Vec<String>,
    longest: Option<Gap>,
    pids: Vec<u32>,
}

impl Observer for Taken {
    fn prepared(&mut self, prepared: &Prepared) -> io::Result<()> {
        self.prepared = Some(prepared.clone());
        Ok(())
    }
    fn released(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()> {
        self.records.extend(records.iter().map(|record| (thread, *record)));
        Ok(())
    }
    fn tick(&mut self, tick: Tick) -> io::Result<()> {
        self.longest = self.longest.or(tick.longest);
        Ok(())
    }
    fn hit(&mut self, hit: ThresholdHit) -> io::Result<()> {
        self.hit = Some(hit);
        Ok(())
    }
    fn stop_requested(&mut self) -> bool {
        false
    }
    fn processes(&mut self, pids: &[u32]) {
        self.pids = pids.to_vec();
    }
    fn vm(&mut self, status: &VmStatus) -> io::Result<()> {
        self.vms.resize_with(self.vms.len().max(status.vm as usize), VmStatus::default);
        self.vms[status.vm as usize - 1] = status.clone();
        Ok(())
    }
    fn vm_console(&mut self, vm: u32, bytes: &[u8]) -> io::Result<()> {
        self.consoles.resize(self.consoles.len().max(vm as usize), String::new());
        self.consoles[vm as usize - 1].push_str(&String::from_utf8_lossy(bytes));
        Ok(())
    }
}

/// One machine for each word, which says what it does.
fn run(words: &[&str], duration: Duration) -> (Result<Outcome, NestedError>, Taken) {
    run_by(8, words, duration)
}

/// The same with so many that boot at once.
fn run_by(
    at_once: u32,
    words: &[&str],
    duration: Duration,
) -> (Result<Outcome, NestedError>, Taken) {
    run_with(at_once, words, duration, |_| Ok(0))
}

/// The same on a kernel that gives the launchers' real threads these cookies.
fn run_with(
    at_once: u32,
    words: &[&str],
    duration: Duration,
    cookie_of: fn(u32) -> io::Result<u64>,
) -> (Result<Outcome, NestedError>, Taken) {
    let boot_timeout = Some(Duration::from_secs(2));
    run_within(boot_timeout, at_once, words, (duration, place(cookie_of)))
}

/// A machine whose kernel has cookies, and no cgroups.
fn place(cookie_of: fn(u32) -> io::Result<u64>) -> WorkloadContext {
    let plain = WorkloadContext::plain(Some(2_000_000));
    WorkloadContext { cookie: true, cookie_of, ..plain }
}

/// The same in so much time, or as long as they come further.
fn run_within(
    boot_timeout: Option<Duration>,
    at_once: u32,
    words: &[&str],
    (duration, context): (Duration, WorkloadContext),
) -> (Result<Outcome, NestedError>, Taken) {
    let load = LoadSpec {
        name: None,
        groups: vec![
            GroupSpec::plain(2, Duration::from_secs(1), SleepSpec::Fixed(Duration::ZERO));
            words.len()
        ],
        kind: Kind::Vcpus,
        cpus: vec![2, 3],
        seed: 0,
        duration,
        warmup: Duration::ZERO,
        floor: Duration::from_micros(100),
        threshold: None,
        records_per_thread: 10,
    };
    let job = Job::new(load.clone(), CoschedRequest::None);
    let spec = NestedSpec {
        memory_mib: 64,
        vcpus: 2,
        own_pages: false,
        threads_per_core: 2,
        pv: Pv::Clock,
        transport: None,
        cmdlines: words.iter().map(|word| (*word).into()).collect(),
        confine: Confine::Core,
        boot_confined: false,
        boot_at_once: at_once,
        boot_timeout,
        boot_stall: Duration::from_secs(4),
        job,
    };
    let mut taken = Taken::default();
    let outcome = nested::run(&spec, &load, &context, &mut taken);
    (outcome, taken)
}

fn all_measure_and_nothing_stays() {
    let (outcome, taken) = run(&["well"; 3], Duration::from_millis(1500));
    let report = outcome.unwrap().report;
    let gaps: Vec<_> = report.threads.iter().map(|thread| thread.gaps).collect();
    assert_eq!(gaps, [1; 6]);
    let prepared = taken.prepared.unwrap();
    assert_eq!(prepared.cookies, [8, 9, 10]);
    assert!(prepared.affinity.iter().all(|cpus| cpus.to_string() == "2-3"));
    let mut threads: Vec<_> = taken.records.iter().map(|(thread, _)| *thread).collect();
    threads.sort_unstable();
    assert_eq!(threads, [1, 3, 5], "the second vCPU of each, and none that does not exist");
    assert!(taken.longest.is_some_and(|gap| gap.thread % 2 == 1));
    for (n, vm) in taken.vms.iter().enumerate() {
        assert_eq!((vm.phase, &vm.fault), (VmPhase::Ended, &None));
        assert_eq!((vm.rss_kib, vm.pss_kib), (Some(2), Some(1)));
        let check = vm.tsc_check.unwrap();
        assert!(check.before <= check.guest && check.guest <= check.after, "{check:?}");
        assert!(vm.times.up_ns <= vm.times.ready_ns && vm.times.confined_ns.is_some());
        assert_eq!(taken.consoles[n], format!("console of {}\n", n + 1));
    }
    assert!(taken.pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()));
}

fn each_failure_is_named_and_the_others_go_on() {
    let words = [
        "well",
        "panics",
        "is-killed",
        "talks-nonsense",
        "hangs",
        "dies-measuring",
        "has-a-line-of-its-own",
    ];
    let (outcome, taken) = run(&words, Duration::from_millis(1500));
    let report = outcome.unwrap().report;
    assert_eq!(report.threads.len(), 14);
    assert_eq!(report.threads[0].gaps, 1);
    let fault = |n: usize| taken.vms[n].fault.clone().unwrap_or_default();
    assert_eq!(fault(0), "");
    assert!(fault(1).contains("before its PID 1: reset"), "{}", fault(1));
    assert_eq!(taken.vms[1].state.as_deref(), Some("rip 0"));
    assert!(fault(2).contains("ended early with signal: 9"), "{}", fault(2));
    assert!(fault(3).contains("protocol error"), "{}", fault(3));
    assert!(fault(4).contains("was not ready within 2s"), "{}", fault(4));
    assert_eq!(taken.vms[4].state.as_deref(), Some("rip 1"));
    assert!(fault(5).contains("ended early with exit status: 3"), "{}", fault(5));
    assert!(fault(6).contains("CONFIG_CMDLINE_OVERRIDE"), "{}", fault(6));
    let codes: Vec<_> = taken.vms.iter().map(|vm| vm.fault_code.zip(vm.fault_phase)).collect();
    let expected = [
        None,
        Some((VmFault::Ended, VmPhase::Booting)),
        Some((VmFault::LauncherEnded, VmPhase::Up)),
        Some((VmFault::ProtocolError, VmPhase::Up)),
        Some((VmFault::TimedOut, VmPhase::Up)),
        Some((VmFault::LauncherEnded, VmPhase::Measuring)),
        Some((VmFault::CommandLineIgnored, VmPhase::Booting)),
    ];
    assert_eq!(codes, expected);
}

fn they_boot_by_turns_and_one_that_hangs_holds_up_nobody() {
    let words = ["well", "well", "hangs", "panics", "well"];
    let (outcome, taken) = run_by(1, &words, Duration::from_millis(500));
    outcome.unwrap();
    let fault = |n: usize| taken.vms[n].fault.clone().unwrap_or_default();
    assert_eq!([fault(0), fault(1), fault(4)], [""; 3]);
    assert!(fault(2).contains("was not ready within 2s"), "{}", fault(2));
    assert!(fault(3).contains("before its PID 1"), "{}", fault(3));
    let [first, second] = [0, 1].map(|n: usize| taken.vms[n].times);
    assert!(first.ready_ns.unwrap() <= second.booting_ns.unwrap(), "{first:?} {second:?}");
    // The one that hangs has had its fifth of the two seconds.
    let last = taken.vms[4].times.booting_ns.unwrap();
    assert!((400_000_000..2_000_000_000).contains(&last), "{last}");
}

fn those_that_come_further_have_time_and_one_that_hangs_has_not() {
    let begin = Instant::now();
    let words = ["well", "grows", "talks-on", "well"];
    let (outcome, taken) =
        run_within(None, 1, &words, (Duration::from_millis(500), place(|_| Ok(0))));
    outcome.unwrap();
    let fault = |n: usize| taken.vms[n].fault.clone().unwrap_or_default();
    assert_eq!([fault(0), fault(1), fault(3)], [""; 3]);
    // Longer than one may stand still.
    let grown = taken.vms[1].times.ready_ns.unwrap();
    assert!(grown >= 6_000_000_000, "{grown}");
    assert!(fault(2).contains("has come no further for 4s"), "{}", fault(2));
    assert_eq!(taken.vms[2].state.as_deref(), Some("rip 1"));
    let [hangs, last] = [2, 3].map(|n: usize| taken.vms[n].times.booting_ns.unwrap());
    assert!(last - hangs < 4_000_000_000, "{last} {hangs}: it holds up nobody for all that time");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

/// The first has a quota while the second boots, and none when they measure.
fn those_that_are_ready_leave_the_cpus_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let groups = ["first", "second"].map(|name| dir.path().join(name));
    for group in &groups {
        fs::create_dir(group).unwrap();
        fs::write(group.join("cgroup.procs"), "").unwrap();
        fs::write(group.join("cpu.max"), "max 100000\n").unwrap();
    }
    let quota = |group: &Path| fs::read_to_string(group.join("cpu.max")).unwrap();
    let cgroups = groups.iter().map(|group| vec![group.join("cgroup.procs")]).collect();
    let context = WorkloadContext { cgroups, ..place(|_| Ok(0)) };
    let over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let look = scope.spawn(|| {
            let mut seen = [BTreeSet::new(), BTreeSet::new()];
            while !over.load(Relaxed) {
                groups.iter().zip(&mut seen).for_each(|(group, seen)| {
                    seen.insert(quota(group).trim_end().to_owned());
                });
                thread::sleep(Duration::from_millis(10));
            }
            seen
        });
        let duration = Duration::from_millis(500);
        let (outcome, _) = run_within(None, 1, &["well", "grows"], (duration, context));
        over.store(true, Relaxed);
        outcome.unwrap();
        look.join().unwrap()
    });
    assert!(seen[0].contains("2000 100000"), "{seen:?}");
    assert!(!seen[1].contains("2000 100000"), "the last one waits for nobody: {seen:?}");
    assert_eq!(groups.map(|group| quota(&group).trim_end().to_owned()), ["max 100000"; 2]);
}

fn a_hit_names_the_machine_and_its_vcpu() {
    let begin = Instant::now();
    let (outcome, taken) = run(&["well", "hits"], Duration::from_secs(60));
    outcome.unwrap();
    let hit = taken.hit.unwrap();
    assert_eq!((hit.gap.thread, hit.tid), (3, 201));
    assert!(begin.elapsed() < Duration::from_secs(20), "the others were told to stop");
}

fn cookies_are_read_back_past_the_launchers() {
    let with = |word, cookie_of: fn(u32) -> io::Result<u64>| {
        let (outcome, taken) = run_with(1, &[word], Duration::from_millis(200), cookie_of);
        (outcome.map_err(|error| error.to_string()), taken.prepared.unwrap_or_default().notes)
    };
    let note = |cookie_of| with("well", cookie_of).1.join("\n");
    assert_eq!(note(|_| Ok(0)), "");
    assert_eq!(note(|_| Err(io::Error::from_raw_os_error(libc::ESRCH))), "", "it has ended");
    let noted = note(|_| Ok(5));
    assert!(noted.contains("VM 1: not only vCPU threads have a cookie, exe too"), "{noted}");
    let error = with("well", |_| Err(io::Error::from_raw_os_error(libc::EINVAL))).0.unwrap_err();
    assert!(error.contains("VM 1: cookies cannot be read back"), "{error}");
    let error = with("lies", |_| Ok(5)).0.unwrap_err();
    assert!(error.contains("was given cookie 8, and has 5"), "{error}");
}

fn a_thread_elsewhere_fails_the_run() {
    let (outcome, _) = run(&["well", "is-elsewhere"], Duration::from_secs(1));
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("VM 2") && text.contains("0-3"), "{text}");
}

fn none_that_comes_up_fails_the_run() {
    let (outcome, _) = run(&["panics", "is-killed"], Duration::from_secs(1));
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("no VM came up"), "{text}");
}

fn twenty_runs_leave_no_process_and_no_file() {
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    run(&["well"; 2], Duration::from_millis(100)).0.unwrap();
    // Ears end by themselves, a moment after their launchers.
    let wait_until = |done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !done() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    };
    wait_until(&|| threads() == 1);
    let (files_before, threads_before) = (files(), threads());
    for _ in 0..20 {
        let (outcome, taken) = run(&["well"; 2], Duration::from_millis(100));
        outcome.unwrap();
        assert!(taken.pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap()));
    }
    wait_until(&|| (files(), threads()) == (files_before, threads_before));
    assert_eq!((files(), threads()), (files_before, threads_before));
}
