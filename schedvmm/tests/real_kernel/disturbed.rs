// SPDX-License-Identifier: Apache-2.0
//! What bends scheduling around a run, with real kernels: isolated CPUs in the guest and on the
//! host, a CPU quota of cgroup v2, and a vCPU's thread that another tool moves.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::outcome::{Outcome, list, number, text};

const SHORT: &str = "--threshold off --duration 2s --trace off --noise off";

/// Cgroups of the host, the command in one of them.
const IN_A_CGROUP: &str = "cd /sys/fs/cgroup; echo +cpu +cpuset > cgroup.subtree_control\n\
                           mkdir around; cd - > /dev/null; around=/sys/fs/cgroup/around\n";

/// All of them.
pub fn cases() -> Vec<Case> {
    let isolcpus = main_job(&format!("--append isolcpus=2,3 {SHORT}"));
    let partition = format!(
        "{IN_A_CGROUP}echo 3-4 > $around/cpuset.cpus; echo isolated > $around/cpuset.cpus.partition\n\
         cat $around/cpuset.cpus.partition; sh -c \"echo 0 > $around/cgroup.procs; exec schedvmm \
         host --load-cpus 3,4 --output r {SHORT}\"; code=$?; rmdir $around; exit $code"
    );
    let inside = |job: &str| format!("sh -c \"echo 0 > $around/cgroup.procs; exec {job}\"");
    let refused = inside(&main_job(SHORT));
    let allowed = inside(&format!("schedvmm host --allow-quota --output r {SHORT}"));
    let quota = format!(
        "{IN_A_CGROUP}echo 20000 50000 > $around/cpu.max\n{refused}; echo refused with $?\n\
         {allowed}; code=$?; rmdir $around; exit $code"
    );
    let moved = format!(
        "{} & pid=$!\nuntil [ \"$(wc -l < r/gaps.csv)\" -gt 1 ]; do sleep 0.2; done 2> /dev/null\n\
         for thread in /proc/$pid/task/*; do\n\
         [ \"$(cat $thread/comm)\" = \"CPU 3/KVM\" ] && taskset -p 4 ${{thread##*/}}\ndone\n\
         wait $pid",
        main_job("--pin 1,2,3,4 --threshold off --duration 5s --trace off --noise off")
    );
    vec![
        Case::new("isolated_cpus_of_the_guest", isolcpus, |outcome| {
            outcome.assert_status(0);
            let result = outcome.assert_verdict("measured");
            assert!(text(&result["kernel"], "cmdline").contains("isolcpus=2,3"));
            spread(outcome, &result, "2", "3");
        }),
        Case::new("isolated_partition_of_the_host", partition, |outcome| {
            outcome.assert_status(0);
            assert!(outcome.stdout.starts_with("isolated\n"), "no partition{}", outcome.words());
            spread(outcome, &outcome.result_of("host"), "3", "4");
        }),
        Case::new("quota_of_the_host", quota, |outcome| {
            outcome.assert_status(0);
            outcome.assert_says(&["cpu.max 20000 50000", "0.40 CPUs", "--allow-quota"]);
            assert!(outcome.stdout.starts_with("refused with 125\n"), "{}", outcome.words());
            let result = outcome.result_of("host");
            let caller = &result["caller"];
            let own = &list(caller, "cgroups")[0];
            assert_eq!((text(own, "path"), number(own, "quota_us")), ("/around", 20_000));
            assert!(number(&caller["throttled"], "times") > 0, "{caller:#}");
            let notes = result["notes"].to_string();
            assert!(notes.contains("of cgroup /around throttled this process"), "{notes}");
        }),
        Case::new("a_vcpu_is_moved", moved, |outcome| {
            outcome.assert_status(125);
            let result = outcome.assert_verdict("untestable");
            let lost = list(&result["pins"], "lost");
            assert_eq!(lost.len(), 1, "{lost:?}");
            assert_eq!(text(&lost[0], "who"), "the thread of vCPU 3");
            assert_eq!((text(&lost[0], "bound_to"), text(&lost[0], "found_on")), ("4", "2"));
            assert!(text(&result, "reason").contains("threads were moved"), "{}", outcome.words());
        }),
    ]
}

/// The default load on two CPUs that load is not balanced between: half of its threads on each.
fn spread(outcome: &Outcome, result: &Value, one: &str, other: &str) {
    let affinity = list(&result["setup"], "affinity");
    let on = |cpu: &str| affinity.iter().filter(|cpus| *cpus == cpu).count();
    assert_eq!((on(one), on(other)), (8, 8), "{affinity:?}");
    let csv = outcome.file("r/gaps.csv").expect("gaps.csv");
    let place =
        csv.lines().next().and_then(|line| line.split(',').position(|key| key == "cpu_end"));
    let place = place.expect("a column for the CPU");
    let cpus: BTreeSet<_> =
        csv.lines().skip(1).filter_map(|line| line.split(',').nth(place)).collect();
    assert_eq!(cpus, BTreeSet::from([one, other]), "CPUs of gaps");
    let notes = result["notes"].to_string();
    let words = format!("does not balance load between CPUs {one} and {other} ");
    assert_eq!(notes.matches(&words).count(), 1, "{notes}");
    assert!(outcome.stdout.contains(&words), "not on the screen{}", outcome.words());
    assert!(list(&result["pins"], "lost").is_empty(), "{}", result["pins"]);
}
