// SPDX-License-Identifier: Apache-2.0
//! Threads of the launcher that the host does not let run, by the freezer of its cgroups: a
//! guest that cannot answer, and a vCPU that cannot stop.

use crate::case::{Case, main_job};
use crate::early_end::{LONG, kill, meanwhile, seconds_to_end, written_on_the_way};
use crate::outcome::{Outcome, list};

/// How long the launcher waits for a guest that was asked to end, in seconds. A second signal
/// ends it sooner.
const GRACE: f64 = 5.0;

/// `freeze PATTERN` stops the launcher's threads of such names, `thaw` lets them go on.
const FREEZER: &str = "\
    vm=/sys/fs/cgroup/vm\n\
    freeze() {\n\
    mkdir -p $vm/still; echo $launcher > $vm/cgroup.procs; echo threaded > $vm/still/cgroup.type\n\
    for task in /proc/$launcher/task/*; do case \"$(cat $task/comm)\" in\n\
    $1) echo ${task##*/} > $vm/still/cgroup.threads;; esac; done\n\
    echo 1 > $vm/still/cgroup.freeze\n\
    until grep -q 'frozen 1' $vm/still/cgroup.events; do usleep 20000; done; }\n\
    thaw() { echo 0 > $vm/still/cgroup.freeze; }\n";

/// One case for each.
pub fn cases() -> Vec<Case> {
    let when_online = |deed: &str, options: &str| {
        meanwhile("grep -q online ticks", &format!("{FREEZER}{deed}"), &main_job(options))
    };
    let twice = format!(
        "freeze 'CPU ?/KVM'; {}; usleep 500000; kill -INT $launcher; usleep 200000; thaw",
        kill("INT")
    );
    // The last vCPUs never start: the guest does not miss one of them.
    let spare = "--cpus 6 --threads-per-core 1 --load-cpus 1 --append maxcpus=2 --groups 2 \
                 --threshold off --duration 4s --trace off";
    vec![
        Case::new("second_sigint", when_online(&twice, LONG), |outcome| {
            outcome.assert_status(130);
            // The first signal's answer was not waited for: the guest could not give one.
            let result = written_on_the_way(outcome);
            for thread in list(&result, "threads") {
                assert_eq!(thread["complete"], false, "{thread}");
            }
            outcome.assert_says(&["a second signal: ended at once"]);
            let took = seconds_to_end(outcome);
            println!("     ended {took:.2} s after the first signal");
            assert!(took < GRACE, "{took} s after the first signal{}", outcome.words());
        }),
        Case::new("vcpu_that_stays", when_online("freeze 'CPU 5/KVM'", spare), stays),
    ]
}

/// A whole result, with a note of the thread.
fn stays(outcome: &Outcome) {
    outcome.assert_status(0);
    let result = outcome.assert_verdict("measured");
    assert_eq!(result["kernel"]["cpus_online"], "0-1");
    assert!(list(&result, "threads").iter().all(|thread| thread["complete"] == true));
    assert!(!outcome.gaps().is_empty(), "gaps.csv is empty");
    let note = "CPU 5/KVM did not stop within 5s";
    assert!(list(&result, "notes").iter().any(|told| told == note), "{}", result["notes"]);
    outcome.assert_says(&[note]);
    let machine = &result["machine"];
    assert!(machine["stop_us"].is_null(), "{machine}");
    let stopped: Vec<_> = list(machine, "vcpus").iter().map(|vcpu| &vcpu["cpu"]).collect();
    assert_eq!(stopped, [0, 1, 2, 3, 4]);
}
