// SPDX-License-Identifier: Apache-2.0
//! Perfetto traces, decoded by protoc with Perfetto's published descriptors.

mod common;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use common::{Builder, Value, run};
use ftrace::Trace;
use ftrace::attribution::{Context, Gap, Topology, Units, explain};

const PREEMPTED: i32 = 0x100;

fn context() -> Context {
    Context {
        topology: Topology::from_cores([&[0, 1][..]]),
        groups: [(11, 1), (21, 2)].into(),
        group_names: [(1, "VM 1".into()), (2, "VM 2".into())].into(),
        thread_names: [(11, "vCPU 0".into())].into(),
        core_scheduling: true,
        max_segments: 100,
        ..Context::default()
    }
}

/// VM 1 on CPU 0 is forced idle by VM 2 on CPU 1, twice.
fn trace() -> Trace {
    let mut trace = Builder::new(2);
    trace.wake(1, 900, "sched_waking", 21, 1).wake(1, 950, "sched_wakeup", 21, 1);
    trace.event(0, 990, "print", &[("ip", 0x1234.into()), ("buf", "marker: hit".into())]);
    trace.switch(0, 1000, 0, 11).switch(1, 2000, 0, 21).switch(0, 2000, PREEMPTED, 0);
    trace.switch(1, 5000, PREEMPTED, 0).switch(0, 5000, 0, 11);
    let irq: [(&str, Value); 2] = [("irq", 25.into()), ("name", "virtio1".into())];
    trace.event(0, 5100, "irq_handler_entry", &irq).event(0, 5150, "irq_handler_exit", &irq[..1]);
    trace.event(0, 5150, "softirq_entry", &[("vec", 3.into())]);
    trace.event(0, 5190, "local_timer_entry", &[("vector", 236.into())]);
    trace.lose(1, Some(3)).wake(1, 6000, "sched_wakeup_new", 12, 0).migrate(1, 6100, 11, 0, 1);
    trace.build()
}

/// The trace as text, by protoc.
fn decode(trace: &Trace, gaps: &[Gap]) -> String {
    let mut bytes = Vec::new();
    let explanations = explain(trace, gaps, &context()).expect("readable");
    // 1000 ticks to the millisecond: a tick is a microsecond.
    trace.write_perfetto(&explanations, &context(), Units::tsc(1000), &mut bytes).expect("written");
    let folder = tempfile::tempdir().expect("a folder");
    let mut proto = Vec::new();
    let packed = &include_bytes!("data/perfetto_trace.proto.xz")[..];
    liblzma::read::XzDecoder::new(packed).read_to_end(&mut proto).expect("unpacked");
    fs::write(folder.path().join("perfetto_trace.proto"), proto).expect("written");
    let input = folder.path().join("trace");
    fs::write(&input, bytes).expect("written");
    let mut protoc = Command::new("protoc");
    protoc.arg("--decode=perfetto.protos.Trace").arg("perfetto_trace.proto");
    protoc.current_dir(&folder).stdin(Stdio::from(fs::File::open(input).expect("there")));
    run(&mut protoc, "protobuf-compiler")
}

/// All on one line, with single spaces.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_published_descriptors_know_every_field() {
    let text = decode(&trace(), &[Gap { tid: 11, begin: 2000, end: 5000 }]);
    // protoc shows fields that the descriptors do not have by their numbers.
    let unknown = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    assert_eq!(text.lines().find(unknown), None);
    let text = flat(&text);
    assert!(text.starts_with("packet { trusted_packet_sequence_id: 1 sequence_flags: 1"), "{text}");
    assert_eq!(text.matches("sequence_flags").count(), 1);
    for part in [
        "system_info { utsname { sysname: \"Linux\" release: \"6.12.0\" machine: \"constructed\" } }",
        "event { timestamp: 2000000 pid: 11 sched_switch { prev_comm: \"t11\" prev_pid: 11 \
         prev_prio: 120 prev_state: 256 next_comm: \"swapper/0\" next_pid: 0 next_prio: 120 } }",
        "event { timestamp: 900000 pid: 0 sched_waking { comm: \"t21\" pid: 21 prio: 120 \
         success: 1 target_cpu: 1 } }",
        "sched_wakeup { comm: \"t21\" pid: 21 prio: 120 success: 1 target_cpu: 1 }",
        "sched_wakeup_new { comm: \"t12\" pid: 12",
        // protoc sorts fields by their numbers.
        "sched_migrate_task { comm: \"\" pid: 11 prio: 120 orig_cpu: 0 dest_cpu: 1 } } \
         lost_events: true }",
        "irq_handler_entry { irq: 25 name: \"virtio1\" }",
        "irq_handler_exit { irq: 25 ret: 1 }",
        "softirq_entry { vec: 3 }",
        "irq_handler_entry { irq: 65536 name: \"local_timer\" }",
        "event { timestamp: 990000 pid: 0 print { ip: 4660 buf: \"marker: hit\" } }",
        "ftrace_events { cpu: 1 event { timestamp: 6000000",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
    assert_eq!(text.matches("sched_switch {").count(), 5);
    assert_eq!(text.matches("lost_events").count(), 1);
}

#[test]
fn own_tracks_have_names_and_slices_that_nest() {
    let gaps = [
        Gap { tid: 11, begin: 2000, end: 5000 },
        // Begins in the one before: left out.
        Gap { tid: 11, begin: 3000, end: 5500 },
    ];
    let text = flat(&decode(&trace(), &gaps));
    let track = |name: &str| {
        let at =
            text.find(&format!("name: \"{name}\"")).unwrap_or_else(|| panic!("{name}: {text}"));
        let uuid = text[..at].rsplit("uuid: ").next().expect("a number");
        uuid.trim().parse::<u64>().expect("a number")
    };
    let has = |track: u64, time: u64, what: &str, name: &str| {
        let of_slice = |packet: &&str| {
            packet.contains(&format!("timestamp: {time}000 "))
                && packet.contains(&format!("type: TYPE_SLICE_{what} track_uuid: {track}"))
                && (name.is_empty() || packet.contains(&format!("name: \"{name}\"")))
        };
        let found = text.split("packet {").filter(of_slice).count();
        assert_eq!(found, 1, "{what} {name} on {track} at {time}\n{text}");
    };
    let gap = track("VM 1 vCPU 0 (tid 11)");
    has(gap, 2000, "BEGIN", "gap");
    has(gap, 2000, "BEGIN", "CPU 0 forced idle: CPU 1 ran VM 2, t21 (tid 21)");
    let ends = text.matches(&format!("TYPE_SLICE_END track_uuid: {gap}")).count();
    assert_eq!(ends, text.matches(&format!("TYPE_SLICE_BEGIN track_uuid: {gap}")).count());
    assert_eq!(text.matches("name: \"gap\"").count(), 1);

    let forced = text.match_indices("name: \"forced idle for VM 2\"").count();
    assert_eq!(forced, 1, "two gaps wait in one idle time: {text}");

    let lane = text.match_indices("name: \"on CPU 0\"").count();
    assert_eq!(lane, 1);
    has(track("on CPU 0"), 1000, "BEGIN", "vCPU 0");
    has(track("on CPU 0"), 2000, "END", "");
    has(track("on CPU 0"), 5000, "BEGIN", "vCPU 0");
    has(track("on CPU 0"), 6100, "END", "");
    has(track("on CPU 1"), 2000, "BEGIN", "t21");
    has(track("on CPU 1"), 5000, "END", "");
}
