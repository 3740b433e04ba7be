// SPDX-License-Identifier: Apache-2.0
//! The user target: what a run measures, what it reports, and whether the figures agree with
//! each other.

use std::collections::HashSet;

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::disturbed;
use crate::lab::{Group, TestKernel};
use crate::meter;
use crate::outcome::{GapLine, Outcome, assert_unique_keys, list, number, numbers, text};
use crate::threshold::{self, hit};
use crate::trace::{explain, explained, forced_idle_agrees, marked, read_by_trace_cmd};

/// Threads and groups of a default load.
const THREADS: usize = 16;
const GROUPS: usize = 8;
/// A source of the TSC frequency further away than this is wrong.
const MAX_DISAGREEMENT_PPM: f64 = 500.0;
/// What the launcher may take beside guest RAM.
const MAX_RESIDENT_KIB: u64 = 5 << 10;
/// One file goes into every initrd, and to every machine.
const MAX_EXECUTABLE_BYTES: u64 = 8 << 20;

/// With cookies, without, and with cookies of a kind that this kernel never had.
pub fn group() -> Group {
    let cases = vec![
        Case::run("with_cookies", WITH_COOKIES, |outcome| {
            let result = measured(outcome);
            cookies(&result, "prctl");
            assert!(mates(outcome, &result) > 0.2, "cookies bring mates together");
            forced_idle_agrees(outcome, &result);
            assert_eq!(tunable_file(&result, "slice"), "/sys/kernel/debug/sched/base_slice_ns");
            // Eight threads a CPU, and a slice of 1.875 ms that HRTICK ends.
            expectation(&result, "eevdf", 7 * 1_875_000);
            assert!(outcome.stdout.contains("16 online"), "no tick line{}", outcome.words());
            assert!(outcome.stdout.contains("cookies  prctl"), "no screen{}", outcome.words());
            assert!(outcome.stdout.contains("verdict  MEASURED"), "no verdict{}", outcome.words());
            assert_unique_keys(&outcome.file("r/result.json").expect("result.json"));
        }),
        Case::run("baseline", BASELINE, |outcome| {
            let result = measured(outcome);
            assert!(mates(outcome, &result) < 0.2, "nothing brings mates together");
            assert_eq!(result["cosched"]["mechanism"], "none");
            let cookies = list(&result["cosched"], "cookies");
            assert!(cookies.iter().all(|cookie| *cookie == 0), "{cookies:?}");
            assert_eq!(result["forced_idle"]["ns"], 0, "{}", result["forced_idle"]);
        }),
        Case::run("absent_cookies", "--cosched tag", no_such_interface),
        // The reason is part of every way to show a result.
        Case::run("absent_cookies_compat", "--cosched core_tag --compat", |outcome| {
            outcome.assert_status(125);
            outcome.assert_says(&["cpu.core_tag", "2020/21"]);
        }),
    ];
    let mut cases = cases;
    // The CPUs of the load are there, and the user keeps the kernel from bringing them up.
    cases.push(Case::run("cpus_kept_offline", "--append maxcpus=2 --trace off", |outcome| {
        outcome.assert_status(200);
        let result = outcome.assert_verdict("usage-error");
        let reason = text(&result, "reason");
        // Linux 6.12 brings up the first thread of each core before the second ones.
        assert!(reason.contains("CPU 3 of the load is not online (online: 0,2)"), "{reason}");
        assert!(reason.contains("leave `maxcpus=2` out of --append"), "{reason}");
    }));
    cases.push(Case::new("own_shape", format!("{OWN_SHAPE}{}", main_job(OF_OWN_SHAPE)), own_shape));
    cases.push(Case::run("quotas_without_smt", QUOTAS_WITHOUT_SMT, quotas));
    cases.push(Case::new("without_a_machine", ON_THE_HOST, on_the_host));
    cases.push(Case::run("limits", LIMITS, limits));
    cases.extend(disturbed::cases());
    cases.push(Case::new("executable", "stat -c %s $(command -v schedvmm)", |outcome| {
        let bytes: u64 = outcome.stdout.trim().parse().expect("a size");
        println!("     {bytes} bytes");
        assert!(bytes <= MAX_EXECUTABLE_BYTES, "{bytes} bytes");
    }));
    Group::new("user", TestKernel::V612, cases)
}

