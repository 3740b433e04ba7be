// SPDX-License-Identifier: Apache-2.0
//! Tunables of file trees that look like those of several eras of kernels.

use tempfile::TempDir;

use crate::kernel::tunables::*;
use crate::testing::tree;

fn request(text: &str) -> TuneRequest {
    let (name, value) = text.split_once('=').unwrap();
    TuneRequest { name: name.parse().unwrap(), value: value.into(), required: false }
}

/// The report on one request beside autogroup's.
fn apply(root: &TempDir, text: &str) -> TunableReport {
    apply_all(root.path(), &[request(text)]).unwrap().remove(1)
}

#[test]
fn each_tunable_that_can_be_named_has_its_files() {
    for (name, tunable) in TunableName::NAMED {
        let known: Vec<_> = TUNABLES.iter().filter(|row| row.name == tunable).collect();
        assert!(matches!(known[..], [row] if !row.files.is_empty()), "{name}");
    }
}

#[test]
fn each_era_of_kernels_gets_the_file_it_has() {
    for file in [
        "proc/sys/kernel/sched_min_granularity_ns",
        "sys/kernel/debug/sched/min_granularity_ns",
        "sys/kernel/debug/sched/base_slice_ns",
    ] {
        let root = tree(&[(file, "750000\n")]);
        let report = apply(&root, "slice=1.875ms");
        assert_eq!(report.file, Some(format!("/{file}")));
        assert_eq!(report.effective.as_deref(), Some("1875000"));
        assert_eq!(report.note, None);
    }
}

#[test]
fn what_a_kernel_lacks_is_reported_and_no_error() {
    let root = tree(&[]);
    let reports = apply_all(root.path(), &default_tune()).unwrap();
    assert_eq!(reports.len(), 1 + default_tune().len());
    for report in &reports {
        assert_eq!((&report.file, &report.effective), (&None, &None));
        assert!(report.note.is_some(), "{report:?}");
    }
    assert_eq!(reports[2].request, "latency=30ms");
    assert!(reports[2].note.as_deref().unwrap().contains("EEVDF"));
}

#[test]
fn units_of_the_files() {
    let bandwidth = "proc/sys/kernel/sched_cfs_bandwidth_slice_us";
    let scaling = "sys/kernel/debug/sched/tunable_scaling";
    let root = tree(&[(bandwidth, "5000"), (scaling, "1")]);
    assert_eq!(apply(&root, "bandwidth-slice=100us").effective.as_deref(), Some("100"));
    assert_eq!(apply(&root, "scaling=none").effective.as_deref(), Some("0"));
    assert_eq!(apply(&root, "scaling=2").effective.as_deref(), Some("2"));
}

#[test]
fn what_is_applied_for_a_while_comes_back() {
    let (slice, preempt) =
        ("sys/kernel/debug/sched/base_slice_ns", "sys/kernel/debug/sched/preempt");
    let root = tree(&[(slice, "700000"), (preempt, "none (voluntary) full")]);
    let requests = ["slice=3ms", "slice=4ms", "latency=30ms"].map(request);
    let (reports, before) = apply_for_a_while(root.path(), &requests).unwrap();
    assert_eq!(reports.len(), 3);
    assert_eq!(fs::read_to_string(root.path().join(slice)).unwrap(), "4000000");
    let path = root.path().join(slice);
    assert_eq!(before, [(path.clone(), "3000000".into()), (path, "700000".into())]);
    let (_, before) = apply_for_a_while(root.path(), &[request("preempt=full")]).unwrap();
    assert_eq!(before, [(root.path().join(preempt), "voluntary".into())]);
    apply_for_a_while(root.path(), &[request("slice=fast")]).unwrap_err();
}

#[test]
fn autogroup_is_always_switched_off() {
    let root = tree(&[("proc/sys/kernel/sched_autogroup_enabled", "1")]);
    let reports = apply_all(root.path(), &[]).unwrap();
    assert_eq!(reports[0].request, "autogroup=off");
    assert_eq!(reports[0].effective.as_deref(), Some("0"));
}

