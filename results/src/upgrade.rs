// SPDX-License-Identifier: Apache-2.0
//! Results of older versions, made ones of this version before they are read. New fields may come
//! at any time; what a result lacks because it is older is listed here, and nothing else may be
//! missing.

use std::collections::BTreeMap;

use protocol::index::Kind;
use protocol::vm::VmPhase;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::model::{Numbers, RunResult, Schema, Target, VcpuEndReason};

/// The first version: groups and threads counted from 0, threads over all groups.
pub const FIRST_SCHEMA: &str = "schedvmm-result/1";
/// The second version: scheduler tunables were called knobs.
pub const SECOND_SCHEMA: &str = "schedvmm-result/2";
/// The third version: a vCPU's end was a sentence, and machines that were ready were standing.
pub const THIRD_SCHEMA: &str = "schedvmm-result/3";

/// Of a run of the first version that a gap over the threshold ended.
const GOES_ON: &str = "an older schedvmm wrote this: all figures but the longest gap go on beyond \
                       the gap over the threshold, until the load had been stopped";

/// A thread of a result of the first version; those of all groups are in order.
#[derive(Deserialize)]
struct OldThread {
    group: u32,
}

/// From the first version to the second: what groups and threads are called, and what was said in
/// another way. Returns who its threads are, in the order in which it counts them.
///
/// # Errors
/// What is wrong with it.
pub fn from_first(value: &mut Value) -> Result<Vec<Numbers>, String> {
    let target = Target::deserialize(&value["target"]).map_err(|error| error.to_string())?;
    let numbers = numbers(&value["threads"], target.kind())?;
    if let Some(threads) = value["threads"].as_array_mut() {
        for (thread, who) in threads.iter_mut().zip(&numbers) {
            rename(thread, *who);
        }
    }
    for key in ["longest_gap", "threshold_hit"] {
        let Some(gap) = value.get_mut(key).filter(|gap| gap.is_object()) else { continue };
        let place = gap["thread"].as_u64().and_then(|place| usize::try_from(place).ok());
        match place.and_then(|place| numbers.get(place)) {
            Some(who) => rename(gap, *who),
            None => return Err(format!("{key} is of a thread that is not there")),
        }
    }
    for group in items(value, "groups") {
        if let Some(number) = group["group"].as_u64() {
            group["group"] = json!(number.saturating_add(1));
        }
    }
    if let Some(load) = value.pointer_mut("/job/load").and_then(Value::as_object_mut) {
        shape(load);
    }
    // It is made anew from the trace, by whoever wants it.
    value["explanation"] = Value::Null;
    if target == Target::Nested {
        // Nothing is expected of machines, whatever was said of them.
        value["expected"] = json!(crate::model::Expected::default());
    }
    if value["threshold_hit"].is_object()
        && let Some(notes) = value.get_mut("notes").and_then(Value::as_array_mut)
    {
        notes.push(json!(GOES_ON));
    }
    Ok(numbers)
}

/// From the second version, or one made of the first, to the third.
pub fn from_second(value: &mut Value) {
    if let Some(setup) = value.get_mut("setup") {
        rename_key("knobs", "tunables", setup);
    }
    value["schema"] = json!(THIRD_SCHEMA);
}

/// From the third version, or one made of an older, to this one.
pub fn from_third(value: &mut Value) {
    if let Some(machine) = value.get_mut("machine") {
        items(machine, "vcpus").for_each(name_end);
    }
    if let Some(phases) = value.get_mut("phases_ms") {
        rename_key("l2_standing", "l2_ready", phases);
    }
    for vm in items(value, "vms") {
        if vm["phase"] == "standing" {
            vm["phase"] = json!(VmPhase::Ready);
        }
        if let Some(times) = vm.get_mut("times") {
            rename_key("standing_ns", "ready_ns", times);
        }
    }
    value["schema"] = json!(Schema::V4);
}

fn rename_key(old: &str, new: &str, value: &mut Value) {
    if let Some(object) = value.as_object_mut()
        && let Some(value) = object.remove(old)
    {
        object.insert(new.into(), value);
    }
}

fn numbers(threads: &Value, kind: Kind) -> Result<Vec<Numbers>, String> {
    let threads = Vec::<OldThread>::deserialize(threads).map_err(|error| error.to_string())?;
    let first = match kind {
        Kind::Threads => 1,
        Kind::Vcpus => 0,
    };
    let mut next = BTreeMap::new();
    Ok(threads
        .into_iter()
        .map(|old| {
            let thread = next.entry(old.group).or_insert(first);
            let who = Numbers { group: old.group.saturating_add(1), thread: *thread };
            *thread += 1;
            who
        })
        .collect())
}

