// SPDX-License-Identifier: Apache-2.0
//! A result put together from a real trace of Linux 6.12 and the gaps that its threads measured
//! (`ftrace/tests/data/README.md`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::Path;

use ftrace::{Metadata, Trace, TraceId};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Frequency of the trace's clock.
pub const TSC_KHZ: u64 = 2_445_406;

/// Identity of the trace.
pub const ID: &str = "0123456789abcdef";

/// A trace's data, packed, and what its threads said.
fn data() -> (Vec<u8>, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ftrace/tests/data");
    let packed = fs::read(folder.join("linux-6.12.dat.xz")).expect("the trace");
    let mut bytes = Vec::new();
    liblzma::read::XzDecoder::new(&packed[..]).read_to_end(&mut bytes).expect("unpacked");
    (bytes, fs::read_to_string(folder.join("linux-6.12.csv")).expect("its gaps"))
}

/// The trace alone.
#[allow(dead_code, reason = "each test uses a part of it")]
pub fn trace_bytes() -> Vec<u8> {
    data().0
}

/// A result with all that one has, of another run.
fn result() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../results/tests/data/user.json.xz");
    let packed = fs::read(path).expect("the result");
    serde_json::from_reader(liblzma::read::XzDecoder::new(&packed[..])).expect("JSON")
}

/// The same trace under an identity.
pub fn with_id(trace: Vec<u8>, id: Option<TraceId>) -> Vec<u8> {
    let trace = Trace::from_trace_dat_bytes(trace).expect("readable");
    let metadata = Metadata { id, ..trace.metadata().clone() };
    let trace = Trace::new(metadata, trace.pages().to_vec()).expect("the same");
    let mut bytes = Vec::new();
    trace.write_trace_dat(&mut bytes).expect("in memory");
    bytes
}

/// A result folder as a run leaves it.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("tempdir");
    let (trace, csv) = data();
    let trace = with_id(trace, ID.parse().ok());
    let mut threads = BTreeMap::new();
    let mut gaps = Vec::new();
    for line in csv.lines() {
        match line.split(',').collect::<Vec<_>>()[..] {
            ["group", group, tid, ..] => {
                let group = group.parse::<u64>().expect("a number");
                let before = threads.values().filter(|who: &&(u64, usize)| who.0 == group).count();
                threads.insert(tid.to_owned(), (group, before + 1));
            }
            ["gap", tid, begin, end] => {
                let number = |text: &str| text.parse::<u64>().expect("a number");
                gaps.push((tid.to_owned(), number(begin), number(end)));
            }
            _ => panic!("{line}"),
        }
    }
    let mut text =
        "group,thread,begin_ns,length_ns,tsc_begin,tsc_end,cpu_begin,cpu_end,class\n".to_owned();
    let mut longest = (0, Value::Null);
    for (tid, begin, end) in &gaps {
        let (group, thread) = &threads[tid];
        let length_ns = (end - begin) * 1_000_000 / TSC_KHZ;
        writeln!(text, "{group},{thread},0,{length_ns},{begin},{end},2,3,scheduled-out")
            .expect("a String");
        if length_ns > longest.0 {
            let gap = json!({ "group": group, "thread": thread, "tid": null, "begin_ns": 0,
                "length_ns": length_ns, "length_ticks": end - begin, "tsc_begin": begin,
                "tsc_end": end, "cpu_begin": 2, "cpu_end": 3, "class": "scheduled-out" });
            longest = (length_ns, gap);
        }
    }
    let mut result = result();
    // One thread of that run stands for all of this one.
    let other = result["threads"][0].clone();
    let thread = |(tid, (group, thread)): (&String, &(u64, usize))| {
        let mut one = other.clone();
        one["group"] = json!(group);
        one["thread"] = json!(thread);
        one["tid"] = json!(tid.parse::<u32>().expect("a number"));
        one
    };
    result["threads"] = threads.iter().map(thread).collect();
    result["longest_gap"] = longest.1;
    for key in ["threshold_hit", "after_hit", "measured_ns", "setup", "explanation", "co_run"] {
        result[key] = Value::Null;
    }
    result["core_figures"] = json!({ "measured": true, "reason": null });
    result["notes"] = json!([]);
    result["kernel"]["siblings"] = json!(["0-1", "0-1", "2,3", "2,3"]);
    result["cosched"]["cookies"] = json!([]);
    result["tsc"]["khz"] = json!(TSC_KHZ);
    result["job"]["trace"]["id"] = json!(ID);
    result["trace"]["file"] = json!("elsewhere/trace.dat");
    fs::write(folder.path().join("result.json"), result.to_string()).expect("written");
    fs::write(folder.path().join("gaps.csv"), text).expect("written");
    fs::write(folder.path().join("trace.dat"), trace).expect("written");
    folder
}