#[test]
fn features_are_written_by_name_and_read_back_from_the_list() {
    // A plain file takes the write as its whole content; the kernel's gives a list.
    let root = tree(&[(FEATURES[1], "")]);
    let report = apply(&root, "hrtick=on");
    assert_eq!(report.file, Some(format!("/{}", FEATURES[1])));
    assert_eq!(report.effective.as_deref(), Some("HRTICK"));
    let report = apply(&root, "feature:PLACE_LAG=off");
    assert_eq!(report.effective.as_deref(), Some("NO_PLACE_LAG"));
    let change = Change::of(&request("hrtick=on")).unwrap();
    let list = root.path().join("list");
    fs::write(&list, "PLACE_LAG NO_HRTICK NO_HRTICK_DL\n").unwrap();
    assert_eq!(change.read_back(&list).unwrap(), "NO_HRTICK");
    fs::write(&list, "HRTICK_DL\n").unwrap();
    change.read_back(&list).unwrap_err();
}

#[test]
fn the_marked_choice_is_the_effective_one() {
    let change = Change::of(&request("preempt=full")).unwrap();
    let root = tree(&[("list", "none voluntary (full) lazy\n")]);
    assert_eq!(change.read_back(&root.path().join("list")).unwrap(), "full");
}

#[test]
fn a_refusal_is_reported_with_what_is_in_force() {
    // A directory in the file's place: it exists and cannot be written.
    let root = tree(&[("proc/sys/kernel/sched_latency_ns/x", "")]);
    let report = apply(&root, "latency=30ms");
    assert!(report.file.is_some());
    assert!(report.note.unwrap().contains("30000000"));
}

/// A default is done without, and what the user asked for is not.
#[test]
fn what_the_user_asked_for_is_in_force_or_an_error() {
    let asked = |text| TuneRequest { required: true, ..request(text) };
    let slice = ("sys/kernel/debug/sched/base_slice_ns", "700000");
    let root = tree(&[slice]);
    assert_eq!(apply_all(root.path(), &[asked("slice=3ms")]).unwrap().len(), 2);
    let error = apply_all(root.path(), &[asked("latency=30ms")]).unwrap_err();
    assert_eq!(error.owner(), Owner::Kernel);
    let text = error.to_string();
    assert_eq!(
        text,
        "`--tune latency=30ms` is not in force: absent: CFS only, and this kernel has EEVDF"
    );
    // What was set before is set back.
    let requests = [asked("slice=4ms"), asked("latency=30ms")];
    apply_for_a_while(root.path(), &requests).unwrap_err();
    assert_eq!(fs::read_to_string(root.path().join(slice.0)).unwrap(), "3000000");
    assert_eq!(TunableError::owner(&check(&request("slice=fast")).unwrap_err()), Owner::Request);
}

/// A tunable that cannot be seen is not called one that the kernel lacks.
#[test]
fn a_tunable_out_of_sight_is_not_absent() {
    let asked = TuneRequest { required: true, ..request("slice=3ms") };
    let proc = ("proc/self/mounts", "proc /proc proc rw 0 0\n");
    let root = tree(&[proc, ("proc/filesystems", "nodev\tdebugfs\n")]);
    let error = apply_all(root.path(), std::slice::from_ref(&asked)).unwrap_err();
    assert_eq!(error.owner(), Owner::Host);
    let text = error.to_string();
    assert!(text.contains("debugfs is not mounted on /sys/kernel/debug"), "{text}");
    let root = tree(&[proc, ("proc/filesystems", "nodev\tproc\n")]);
    let error = apply_all(root.path(), &[asked]).unwrap_err();
    assert_eq!(error.owner(), Owner::Kernel);
    assert!(error.to_string().contains("CONFIG_DEBUG_FS=y"), "{error}");
}

#[test]
fn nonsense_is_refused_before_anything_is_written() {
    for text in [
        "slice=fast",
        "slice=3",
        "bandwidth-slice=1500ns",
        "hrtick=maybe",
        "scaling=3",
        "nr-migrate=-1",
        "preempt=a b",
        "preempt=",
    ] {
        check(&request(text)).expect_err(text);
    }
    for request in default_tune() {
        check(&request).unwrap();
    }
}
