// SPDX-License-Identifier: Apache-2.0
//! Constructed systems: what is found there, and what is made of it.

use super::cgroup::tests::{V1, V2};
use super::*;
use crate::testing::tree;

fn caller(files: &[&[(&str, &str)]], demand: Demand) -> (tempfile::TempDir, Caller) {
    let root = tree(&files.concat());
    let mut caller = Caller::read(root.path(), demand);
    // Not that of whoever runs the tests.
    caller.facts.affinity = Some("0-7".into());
    caller.facts.policy = None;
    (root, caller)
}

fn demand(cpus: usize) -> Demand {
    Demand { cpus, ..Demand::default() }
}

#[test]
fn a_quota_below_what_is_kept_busy_is_in_the_way() {
    let half = [("cg/a/cpu.max", "50000 100000\n")];
    let (_root, refused) = caller(&[&V2, &half], demand(1));
    let text = refused.quota_in_the_way().expect("refused");
    for words in ["cgroup /a ", "cpu.max 50000 100000", "0.50 CPUs", "--allow-quota"] {
        assert!(text.contains(words), "{text}");
    }
    let allowed = Demand { allow_quota: true, ..demand(1) };
    let (_root, allowed) = caller(&[&V2, &half], allowed);
    assert_eq!(allowed.quota_in_the_way(), None);
    assert!(allowed.notes()[0].contains("limits this process to 0.50 CPUs"));
    // The smallest counts, wherever it is.
    let two = [("cg/a/b/cpu.max", "900000 100000\n"), ("cg/a/cpu.max", "200000 100000\n")];
    let (_root, enough) = caller(&[&V2, &two], demand(1));
    assert_eq!(enough.quota_in_the_way(), None, "one for the load, one for the rest");
    assert_eq!(enough.notes().len(), 1);
    let (_root, tight) = caller(&[&V2, &two], demand(2));
    assert!(tight.quota_in_the_way().is_some());
    let (_root, mut narrow) = caller(&[&V2, &two], demand(2));
    narrow.facts.affinity = Some("2-3".into());
    assert_eq!(narrow.quota_in_the_way(), None, "more than it has CPUs for");
    let v1 = [("cpu/a/cpu.cfs_quota_us", "50000\n"), ("cpu/a/cpu.cfs_period_us", "100000\n")];
    let (_root, v1) = caller(&[&V1, &v1], demand(1));
    let text = v1.quota_in_the_way().expect("refused");
    assert!(text.contains("cgroup /a (cpu.cfs_quota_us 50000, cpu.cfs_period_us"), "{text}");
    let (_root, none) = caller(&[&V2], demand(4));
    assert_eq!((none.quota_in_the_way(), none.notes()), (None, vec![]));
}

#[test]
fn what_a_quota_did_while_the_load_ran_is_no_measurement() {
    let stat = |ns| format!("nr_throttled 1\nthrottled_usec {ns}\n");
    let quota = [("cg/a/cpu.max", "900000 100000\n")];
    for (allow_quota, told) in [(false, (0, 1)), (true, (1, 0))] {
        let (root, mut caller) = caller(&[&V2, &quota], Demand { allow_quota, ..demand(1) });
        let write = |file: &str, text: &str| fs::write(root.path().join(file), text);
        write("cg/a/cpu.stat", "nr_throttled 0\nthrottled_usec 0\n").expect("written");
        caller.load_begins();
        assert_eq!(caller.load_ended(), Meanwhile::default());
        write("cg/a/cpu.stat", &stat(5000)).expect("written");
        let Meanwhile { notes, faults } = caller.load_ended();
        assert_eq!((notes.len(), faults.len()), told);
        let text = notes.iter().chain(&faults).next().expect("told");
        assert!(
            text.contains("cgroup /a throttled this process once while the load ran, for 5.0 ms"),
            "{text}"
        );
        assert_eq!(text.contains("--allow-quota"), !allow_quota);
        // One that comes, or goes, meanwhile.
        caller.load_begins();
        write("cg/a/cpu.max", "50000 100000\n").expect("written");
        let Meanwhile { notes, faults } = caller.load_ended();
        let text = notes.iter().chain(&faults).next().expect("told");
        assert!(text.contains("now there is the CPU quota of cgroup /a"), "{text}");
        let json = serde_json::to_value(caller.facts()).expect("JSON");
        assert_eq!(json["throttled"]["times"], 0);
        assert_eq!(json["cgroups"][1]["quota_us"], 900_000);
    }
}