/// A list may have been read as a thread; whoever wants one of the result refuses it.
fn rename(named: &mut Value, who: Numbers) {
    if let Some(named) = named.as_object_mut() {
        named.insert("group".into(), json!(who.group));
        named.insert("thread".into(), json!(who.thread));
    }
}

/// The items of a list.
fn items<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Before loads had names, all groups were alike.
fn shape(load: &mut Map<String, Value>) {
    let Some(groups) = load.get("groups").and_then(Value::as_u64) else { return };
    // As many as a load can have, and more.
    let groups = usize::try_from(groups).unwrap_or(usize::MAX).min(1 << 16);
    let group = json!({
        "threads": of_load("threads_per_group", load),
        "cookie": true,
        "busy_ns": of_load("busy_ns", load),
        "sleep": of_load("sleep", load),
    });
    load.insert("shape".into(), json!(vec![group; groups]));
}

fn of_load(key: &str, load: &Map<String, Value>) -> Value {
    load.get(key).cloned().unwrap_or_default()
}

/// The path of a key, and what stands for it where it is missing.
type Later = (&'static str, fn() -> Value);

/// What came later than the first result of some version, and what stands for it in older ones.
/// `[]` is each item of a list. Where the object that has it is not there, or null, nothing is.
const LATER: [Later; 75] = [
    // It is made of the other figures by whoever reads them.
    ("summary", || json!({})),
    ("service_lag", || json!({ "windows": [], "note": "an older schedvmm did not tell it" })),
    ("job.nested.job.load.warmup_ns", || json!(0)),
    ("job.load.warmup_ns", || json!(0)),
    ("noise_after", || Value::Null),
    ("limits", || json!([])),
    ("statistics.time_quantiles", || Value::Null),
    ("groups[].statistics.time_quantiles", || Value::Null),
    ("threads[].statistics.time_quantiles", || Value::Null),
    ("longest_gap.host_known_ns", || json!(0)),
    ("longest_gap.host_ns", || Value::Null),
    ("longest_gap.net_ns", || Value::Null),
    ("threshold_hit.host_known_ns", || json!(0)),
    ("threshold_hit.host_ns", || Value::Null),
    ("threshold_hit.net_ns", || Value::Null),
    ("after_hit.longest.host_known_ns", || json!(0)),
    ("after_hit.longest.host_ns", || Value::Null),
    ("after_hit.longest.net_ns", || Value::Null),
    ("longest_gap.kind", || json!("preemption")),
    ("longest_gap.unfinished", || json!(false)),
    ("threshold_hit.kind", || json!("preemption")),
    ("threshold_hit.unfinished", || json!(false)),
    ("after_hit.longest.kind", || json!("preemption")),
    ("after_hit.longest.unfinished", || json!(false)),
    ("threads[].longest.kind", || json!("preemption")),
    ("threads[].longest.unfinished", || json!(false)),
    ("statistics.kinds", || json!([])),
    ("groups[].statistics.kinds", || json!([])),
    ("threads[].statistics.kinds", || json!([])),
    ("reason_code", || Value::Null),
    ("reason_stage", || Value::Null),
    ("after_hit", || Value::Null),
    ("measured_ns", || Value::Null),
    ("warmup", || Value::Null),
    ("threads[].warmup", || json!({ "gaps": 0, "gap_ticks": 0, "longest_ticks": 0, "divided": 0 })),
    ("too_short", || Value::Null),
    ("core_figures", || json!({ "measured": true, "reason": null })),
    ("caller", || Value::Null),
    ("pins", || json!({ "lost": [], "gaps_elsewhere": 0, "cpus_elsewhere": "" })),
    ("forced_idle", || json!({ "ns": null, "share": null, "source": null, "note": null })),
    ("vms", || json!([])),
    ("trace.form", || Value::Null),
    ("trace.via", || Value::Null),
    ("trace.shipped_bytes", || json!(0)),
    ("trace.cpus", || json!([])),
    ("kernel.named", || json!("")),
    ("kernel.inside", || json!([])),
    ("kernel.image_release", || Value::Null),
    ("kernel.build_id", || Value::Null),
    ("kernel.config_source", || Value::Null),
    ("statistics.open_ns", || json!(0)),
    ("groups[].statistics.open_ns", || json!(0)),
    ("groups[].wakeup_due_ns", || Value::Null),
    ("threads[].statistics.open_ns", || json!(0)),
    ("threads[].wakeup_due_ns", || json!(0)),
    ("threads[].unfinished", || json!(false)),
    ("threads[].affinity_end", || Value::Null),
    ("vms[].transport", || json!("mmio")),
    ("vms[].fault_code", || Value::Null),
    ("vms[].fault_phase", || Value::Null),
    ("host.cpu_kinds", || json!([])),
    ("host.kvm", || json!({})),
    ("host.mitigations", || json!({})),
    ("host.scheduler_files", || json!({})),
    ("job.cpu_limit", || Value::Null),
    ("job.trace.required", || json!(false)),
    ("job.trace.id", || Value::Null),
    ("job.tune[].required", || json!(false)),
    ("job.nested.transport", || Value::Null),
    ("job.nested.boot_at_once", || json!(1)),
    // The fixed time that they had was all there was.
    ("job.nested.boot_stall_ns", || json!(u64::MAX)),
    ("job.nested.job.cpu_limit", || Value::Null),
    ("setup.noise.cpus[].watched_ns", || json!(0)),
    ("setup.scheduler.slice_note", || Value::Null),
    ("setup.cgroup_weights", || json!(false)),
];

/// Fills in what an older result does not have.
pub fn fill_in(value: &mut Value) {
    for (path, filler) in LATER {
        fill(value, path, filler);
    }
    let cosched = &value["cosched"];
    let missing = cosched["requested"] == "auto" && cosched["mechanism"] == "none";
    fill(value, "cosched.missing", || json!(missing));
    for vm in items(value, "vms") {
        // One that never ran once had a transport without a name.
        if vm["transport"] == "" {
            vm["transport"] = Value::Null;
        }
    }
    if value["machine"]["cpus"].is_null() {
        return;
    }
    fill(value, "machine.transport", || json!("mmio"));
    fill(value, "machine.modules", || json!([]));
    fill(value, "machine.modules_bytes", || json!(0));
    // They were in the initrd as the kernel takes them.
    let unpacked = value["machine"]["modules_bytes"].clone();
    fill(value, "machine.modules_packed_bytes", || unpacked.clone());
    fill(value, "machine.modules_from", || Value::Null);
    if !value["machine"]["vcpus"].is_null() {
        fill(value, "machine.host_evidence", || json!(crate::model::HostEvidence::default()));
    }
}

/// Why a vCPU ended was a sentence.
fn name_end(vcpu: &mut Value) {
    if VcpuEndReason::deserialize(&*vcpu).is_ok() {
        return;
    }
    if let Some(vcpu) = vcpu.as_object_mut()
        && let Some(text) = vcpu.get("end").and_then(Value::as_str)
        && let Ok(Value::Object(end)) = serde_json::to_value(VcpuEndReason::of_sentence(text))
    {
        vcpu.extend(end);
    }
}

fn fill(value: &mut Value, path: &str, filler: impl Fn() -> Value + Copy) {
    let Some((first, rest)) = path.split_once('.') else {
        if let Some(object) = value.as_object_mut() {
            object.entry(path).or_insert_with(filler);
        }
        return;
    };
    match first.strip_suffix("[]") {
        Some(list) => items(value, list).for_each(|item| fill(item, rest, filler)),
        None => value.get_mut(first).into_iter().for_each(|item| fill(item, rest, filler)),
    }
}

/// A key that a result of this version has, and the file that it was read from has not: where serde
/// takes what is missing for "not known", a key that has another name would go unnoticed.
pub fn lacking(file: &Value, result: &RunResult) -> Option<String> {
    let written = serde_json::to_value(result).unwrap_or_default();
    first_lacking(file, &written)
}

fn first_lacking(file: &Value, written: &Value) -> Option<String> {
    match (file, written) {
        (Value::Object(file), Value::Object(written)) => {
            written.iter().find_map(|(key, written)| match file.get(key) {
                None => Some(key.clone()),
                Some(file) => first_lacking(file, written).map(|rest| format!("{key}.{rest}")),
            })
        }
        (Value::Array(file), Value::Array(written)) => {
            let pairs = file.iter().zip(written).enumerate();
            pairs.into_iter().find_map(|(index, (file, written))| {
                first_lacking(file, written).map(|rest| format!("{index}.{rest}"))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(thread: u32, group: u32) -> Value {
        json!({ "thread": thread, "group": group, "tid": 7 })
    }

    #[test]
    fn the_first_version_called_groups_and_threads_otherwise() {
        let old = |target: &str| {
            json!({
                "schema": FIRST_SCHEMA,
                "target": target,
                "threads": [thread(0, 0), thread(1, 0), thread(2, 1), thread(3, 1)],
                "groups": [{ "group": 0 }, { "group": 1 }],
                "longest_gap": { "thread": 3, "group": 1, "length_ns": 5 },
                "threshold_hit": null,
            })
        };
        let upgraded = |target: &str| {
            let mut value = old(target);
            let numbers = from_first(&mut value).expect("upgraded");
            (value, numbers.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let (value, numbers) = upgraded("user");
        assert_eq!(value["threads"][2], json!({ "group": 2, "thread": 1, "tid": 7 }));
        assert_eq!(value["groups"][1]["group"], 2);
        assert_eq!(value["longest_gap"], json!({ "group": 2, "thread": 2, "length_ns": 5 }));
        assert_eq!(numbers, ["1.1", "1.2", "2.1", "2.2"]);
        assert_eq!(upgraded("nested").1, ["1.0", "1.1", "2.0", "2.1"]);
    }

    #[test]
    fn a_damaged_first_version_is_refused() {
        let refused = |more: Value| {
            let mut value = json!({ "schema": FIRST_SCHEMA, "target": "user", "threads": [] });
            let all = value.as_object_mut().expect("an object");
            all.extend(more.as_object().cloned().expect("an object"));
            from_first(&mut value).map(|_| value)
        };
        for (more, says) in [
            (json!({ "target": "x" }), "unknown variant `x`"),
            (json!({ "threads": 7 }), "invalid type"),
            (json!({ "threads": [{}] }), "missing field"),
            (json!({ "longest_gap": { "thread": 0 } }), "longest_gap"),
            (json!({ "threshold_hit": { "thread": -1 } }), "threshold_hit"),
        ] {
            let error = refused(more).expect_err("refused");
            assert!(error.contains(says), "{error}");
        }
        for (group, number) in [(u32::MAX, u32::MAX), (0, 1)] {
            let value = refused(json!({ "threads": [{ "group": group }] })).expect("upgraded");
            assert_eq!(value["threads"][0]["group"], number);
        }
        // No load is so large that it does not fit into memory.
        let huge = json!({ "job": { "load": { "groups": u64::MAX } } });
        let shape = refused(huge).expect("upgraded")["job"]["load"]["shape"].take();
        assert_eq!(shape.as_array().map(Vec::len), Some(1 << 16));
    }

    #[test]
    fn what_came_later_is_filled_in_and_what_is_there_stays() {
        let mut value = json!({
            "cosched": { "requested": "auto", "mechanism": "none" },
            "groups": [{ "statistics": { "open_ns": 5 } }, { "statistics": {} }],
            "vms": [{ "transport": "", "phase": "standing" }, { "times": { "standing_ns": 7 } }],
            "phases_ms": { "l2_standing": 3 },
            "machine": {
                "cpus": 4,
                "vcpus": [
                    { "cpu": 0, "end": "triple fault" },
                    { "cpu": 1, "end": "unexpected exit KVM_EXIT_HLT" },
                    { "cpu": 2, "end": "unexpected", "detail": "KVM_EXIT_NMI" },
                ],
            },
            "setup": null,
        });
        from_third(&mut value);
        fill_in(&mut value);
        assert_eq!(
            (&value["schema"], &value["phases_ms"]),
            (&json!(Schema::V4), &json!({ "l2_ready": 3 }))
        );
        assert_eq!(
            (&value["vms"][0]["phase"], &value["vms"][1]["times"]["ready_ns"]),
            (&json!("ready"), &json!(7))
        );
        assert_eq!(
            value["machine"]["vcpus"],
            json!([
                { "cpu": 0, "end": "triple-fault" },
                { "cpu": 1, "end": "unexpected", "detail": "KVM_EXIT_HLT" },
                { "cpu": 2, "end": "unexpected", "detail": "KVM_EXIT_NMI" },
            ])
        );
        assert_eq!(value["cosched"]["missing"], true);
        assert_eq!(value["groups"][0]["statistics"]["open_ns"], 5);
        assert_eq!(value["groups"][1]["statistics"]["open_ns"], 0);
        assert_eq!(
            [&value["vms"][0]["transport"], &value["vms"][1]["transport"]],
            [&Value::Null, &json!("mmio")]
        );
        assert_eq!(
            (&value["machine"]["transport"], &value["setup"]),
            (&json!("mmio"), &Value::Null)
        );
        let running = &mut json!({ "machine": { "cpus": 4 } });
        fill_in(running);
        assert!(running["machine"].get("host_evidence").is_none(), "it has not ended");
    }
}
