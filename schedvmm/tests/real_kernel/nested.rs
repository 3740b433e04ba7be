// SPDX-License-Identifier: Apache-2.0
//! The nested target: eight virtual machines in the virtual machine, measured by the kernel's own
//! meter; and one of two that does not come up.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::case::Case;
use crate::lab::{Group, TestKernel};
use crate::outcome::{Outcome, list, number, text};
use crate::trace::who_ran;

/// Eight machines boot in emulated virtualization within two to six minutes, as fast as what carries
/// out the emulation is in that hour. They may while they come further.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// The machines of the main job, and their vCPUs.
const VMS: usize = 8;
const VCPUS: usize = 2;
/// Memory of one machine, guest memory included, at most.
const MAX_RESIDENT_KIB: u64 = 64 << 10;

/// Two machines, of which one measures; all over virtio-pci, though the kernel has virtio-mmio, too.
const TWO: &str = "--nested --l2-count 2 --l2-append 2:rdinit=/none --confine vcpu --transport pci";

/// How long the cases measure.
const DURATION_S: u64 = 8;
/// The machine's second core, which is measured.
const MEASURED_CPUS: [u32; 2] = [2, 3];
/// How the names of threads begin that the kernel has on every CPU, or may send there.
const KERNEL_THREADS: [&str; 9] = [
    "swapper",
    "ksoftirqd/",
    "migration/",
    "kworker/",
    "rcu",
    "cpuhp/",
    "khugepaged",
    "kcompactd",
    "kvm-",
];

/// The whole of the main job, and a run in which one measures and one's kernel panics.
pub fn group() -> Group {
    let measure = format!("--duration {DURATION_S}s --threshold off --floor 50us");
    let all = Case::run("eight_measure", &format!("--nested {measure} --trace-dump always"), eight);
    let one = Case::run("one_measures_and_one_panics", &format!("{TWO} {measure}"), degraded);
    Group::new("nested", TestKernel::V612, vec![all.within(LIMIT), one.within(LIMIT)])
}

fn eight(outcome: &Outcome) {
    outcome.assert_status(0);
    let result = outcome.result_of("nested");
    println!("     phases {}", result["phases_ms"]);
    let vms = list(&result, "vms");
    assert_eq!(vms.len(), VMS);
    for vm in vms {
        measured(outcome, vm, ["2-3", "2-3"]);
        let resident = number(vm, "rss_kib");
        assert!(resident <= MAX_RESIDENT_KIB, "{resident} KiB: {vm}");
    }
    let cookies: BTreeSet<_> =
        vms.iter().map(|vm| number(&list(vm, "threads")[0], "cookie")).collect();
    assert_eq!(cookies.len(), VMS, "each machine has a cookie of its own: {vms:?}");
    // KVM's own worker is made by the first vCPU that runs (vhost_task_create() in
    // arch/x86/kvm/mmu/mmu.c), and inherits its cookie. No other thread has one, none of ours.
    let others = "not only vCPU threads have a cookie, ";
    for note in list(&result, "notes").iter().filter_map(|note| note.as_str()?.split_once(others)) {
        assert_eq!(note.1, "kvm-nx-lpage-re too, and hold the core", "{}", result["notes"]);
    }
    let threads = list(&result, "threads");
    assert_eq!(threads.len(), VMS * VCPUS);
    assert!(threads.iter().all(|thread| thread["complete"] == true), "{threads:?}");
    assert!(number(&result["phases_ms"], "l2_all_recorded") > 0);
    // A line for each machine in the table.
    let table = outcome.stdout.lines().skip_while(|line| !line.trim_start().starts_with("VM "));
    let rows = table.skip(1).take_while(|line| !line.is_empty()).count();
    assert_eq!(rows, VMS, "{}", outcome.words());
    only_vcpus_are_measured(outcome, &result, vms);
}