/// Sixteen threads on two CPUs wait for longer than a millisecond, and not for all of the time. Each
/// has a whole burst behind the warm-up, without which there are no shares.
const LIMITS: &str = "--threshold off --duration 4s --trace off --noise off \
    --fail-if 'longest > 1ms' --fail-if 'gap_share > 100%'";

fn limits(outcome: &Outcome) {
    outcome.assert_status(1);
    let result = outcome.assert_verdict("over-limit");
    assert_eq!(result["reason_code"], "over-limit");
    let found: Vec<_> = list(&result, "limits").iter().map(|it| text(it, "outcome")).collect();
    assert_eq!(found, ["exceeded", "kept"], "{}", result["limits"]);
    assert_eq!(result["limits"][0]["value"].as_f64(), result["longest_gap_ns"].as_f64());
    let reason = text(&result, "reason");
    assert!(reason.starts_with("longest is ") && reason.ends_with(", over 1.0 ms"), "{reason}");
    let verdict = format!("verdict  OVER LIMIT: {reason}");
    assert!(outcome.stdout.contains(&verdict), "no verdict{}", outcome.words());
}

/// Cookies are looked for in cgroups of version 1, and there are none; then the groups need the
/// controller in those of version 2.
const QUOTAS_WITHOUT_SMT: &str = "--threads-per-core 1 --load-cpus 1,2,3 --preset throttle \
    --threshold off --duration 2s --trace off --noise off";

fn quotas(outcome: &Outcome) {
    outcome.assert_status(0);
    let result = outcome.assert_verdict("measured");
    assert_eq!(result["setup"]["cgroup"], "v2");
    assert_eq!(result["cosched"]["mechanism"], "none");
    // Half of the groups have a quota, which they use up; the others none, and are not throttled.
    let shape = list(&result["job"]["load"], "shape");
    let has_quota: Vec<_> = shape.iter().map(|group| !group["quota"].is_null()).collect();
    assert_eq!(has_quota, [false, false, true, true], "{shape:?}");
    for (group, has_quota) in list(&result, "groups").iter().zip(has_quota) {
        assert_eq!(number(group, "throttles") > 0, has_quota, "{group}");
    }
}

/// The kernel's accounting is of all of the load, its warm-up too.
const WITH_COOKIES: &str = "--threshold off --duration 5s --warmup 0s --trace-dump always";

/// Its trace tells who runs beside whom without cookies.
const BASELINE: &str =
    "--threshold off --duration 3s --warmup 0s --cosched none --trace-dump always";

/// Of the time in which somebody ran beside threads of the load, the share of mates. By chance
/// that is 1 of 15. With cookies it is 1, but for the time in which the emulation keeps a CPU from
/// switching after its sibling has. Shares must sum to 1. Time must be what `explain --run` finds
/// in the same trace on another way, interrupts included, and no less than in the kernel's
/// accounting, which leaves those out.
pub fn mates(outcome: &Outcome, result: &Value) -> f64 {
    let found = &result["co_run"];
    let share = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key}: {of}"));
    let running_ns: u64 =
        list(result, "threads").iter().map(|thread| number(thread, "run_ns")).sum();
    let traced_ns = number(found, "running_ns");
    println!("     beside threads: {found}; they ran {running_ns} ns by the kernel's accounting");
    assert!(traced_ns * 20 >= running_ns * 19, "less than the kernel's accounting has");
    let run = explain(outcome, &["--run"]);
    let of_run = |keys: &[&str]| -> u64 {
        let threads = list(&run["run"], "threads");
        threads.iter().flat_map(|thread| keys.iter().map(|key| number(thread, key))).sum()
    };
    let (least_ns, most_ns) = (of_run(&["running_ns"]), of_run(&["running_ns", "other_ns"]));
    println!("     by explain --run from {least_ns} to {most_ns} ns");
    assert!(least_ns * 99 <= traced_ns * 100 && traced_ns * 100 <= most_ns * 101);
    for of in list(result, "groups").iter().map(|group| &group["co_run"]).chain([found]) {
        let sum: f64 =
            ["mate", "stranger", "idle", "unknown"].map(|key| share(of, key)).iter().sum();
        assert!((sum - 1.0).abs() < 1e-6, "{of}");
    }
    assert!(outcome.stdout.contains("co-run   beside"), "no line{}", outcome.words());
    share(found, "mate") / (share(found, "mate") + share(found, "stranger"))
}