#[test]
fn to_be_moved_where_no_quota_is_bends_nothing() {
    let (root, mut caller) = caller(&[&V2, &[("cg/b/cpu.weight", "100\n")]], demand(1));
    caller.load_begins();
    fs::write(root.path().join("proc/self/cgroup"), "0::/b\n").expect("written");
    let Meanwhile { notes, faults } = caller.load_ended();
    assert!(notes[0].contains("moved to another cgroup") && notes.len() == 1, "{notes:?}");
    assert_eq!(faults, Vec::<String>::new());
    // A quota there is another thing.
    fs::write(root.path().join("cg/b/cpu.max"), "900000 100000\n").expect("written");
    let Meanwhile { notes, faults } = caller.load_ended();
    assert_eq!((notes.len(), faults.len()), (0, 1), "{faults:?}");
}

#[test]
fn cgroups_that_cannot_be_seen_are_told_where_the_kernel_does_not_tell() {
    let mounted = [
        ("proc/self/mountinfo", "30 23 0:27 /docker /cg rw - cgroup2 cgroup2 rw\n"),
        ("proc/self/cgroup", "0::/docker/x\n"),
    ];
    let (_root, blind) = caller(&[&mounted], demand(1));
    assert!(blind.notes()[0].contains("cannot be seen"), "{:?}", blind.notes());
    let local = [("cg/x/cpu.stat.local", "throttled_usec 0\n")];
    let (_root, sees) = caller(&[&mounted, &local], demand(1));
    assert_eq!(sees.notes(), Vec::<String>::new());
}

#[test]
fn weights_are_told_in_one_note() {
    let weights = [("cg/a/cpu.weight", "39\n"), ("cg/a/b/cpu.weight", "7\n")];
    let (_root, caller) = caller(&[&V2, &weights], demand(1));
    assert_eq!(
        caller.notes(),
        ["cgroup /a/b has cpu.weight 7 where 100 is usual; cgroup /a has cpu.weight 39 where 100 \
          is usual"]
    );
}

#[test]
fn what_is_inherited_is_told() {
    let with = |attr: SchedAttr, heirs, files: &[(&str, &str)]| {
        let (_root, mut caller) = caller(&[&V2, files], Demand { heirs, ..demand(1) });
        caller.facts.policy = Some(policy_of(attr));
        caller.notes()
    };
    let plain = SchedAttr { util_max: 1024, ..SchedAttr::default() };
    assert_eq!(with(plain, Heirs::Load, &[]), Vec::<String>::new());
    assert_eq!(with(SchedAttr::default(), Heirs::Load, &[]), Vec::<String>::new());
    let nice = SchedAttr { nice: 10, policy: 3, ..plain };
    assert_eq!(
        with(nice, Heirs::Vcpus, &[]),
        ["the vCPUs' threads have policy batch, nice 10 from whoever called schedvmm"]
    );
    assert_eq!(with(SchedAttr { flags: 1, ..nice }, Heirs::Load, &[]), Vec::<String>::new());
    let clamped = SchedAttr { util_max: 512, ..plain };
    assert!(with(clamped, Heirs::Load, &[])[0].contains("at most 512 of 1024"));
    let limit = [
        ("proc/sys/kernel/sched_rt_runtime_us", "950000\n"),
        ("proc/sys/kernel/sched_rt_period_us", "1000000\n"),
    ];
    let fifo = SchedAttr { policy: 1, priority: 9, util_min: 1024, ..plain };
    let notes = with(fifo, Heirs::Load, &limit);
    assert!(notes[0].contains("policy fifo:9") && !notes[0].contains("least"), "{notes:?}");
    assert!(notes[1].contains("950000 of 1000000"), "{notes:?}");
    assert_eq!(with(plain, Heirs::Load, &limit), Vec::<String>::new());
    let session = [
        ("proc/self/autogroup", "/autogroup-8 nice 5\n"),
        ("proc/sys/kernel/sched_autogroup_enabled", "1\n"),
    ];
    assert!(with(plain, Heirs::Load, &session)[0].contains("nice 5 (autogroup)"));
    let off = [session[0], ("proc/sys/kernel/sched_autogroup_enabled", "0\n")];
    assert_eq!(with(plain, Heirs::Load, &off), Vec::<String>::new());
}

#[test]
fn this_process_can_be_described() {
    let caller = Caller::read(Path::new("/"), demand(1));
    let json = serde_json::to_value(caller.facts()).expect("JSON");
    assert!(json["affinity"].is_string() && json["policy"]["class"].is_string(), "{json}");
}