fn degraded(outcome: &Outcome) {
    outcome.assert_status(125);
    let result = outcome.result_of("nested");
    assert!(text(&result, "reason").contains("degraded: VM 2"), "{}", result["reason"]);
    println!("     phases {}", result["phases_ms"]);
    // Of machines nothing is expected, and forced idle time is not accounted for.
    assert_eq!(result["expected"]["gap_ns"], Value::Null, "{}", result["expected"]);
    let about_threads =
        |line: &str| line.starts_with("expected ") || line.contains("forced by cookies");
    assert!(!outcome.stdout.lines().any(about_threads), "{}", outcome.words());
    let [first, second] = list(&result, "vms") else { panic!("{}", result["vms"]) };
    assert_eq!(text(&result["machine"], "transport"), "pci");
    for vm in [first, second] {
        assert_eq!(text(vm, "transport"), "pci", "{vm}");
    }
    panicked(outcome, second);
    measured(outcome, first, ["2", "3"]);
    let complete: Vec<_> =
        list(&result, "threads").iter().map(|thread| thread["complete"] == true).collect();
    assert_eq!(complete, [true, true, false, false]);
}

/// Does nothing of ours but vCPU threads run on the measured core, from the start to the end?
fn only_vcpus_are_measured(outcome: &Outcome, result: &Value, vms: &[Value]) {
    let begin = number(&result["setup"], "tsc_start");
    let window = begin..begin + DURATION_S * 1000 * number(&result["tsc"], "khz");
    let threads = vms.iter().flat_map(|vm| list(vm, "threads"));
    let vcpus: BTreeSet<u64> = threads.map(|thread| number(thread, "tid")).collect();
    let ran = who_ran(&outcome.path("r/trace.dat"), window, &MEASURED_CPUS);
    println!("     ran on the measured core, in ticks: {ran:?}");
    let of_vcpu = |tid: i32| u64::try_from(tid).is_ok_and(|tid| vcpus.contains(&tid));
    for ((tid, name), ticks) in &ran {
        let of_kernel = *tid == 0 || KERNEL_THREADS.iter().any(|begin| name.starts_with(begin));
        assert!(of_kernel || of_vcpu(*tid), "{name} (tid {tid}) ran for {ticks} ticks");
    }
    let ran = ran.keys().filter(|(tid, _)| of_vcpu(*tid)).count();
    assert_eq!(ran, VMS * VCPUS, "so many vCPUs ran");
}

fn panicked(outcome: &Outcome, vm: &Value) {
    assert!(text(vm, "fault").contains("before its PID 1"), "{vm}");
    assert_eq!([text(vm, "fault_code"), text(vm, "fault_phase")], ["ended", "booting"]);
    assert!(text(vm, "console_tail").contains("Kernel panic"), "{vm}");
    outcome.assert_says(&["VM 2: end of its console"]);
    assert!(outcome.file("r/vm2.log").is_some_and(|log| log.contains("Kernel panic")));
}

/// One that measured, with its vCPUs confined to these CPUs.
pub fn measured(outcome: &Outcome, vm: &Value, cpus: [&str; VCPUS]) {
    assert_eq!(vm["fault"], Value::Null, "{vm}");
    let threads = list(vm, "threads");
    assert_eq!(threads.len(), VCPUS);
    for (thread, cpus) in threads.iter().zip(cpus) {
        assert_eq!(thread["affinity"], cpus, "confined, and read back");
        assert_eq!(thread["cookie"], threads[0]["cookie"], "one machine, one cookie");
        assert!(number(thread, "cookie") > 0 && number(thread, "run_ns") > 0, "{thread}");
    }
    // Time stamps of the guest lie between those of the machine around it.
    let check = &vm["tsc_check"];
    let [before, guest, after] = ["before", "guest", "after"].map(|key| number(check, key));
    assert!(before > 0 && before <= guest && guest <= after, "{check}");
    assert_eq!(vm["tsc_shared"], true);
    println!("     memory: resident {} KiB, divided {} KiB", vm["rss_kib"], vm["pss_kib"]);
    // Lines as the kernel wrote them, live; what they tell is in the records.
    assert_eq!(vm["meter"]["kind"], "hwlat");
    let line = |line: &str| line.contains("inner/outer(us):") && line.contains(" ts:");
    assert!(outcome.stdout.lines().any(line), "no line of hwlat{}", outcome.words());
    assert!(number(vm, "gaps") > 0, "{vm}");
    assert!(outcome.file("r/gaps.csv").is_some_and(|csv| csv.lines().count() > 1));
}
