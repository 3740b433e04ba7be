// SPDX-License-Identifier: Apache-2.0
//! Results of every version that there is a sample of (data/README.md), read by this one.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use protocol::message::CoschedInterface;
use protocol::vm::VmPhase;
use results::json;
use results::model::{Answer, Entered, Phase, Target, TraceVia, VcpuEndReason};
use results::saved::Saved;
use serde_json::Value;
use tempfile::TempDir;

/// A file of a crate of this repository.
fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &str) -> String {
    let packed = fs::read(data(path)).expect("a file of ours");
    let mut text = String::new();
    liblzma::read::XzDecoder::new(&packed[..]).read_to_string(&mut text).expect("unpacked");
    text
}

/// A folder with this sample as its result.
fn folder(path: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    fs::write(folder.path().join("result.json"), text(path)).expect("written");
    folder
}

fn open(path: &str) -> Saved {
    Saved::open(folder(path).path()).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Nothing of a result of this version is lost, added or spelled otherwise.
#[test]
fn what_is_read_is_written_again() {
    for sample in ["user", "host", "nested"] {
        let path = format!("results/tests/data/{sample}.json.xz");
        let found = json::pretty(&open(&path).result).expect("JSON");
        let [found, there] =
            [&found, &text(&path)].map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
        assert_eq!(found, there, "{sample}");
    }
}

/// docs/formats.md names each key, in the words of the file.
#[test]
fn every_key_is_described() {
    let page = fs::read_to_string(data("docs/formats.md")).expect("a file of ours");
    let described: BTreeSet<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .collect();
    for sample in ["user", "host", "nested"] {
        let text = text(&format!("results/tests/data/{sample}.json.xz"));
        let result: Value = serde_json::from_str(&text).expect("JSON");
        let mut keys = BTreeSet::new();
        collect_keys(&result, &mut keys);
        keys.retain(|key| !described.contains(&**key));
        assert!(keys.is_empty(), "{sample}: keys that docs/formats.md does not name: {keys:?}");
    }
}

/// Keys at any depth, but for those that are names of somebody else's: of files, of KVM's
/// parameters, of vulnerabilities.
fn collect_keys(value: &Value, keys: &mut BTreeSet<String>) {
    // Names of metrics are looked for whole, where the screen is tested.
    const NAMES_OF_OTHERS: [&str; 4] = ["scheduler_files", "kvm", "mitigations", "summary"];
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.insert(key.clone());
                if !NAMES_OF_OTHERS.contains(&&**key) {
                    collect_keys(value, keys);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

#[test]
fn a_result_of_a_microvm_has_all_that_a_run_tells() {
    let result = open("results/tests/data/user.json.xz").result;
    assert_eq!((result.target, result.verdict), (Target::User, Answer::OverThreshold));
    assert_eq!(result.kernel.entered, Entered::Payload);
    assert_eq!(result.cosched.mechanism, Some(CoschedInterface::Prctl));
    assert_eq!(result.trace.via, Some(TraceVia::MappedRing));
    let vm = result.machine.vm.as_ref().expect("a microVM");
    let end = vm.end.as_ref().expect("it has ended");
    assert_eq!((vm.cpus, end.vcpus.len()), (4, 4));
    let explanation = result.explanation.as_ref().expect("explained");
    let ticks: u64 = explanation.parts.iter().map(|part| part.part.ticks).sum();
    assert_eq!(ticks, explanation.tsc_end - explanation.tsc_begin);
    assert_eq!(result.gap().map(|gap| gap.who), Some(explanation.who));
    assert!(result.kernel.hello.is_some_and(|hello| hello.release.starts_with("6.12.")));
    assert!(result.phases_ms[&Phase::Boot] > 0 && result.caller.is_some());
}

#[test]
fn a_result_of_machines_has_them() {
    let result = open("results/tests/data/nested.json.xz").result;
    assert_eq!((result.target, result.vms.len()), (Target::Nested, 2));
    assert!(result.vms.iter().all(|vm| vm.status.phase == VmPhase::Ended));
    assert_eq!(result.threads[2].who.to_string(), "2.0");
    assert!(result.phases_ms.contains_key(&Phase::L2AllRecorded));
}

/// What schema 2 called knobs.
#[test]
fn a_result_of_the_second_schema_has_its_tunables() {
    let saved = open("results/tests/data/last-2.json.xz");
    let setup = saved.result.setup.as_ref().expect("it was set up");
    assert!(setup.tunables.iter().any(|tunable| tunable.request.starts_with("slice=")));
    let p99_ns = saved.result.statistics.quantiles.expect("there were gaps").p99_ns;
    assert!(p99_ns.is_some_and(|p99_ns| p99_ns > 0));
    let written = json::pretty(&saved.result).expect("JSON");
    assert!(written.contains("schedvmm-result/4") && !written.contains("knobs"));
}

/// What schema 3 had sentences for.
#[test]
fn a_result_of_the_third_schema_has_ends_by_name() {
    let machine = open("results/tests/data/last-3.json.xz").result.machine.vm.expect("a machine");
    let end = machine.end.expect("it ended");
    let ends: Vec<_> = end.vcpus.into_iter().map(|vcpu| vcpu.end).collect();
    let (stopped, fault) = (VcpuEndReason::Stopped, VcpuEndReason::TripleFault);
    assert_eq!(ends, [VcpuEndReason::PowerOff, fault, stopped.clone(), stopped]);
}

/// The first result of schema 2 lacked what came later.
#[test]
fn an_early_result_of_this_schema_is_read() {
    let result = open("results/tests/data/first-2.json.xz").result;
    assert_eq!((result.target, result.verdict), (Target::Host, Answer::Pass));
    assert_eq!((result.caller.is_none(), result.measured_ns), (true, None));
    // That kernel had no cookies, which a reader had to find out.
    assert!(result.core_figures.measured && result.cosched.missing);
    assert_eq!((result.threads.len(), result.statistics.open_ns), (2, 0));
    assert!(result.machine.vm.is_none() && result.kernel.hello.is_some());
}

#[test]
fn results_of_the_first_schema_are_read() {
    let data = |name: &str| format!("schedvmm/tests/report/data/{name}.json.xz");
    // Before loads had names.
    let first = open(&data("result")).result;
    assert_eq!((first.target, first.verdict), (Target::User, Answer::OverThreshold));
    assert_eq!((first.job.load.groups.len(), first.job.load.threads()), (8, 16));
    assert_eq!(first.longest_gap.expect("one").who.to_string(), "3.1");
    assert!(!first.core_figures.measured, "its CPUs were emulated");
    assert!(first.notes.last().is_some_and(|note| note.contains("an older schedvmm wrote this")));
    let nested = open(&data("nested")).result;
    // Machines that were ready were called standing.
    assert!(nested.phases_ms.contains_key(&Phase::L2Ready));
    assert!(nested.vms.iter().all(|vm| vm.status.times.ready_ns.is_some()));
    assert_eq!((nested.target, nested.vms.len()), (Target::Nested, 2));
    assert_eq!((nested.threads[3].who.to_string().as_str(), nested.expected.gap_ns), ("2.1", None));
    let degraded = open(&data("degraded")).result;
    assert_eq!(degraded.verdict, Answer::Untestable);
    assert!(degraded.vms[1].status.fault.is_some() && !degraded.threads[2].complete);
}

/// What has been made a result of this version is one: it is read without a change.
#[test]
fn an_upgraded_result_is_one_of_this_version() {
    for path in [
        "results/tests/data/first-2.json.xz",
        "results/tests/data/last-3.json.xz",
        "schedvmm/tests/report/data/result.json.xz",
        "schedvmm/tests/report/data/nested.json.xz",
        "schedvmm/tests/report/data/degraded.json.xz",
    ] {
        let once = json::pretty(&open(path).result).expect("JSON");
        let folder = tempfile::tempdir().expect("tempdir");
        fs::write(folder.path().join("result.json"), &once).expect("written");
        let again = Saved::open(folder.path()).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(json::pretty(&again.result).expect("JSON"), once, "{path}");
    }
}

/// Threads of the first schema were counted over all groups, in gaps.csv, too.
#[test]
fn gaps_of_the_first_schema_are_of_the_threads_that_they_were() {
    let folder = folder("schedvmm/tests/report/data/result.json.xz");
    let csv = "thread,group,begin_ns,length_ns,tsc_begin,tsc_end,cpu_begin,cpu_end,class\n\
               4,2,5,20,10,30,2,3,host\n";
    fs::write(folder.path().join("gaps.csv"), csv).expect("written");
    let gaps = Saved::open(folder.path()).and_then(|saved| saved.gaps()).expect("read");
    assert_eq!(gaps[0].who.to_string(), "3.1");
}

#[test]
fn a_newer_schema_is_refused_by_name() {
    let folder = folder("results/tests/data/host.json.xz");
    let path = folder.path().join("result.json");
    let newer = fs::read_to_string(&path).expect("read").replace("result/4", "result/5");
    fs::write(&path, newer).expect("written");
    let error = Saved::open(&path).expect_err("unknown").to_string();
    assert!(
        error.contains("`schedvmm-result/5`") && error.contains("schedvmm-result/4"),
        "{error}"
    );
}