/// Everything that a group can be told, in four of them.
const OWN_SHAPE: &str = "cat > load.toml <<'END'\n\
    [[group]]\n\
    threads = 2\n\
    quota = \"20ms/100ms\"\n\
    nice = -5\n\
    [[group]]\n\
    cookie = \"none\"\n\
    cpus = [1]\n\
    slice = \"4ms\"\n\
    [[group]]\n\
    policy = \"rr:7\"\n\
    busy = \"1ms\"\n\
    sleep = \"fixed:50ms\"\n\
    [[group]]\n\
    policy = \"batch\"\n\
    yield = \"1s\"\n\
    END\n";

const OF_OWN_SHAPE: &str = "--load load.toml --threshold off --duration 3s --trace off --noise off";

fn own_shape(outcome: &Outcome) {
    outcome.assert_status(0);
    let result = outcome.assert_verdict("measured");
    let threads = list(&result, "threads");
    let groups: Vec<_> = threads.iter().map(|thread| number(thread, "group")).collect();
    assert_eq!(groups, [1, 1, 2, 3, 4]);
    let cookies: Vec<_> =
        list(&result["cosched"], "cookies").iter().map(|cookie| *cookie != 0).collect();
    assert_eq!(cookies, [true, false, true, true]);
    assert_eq!(result["setup"]["affinity"].to_string(), r#"["2-3","2-3","3","2-3","2-3"]"#);
    let groups = list(&result, "groups");
    assert!(number(&groups[0], "throttles") > 0 && number(&groups[0], "throttled_ns") > 0);
    assert_eq!(number(&groups[1], "throttles"), 0);
    // Metered only after a second of yielding.
    let wanted = |thread: &Value| number(&thread["statistics"], "wanted_ns");
    assert!(wanted(&threads[4]) < 2_500_000_000, "{}", threads[4]);
    assert!(wanted(&threads[2]) > 2_500_000_000, "{}", threads[2]);
    assert!(number(&threads[3], "bursts") > 10, "{}", threads[3]);
    // What differs has no turns of one length.
    assert!(text(&result["expected"], "note").starts_with("does not apply"));
    assert!(list(&result["statistics"], "largest_lag").is_empty());
    assert_eq!(result["notes"].to_string().matches("not in force").count(), 0);
    assert!(outcome.stdout.contains("load.toml: 4 groups, 5 threads"), "{}", outcome.words());
}

/// The load on the emulated host's own kernel, as root: with a trace, and with a tunable that is
/// to be back afterwards.
const ON_THE_HOST: &str = "slice=/sys/kernel/debug/sched/base_slice_ns\n\
    instances=/sys/kernel/tracing/instances\n\
    before=$(cat $slice)\n\
    schedvmm host --threshold 20ms --duration 30s --tune slice=4ms --output r \
    --on-contaminated report\n\
    code=$?\n\
    [ \"$(cat $slice)\" = \"$before\" ] && [ -z \"$(ls $instances)\" ] && touch restored\n\
    exit $code";

fn on_the_host(outcome: &Outcome) {
    let text = outcome.file("r/result.json").expect("result.json");
    assert_unique_keys(&text);
    let result: Value = serde_json::from_str(&text).expect("JSON");
    threshold::judged(outcome, &result);
    assert_eq!(result["target"], "host");
    assert_eq!(tunable(&result, "slice")["effective"], "4000000");
    assert!(outcome.file("restored").is_some(), "something stayed behind{}", outcome.words());
    let expected = &result["expected"];
    assert!(number(expected, "gap_ns") >= 3 * number(expected, "turn_ns"), "{expected}");
    assert_eq!(result["trace"]["complete"], true, "{}", result["trace"]);
    assert_eq!(result["trace"]["via"], "file");
    let (marked_ns, _) = marked(&read_by_trace_cmd(&outcome.path("r/trace.dat")));
    let hit = number(&result["threshold_hit"], "length_ns");
    assert_eq!(marked_ns, hit);
    println!("     cookies {}, hit {:.1} ms", result["cosched"]["mechanism"], milliseconds(hit));
}

/// The same on the last kernels with CFS.
pub fn group_of_cfs() -> Group {
    let with_cookies = Case::run("with_cookies", "--threshold off --duration 5s", |outcome| {
        let result = measured(outcome);
        cookies(&result, "prctl");
        assert_eq!(tunable_file(&result, "latency"), "/sys/kernel/debug/sched/latency_ns");
        assert_eq!(tunable(&result, "latency")["effective"], "30000000");
        // 30 ms divided among eight.
        expectation(&result, "cfs", 7 * 3_750_000);
        let tunables = result["setup"]["tunables"].to_string();
        assert!(!tunables.contains("base_slice"), "6.1 has no base_slice_ns: {tunables}");
        assert!(text(&result["kernel"], "release").starts_with("6.1."));
    });
    // What this kernel traces has to be sent.
    let trace = Case::run("trace", "", |outcome| {
        let result = hit(outcome);
        threshold::trace(outcome, &result, "r/trace.dat", "bulk-port");
        explained(outcome, &result);
    });
    Group::new("user_6_1", TestKernel::V61, vec![with_cookies, meter::on_6_1(), trace])
}

fn no_such_interface(outcome: &Outcome) {
    outcome.assert_status(125);
    let result = outcome.assert_verdict("untestable");
    let reason = text(&result, "reason");
    assert!(reason.contains("cpu.tag") && reason.contains("2019/20"), "{reason}");
    assert!(outcome.stdout.contains(reason), "the screen has no reason{}", outcome.words());
}

/// A plain pass whose figures agree; its result.
pub fn measured(outcome: &Outcome) -> Value {
    outcome.assert_status(0);
    let result = outcome.assert_verdict("measured");
    environment(&result);
    figures(outcome, &result);
    println!(
        "     longest gap {:.1} ms, {} MiB beyond guest RAM, phases {}",
        milliseconds(number(&result, "longest_gap_ns")),
        number(&result["machine"], "resident_beyond_ram_kib") / 1024,
        result["phases_ms"]
    );
    result
}

/// What the measurement stood on.
fn environment(result: &Value) {
    let kernel = &result["kernel"];
    assert_eq!(kernel["clocksource"], "tsc");
    assert_eq!(kernel["cpus_online"], "0-3");
    assert_eq!(kernel["siblings"].to_string(), r#"["0-1","0-1","2-3","2-3"]"#);
    let affinity = list(&result["setup"], "affinity");
    assert_eq!(affinity.len(), THREADS);
    assert!(affinity.iter().all(|cpus| cpus == "2-3"), "{affinity:?}");
    for report in list(&result["setup"], "tunables") {
        let told = ["file", "note"].iter().any(|key| !report[key].is_null());
        assert!(told, "neither applied nor explained: {report}");
    }
    let tsc = &result["tsc"];
    assert_eq!(tsc["source"], "kvm", "{tsc}");
    let disagreement = tsc["disagreement_ppm"].as_f64().expect("a number");
    println!("     TSC {} kHz, sources differ by {disagreement:.0} ppm", tsc["khz"]);
    assert!(disagreement < MAX_DISAGREEMENT_PPM, "{tsc}");
    let machine = &result["machine"];
    let resident_kib = number(machine, "resident_beyond_ram_kib");
    assert!(resident_kib > 0, "{machine}");
    println!(
        "     {resident_kib} KiB beside RAM (at most {MAX_RESIDENT_KIB}), stopped in {} us",
        number(machine, "stop_us")
    );
    assert!(resident_kib <= MAX_RESIDENT_KIB, "{resident_kib} KiB");
}

/// Do `result.json` and `gaps.csv` tell the same story?
fn figures(outcome: &Outcome, result: &Value) {
    let threads = list(result, "threads");
    assert_eq!(threads.len(), THREADS);
    assert_eq!(list(result, "groups").len(), GROUPS);
    let records = outcome.gaps();
    for (n, thread) in threads.iter().enumerate() {
        let place = u64::try_from(n).expect("small");
        assert_eq!(numbers(thread), (place / 2 + 1, place % 2 + 1));
        assert_eq!(thread["complete"], true);
        let who = numbers(thread);
        let own: Vec<GapLine> = records.iter().filter(|gap| gap.who == who).copied().collect();
        let recorded = number(thread, "gaps") - number(thread, "gaps_unrecorded");
        assert_eq!(recorded, own.len() as u64, "records of thread {n}");
        let longest = own.iter().map(|gap| gap.length_ns).max().unwrap_or(0);
        assert_eq!(number(thread, "longest_gap_ns"), longest, "longest of thread {n}");
        let counted: u64 = list(thread, "gap_histogram_ns").iter().map(count).sum();
        assert_eq!(counted, number(thread, "gaps"), "histogram of thread {n}");
        assert_eq!(number(thread, "backwards"), 0, "thread {n}");
        assert!(number(thread, "iterations") > 0, "thread {n}");
    }
    let longest = records.iter().map(|gap| gap.length_ns).max();
    assert_eq!(result["longest_gap_ns"].as_u64(), longest);
    match number(&result["job"]["load"], "warmup_ns") {
        0 => assert_eq!(result["warmup"], Value::Null),
        // All threads want to run from the start on.
        time_ns => {
            let warmup = &result["warmup"];
            println!("     warm-up: {warmup}");
            assert_eq!(number(warmup, "time_ns"), time_ns);
            assert!(number(warmup, "gaps") > 0 && number(warmup, "longest_ns") > 0, "{warmup}");
        }
    }
    let of_threads: u64 = threads.iter().map(|thread| number(thread, "gaps")).sum();
    let of_groups: u64 = list(result, "groups").iter().map(|group| number(group, "gaps")).sum();
    assert_eq!(of_threads, of_groups);
}

/// What this kernel's scheduler gives by design, and what was found without a load.
pub fn expectation(result: &Value, family: &str, gap_ns: u64) {
    let setup = &result["setup"];
    assert_eq!(setup["scheduler"]["family"], family, "{}", setup["scheduler"]);
    assert_eq!(setup["scheduler"]["hrtick"], true, "{}", setup["scheduler"]);
    let expected = &result["expected"];
    assert_eq!(number(expected, "gap_ns"), gap_ns, "{expected}");
    assert!(expected["inflation"].as_f64().is_some_and(|times| times > 0.0), "{expected}");
    let noise = list(&setup["noise"], "cpus");
    assert_eq!(noise.iter().map(|cpu| number(cpu, "cpu")).collect::<Vec<_>>(), [2, 3]);
    // A meter that saw its own questions as interruptions would have lost all of the time.
    let lost = setup["noise"]["gap_share"].as_f64().expect("a share");
    assert!(lost < 0.95, "the noise floor lost {lost} of the time: {}", setup["noise"]);
    let statistics = &result["statistics"];
    let classes = list(statistics, "classes");
    println!("     classes {}, noise {} ns", statistics["classes"], setup["noise"]["longest_ns"]);
    let counted: u64 = classes.iter().map(|class| number(class, "gaps")).sum();
    let gaps: u64 = list(result, "threads").iter().map(|thread| number(thread, "gaps")).sum();
    assert_eq!(counted, gaps, "{classes:?}");
    // Eight threads on a CPU wait for each other, whatever else happens on it.
    let scheduled_out = classes.iter().find(|class| class["class"] == "scheduled-out");
    let share = scheduled_out.and_then(|class| class["share"].as_f64()).unwrap_or(0.0);
    assert!(share > 0.5, "{classes:?}");
}

/// The count of one histogram bucket.
fn count(bucket: &Value) -> u64 {
    bucket[1].as_u64().expect("buckets are pairs of numbers")
}

/// One cookie for each group, none of them zero or shared.
pub fn cookies(result: &Value, mechanism: &str) {
    assert_eq!(result["cosched"]["mechanism"], mechanism);
    let cookies = list(&result["cosched"], "cookies");
    let distinct: HashSet<_> = cookies.iter().filter_map(Value::as_u64).collect();
    assert!(cookies.len() == GROUPS && distinct.len() == GROUPS, "{cookies:?}");
    assert!(!distinct.contains(&0), "{cookies:?}");
    let mut forced_idle_ns = 0;
    for (group, cookie) in list(result, "groups").iter().zip(cookies) {
        assert_eq!(group["cookie"], *cookie);
        forced_idle_ns += number(group, "force_idle_ns");
    }
    // One of two threads pauses while its sibling's thread spins, again and again.
    let found = &result["forced_idle"];
    assert_eq!((&found["source"], number(found, "ns")), (&"cgroup".into(), forced_idle_ns));
    assert!(forced_idle_ns > 0 && found["share"].as_f64().is_some_and(|share| share < 1.0));
    println!("     forced idle {found}");
}

fn tunable<'a>(result: &'a Value, name: &str) -> &'a Value {
    let named = |report: &&Value| text(report, "request").split('=').next() == Some(name);
    let found = list(&result["setup"], "tunables").iter().find(named);
    found.unwrap_or_else(|| panic!("no tunable `{name}`: {}", result["setup"]["tunables"]))
}

pub fn tunable_file<'a>(result: &'a Value, name: &str) -> &'a str {
    text(tunable(result, name), "file")
}

/// For a reader.
#[allow(clippy::cast_precision_loss)]
pub fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}
