// SPDX-License-Identifier: Apache-2.0
use std::{fs, path::Path, time::Duration};

use gaps::evidence::Class;
use proptest::prelude::*;
use protocol::error::Owner;
use protocol::index::Kind;
use protocol::job::{LoadSpec, MeterKind, MeterMode, MeterSpec};
use protocol::report::MeterReport;

use crate::error::MeterError;
use crate::kernel::obstacle::Obstacle;
use crate::kernel_meter::Meter;
use crate::kernel_meter::lines::{Context, HwlatSample, LineBuffer, OsnoiseSample, Parsed, parse};
use crate::kernel_meter::place::{Placed, Placing, WallClock};
use crate::kernel_meter::tallies::{self, Tallies, ThreadTime};
use crate::kernel_meter::tracer::Kernels;
use crate::testing::{groups, tree};

/// Written by Linux 6.12 in a machine of ours.
const LINE_612: &str = "          hwlatd-71      [001] d....  2468013579: #12    \
                        inner/outer(us): 8121/77    ts:1700000003.250000000 count:2";
/// The same with an NMI, as `trace_hwlat_print` appends it.
const LINE_NMI: &str = "        hwlatd/1-71      [001] d.Z1.  2468013579: #12    \
                        inner/outer(us):   81/12077 ts:1700000003.250000000 count:1 nmi-total:7 nmi-count:3";
/// Linux 5.4, whose lines the original benchmark shows.
const LINE_54: &str = "           <...>-105   [000] d...  2468013579: #3     \
                       inner/outer(us): 24016/18012 ts:1588888888.000000042";
const LINE_OSNOISE: &str = "       osnoise/1-93      [001] d....  2468013579: sample_threshold: \
                            start 12.345678901 duration 1500000 ns interference 4";

const AT: Context = Context { pid: 71, cpu: 1, tsc: 2_468_013_579 };

const SAMPLE: HwlatSample = HwlatSample {
    inner_us: 8121,
    outer_us: 77,
    wall_ns: 1_700_000_003_250_000_000,
    count: Some(2),
    nmi_count: 0,
    nmi_total_us: None,
};

#[test]
fn lines_of_hwlat_old_and_new() {
    assert_eq!(parse(LINE_612), Parsed::Hwlat(AT, SAMPLE));
    let nmi = HwlatSample {
        inner_us: 81,
        outer_us: 12_077,
        count: Some(1),
        nmi_count: 3,
        nmi_total_us: Some(7),
        ..SAMPLE
    };
    assert_eq!(parse(LINE_NMI), Parsed::Hwlat(AT, nmi));
    // A clock that NMIs must not read: their number only.
    let counted = HwlatSample { nmi_total_us: None, ..nmi };
    assert_eq!(parse(&LINE_NMI.replace(" nmi-total:7", "")), Parsed::Hwlat(AT, counted));
    let old = HwlatSample {
        inner_us: 24_016,
        outer_us: 18_012,
        wall_ns: 1_588_888_888_000_000_042,
        count: None,
        ..SAMPLE
    };
    assert_eq!(parse(LINE_54), Parsed::Hwlat(Context { pid: 105, cpu: 0, ..AT }, old));
}

#[test]
fn names_flags_and_fields_that_are_not_ours() {
    let same = [
        // A name with all that splits a line; a thread group; no flags at all; RT's flags.
        LINE_612.replace("hwlatd-71", "a - [003] b: c-71"),
        LINE_612.replace("-71  ", "-71  (     12)"),
        LINE_612.replace("-71  ", "-71  (-------)"),
        LINE_612.replace(" d....", ""),
        LINE_612.replace(" d....", " dNs.114"),
        format!("{LINE_612} some-new-field:9"),
    ];
    for line in same {
        assert_eq!(parse(&line), Parsed::Hwlat(AT, SAMPLE), "{line}");
    }
}

#[test]
fn osnoise_gives_every_gap_and_its_sums_are_none() {
    let sample = OsnoiseSample { duration_ns: 1_500_000, interference: 4 };
    let at = Context { pid: 93, ..AT };
    assert_eq!(parse(LINE_OSNOISE), Parsed::Osnoise(at, sample));
    let sum =
        "       osnoise/1-93      [001] .....  2468013579: 500000        190  99.96200       9";
    assert_eq!(parse(sum), Parsed::Other);
    assert_eq!(parse(""), Parsed::Other);
    assert_eq!(parse("# tracer: hwlat"), Parsed::Other);
}

#[test]
fn lost_events_are_counted_and_damage_is_seen() {
    assert_eq!(parse("CPU:1 [LOST 17 EVENTS]"), Parsed::Lost(17));
    assert_eq!(parse("CPU:1 [LOST EVENTS]"), Parsed::Lost(0));
    let damaged = [
        LINE_612.replace("8121/", "8121"),
        LINE_612.replace("8121", "99999999999999999999"),
        LINE_612.replace("8121", "-8121"),
        LINE_612.replace("250000000", "25"),
        LINE_612.replace(" count:2", "          hwlatd-71      [001] d....  1: #13"),
        LINE_612.replace("2468013579:", "sometime:"),
        LINE_612.replace("2468013579:", "2468013579"),
        LINE_612.replace("[001]", ""),
        LINE_612.replace("hwlatd-71", "hwlatd"),
        LINE_612.replace("#12", "12"),
        LINE_OSNOISE.replace("ns ", ""),
        LINE_OSNOISE.replace(" 4", ""),
    ];
    for line in damaged {
        assert_eq!(parse(&line), Parsed::Damaged, "{line}");
    }
    // Wherever a line is torn, it is not taken for a whole one with other figures: only the
    // fields at its end can go missing unseen, which is why a line counts with its line feed.
    let whole = LINE_612.len() - " count:2".len();
    for length in 0..LINE_612.len() {
        match parse(&LINE_612[..length]) {
            Parsed::Hwlat(at, sample) => {
                assert_eq!((at, sample), (AT, HwlatSample { count: None, ..SAMPLE }));
                assert!(length == whole || length == whole + 1);
            }
            other => assert!(matches!(other, Parsed::Damaged | Parsed::Other), "{other:?}"),
        }
    }
}

/// All lines and whether one is torn, with pieces of this size.
fn lines(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool, usize) {
    let (mut buffer, mut lines, mut dropped) = (LineBuffer::default(), Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        dropped += usize::from(buffer.push(piece));
        lines.extend(std::iter::from_fn(|| buffer.next_line()));
    }
    (lines, buffer.is_torn(), dropped)
}

#[test]
fn lines_come_out_whole_and_byte_for_byte_whatever_the_pieces() {
    let text = format!("{LINE_612}\n{LINE_54}\n\nCPU:0 [LOST 3 EVENTS]\n{LINE_NMI}");
    let expected: Vec<_> = text.lines().take(4).map(|line| line.as_bytes().to_vec()).collect();
    for piece in 1..text.len() + 1 {
        assert_eq!(lines(text.as_bytes(), piece), (expected.clone(), true, 0), "{piece}");
    }
    assert!(!lines(format!("{text}\n").as_bytes(), 7).1);
}

#[test]
fn a_line_without_end_is_dropped_once_and_the_next_one_is_read() {
    let mut bytes = b"first\n".to_vec();
    bytes.extend(vec![b'x'; 100_000]);
    bytes.extend(b"rest of it\nlast\n");
    for piece in [1, 100, 8192, 1 << 20] {
        let (lines, torn, dropped) = lines(&bytes, piece);
        assert_eq!(lines.first(), Some(&b"first".to_vec()), "{piece}");
        assert_eq!(lines.last(), Some(&b"last".to_vec()), "{piece}");
        assert!(!torn && dropped <= 1, "{piece}");
    }
    assert_eq!(lines(&bytes[..50_000], 100), (vec![b"first".to_vec()], true, 1));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_memory_is_bounded(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..4096),
        piece in 1usize..600,
    ) {
        let (lines, _, _) = lines(&bytes, piece);
        for line in lines {
            let _ = parse(&String::from_utf8_lossy(&line));
        }
    }

    #[test]
    fn no_text_around_the_words_makes_it_panic(before in ".{0,40}", after in ".{0,60}") {
        for word in ["inner/outer(us):", "sample_threshold:", "CPU:"] {
            let _ = parse(&format!("{before}{word}{after}"));
        }
    }

    #[test]
    fn every_sample_is_read_back_as_printed(
        inner in any::<u64>(), outer in any::<u64>(), count in 1u32.., seq in 1u32..,
        seconds in 0u64..4_000_000_000, nanos in 0u64..1_000_000_000, nmi in 0u64..5,
    ) {
        let mut line = format!(
            "{:>16}-{:<7} [{:03}] {} {:>12}: #{seq:<5} inner/outer(us): {inner:>4}/{outer:<5} \
             ts:{seconds}.{nanos:09} count:{count}",
            "hwlatd", 71, 1, "d....", 2_468_013_579u64,
        );
        if nmi > 0 {
            line += &format!(" nmi-total:{} nmi-count:{nmi}", nmi * 2);
        }
        let sample = HwlatSample {
            inner_us: inner,
            outer_us: outer,
            wall_ns: seconds * 1_000_000_000 + nanos,
            count: Some(count.into()),
            nmi_count: nmi,
            nmi_total_us: (nmi > 0).then_some(nmi * 2),
        };
        prop_assert_eq!(parse(&line), Parsed::Hwlat(AT, sample));
    }

    #[test]
    fn whatever_is_claimed_lies_between_start_and_line(
        inner_us in any::<u64>(), outer_us in any::<u64>(), wall_ns in any::<u64>(),
        count in proptest::option::of(any::<u64>()), tsc in any::<u64>(), start in any::<u64>(),
    ) {
        let placing = Placing { tsc_start: start, ..PLACING };
        let sample = HwlatSample { inner_us, outer_us, wall_ns, count, ..SAMPLE };
        let at = Context { tsc, ..AT };
        if let Some(placed) = placing.hwlat(at, sample, CLOCK) {
            let record = placed.record;
            prop_assert!(record.tsc_begin - placed.earlier_ticks >= start);
            prop_assert!(record.tsc_end <= tsc && record.tsc_begin <= record.tsc_end);
        }
    }
}

/// One tick a nanosecond; the wall clock showed 1 700 000 004 s at 5 s on the TSC.
const CLOCK: WallClock = WallClock { tsc: 5_000_000_000, wall_ns: 1_700_000_004_000_000_000 };
const PLACING: Placing =
    Placing { khz: 1_000_000, tsc_start: 1_000_000_000, width: Duration::from_millis(500) };
/// The line was written at 4.5 s; `SAMPLE` says 4.25 s.
const WRITTEN: Context = Context { tsc: 4_500_000_000, ..AT };

fn placed(sample: HwlatSample) -> Placed {
    PLACING.hwlat(WRITTEN, sample, CLOCK).unwrap()
}

#[test]
fn the_only_gap_of_a_window_is_where_the_wall_clock_says() {
    let found = placed(HwlatSample { count: Some(1), ..SAMPLE });
    assert_eq!(found.record.tsc_end, 4_250_000_000);
    assert_eq!(found.record.ticks(), 8_121_000);
    assert_eq!((found.earlier_ticks, found.more), (0, 0));
    assert_eq!((found.record.cpu_begin, found.record.cpu_end), (1, 1));
    // The outer gap comes before the inner one of the same turn; they are never added.
    let outer = placed(HwlatSample { count: Some(1), outer_us: 9000, ..SAMPLE });
    assert_eq!(outer.record.ticks(), 9_000_000);
    assert_eq!((outer.record.tsc_end, outer.earlier_ticks), (4_250_000_000, 8_121_000));
}

#[test]
fn the_longest_of_several_is_after_the_first() {
    let found = placed(SAMPLE);
    assert_eq!(found.record.tsc_end, 4_500_000_000);
    assert_eq!((found.earlier_ticks, found.more), (250_000_000, 1));
}

#[test]
fn before_5_7_it_is_somewhere_in_the_window() {
    let found = placed(HwlatSample { count: None, ..SAMPLE });
    assert_eq!(found.record.tsc_end, 4_250_000_000);
    assert_eq!((found.earlier_ticks, found.more), (500_001_000, 0));
}

#[test]
fn a_wall_clock_that_was_set_says_nothing() {
    for wall_ns in [0, 1, u64::MAX, 1_700_000_003_600_000_000] {
        let found = placed(HwlatSample { wall_ns, count: Some(1), ..SAMPLE });
        assert_eq!((found.record.tsc_end, found.earlier_ticks), (4_500_000_000, 500_001_000));
    }
}

#[test]
fn what_began_before_the_meter_is_not_believed() {
    let long = HwlatSample { inner_us: 4_000_000, count: Some(1), ..SAMPLE };
    assert_eq!(PLACING.hwlat(WRITTEN, long, CLOCK), None);
    assert_eq!(PLACING.hwlat(WRITTEN, HwlatSample { inner_us: u64::MAX, ..SAMPLE }, CLOCK), None);
    let osnoise = OsnoiseSample { duration_ns: 3_500_000_001, interference: 0 };
    assert_eq!(PLACING.osnoise(WRITTEN, osnoise), None);
}

#[test]
fn only_what_this_kernel_cannot_have_done_is_the_hosts() {
    assert_eq!(placed(SAMPLE).record.class, Class::Host);
    let nmi = |total_us| {
        let sample = HwlatSample { nmi_count: 1, nmi_total_us: total_us, ..SAMPLE };
        placed(sample).record.class
    };
    assert_eq!(nmi(Some(10)), Class::Host);
    assert_eq!(nmi(Some(8000)), Class::Unknown);
    assert_eq!(nmi(None), Class::Unknown);
    let osnoise = |interference| {
        let sample = OsnoiseSample { duration_ns: 2_000_000, interference };
        let placed = PLACING.osnoise(WRITTEN, sample).unwrap();
        assert_eq!((placed.record.tsc_end, placed.earlier_ticks), (WRITTEN.tsc, 0));
        placed.record.class
    };
    assert_eq!((osnoise(0), osnoise(1)), (Class::Host, Class::Unknown));
}

fn load() -> LoadSpec {
    LoadSpec {
        name: None,
        groups: groups(8),
        kind: Kind::Threads,
        cpus: vec![0, 1],
        seed: 0,
        duration: Duration::from_secs(1),
        warmup: Duration::ZERO,
        floor: Duration::from_micros(100),
        threshold: None,
        records_per_thread: 1,
    }
    .for_meter()
}

#[test]
fn a_cpu_is_a_thread_of_the_report() {
    let load = load();
    assert_eq!((load.groups.len(), load.threads()), (1, 2));
    let mut tallies = Tallies::new(&load, 1_000_000);
    let placed = placed(SAMPLE);
    assert_eq!(tallies.gap(71, &placed), Some((1, true)));
    // No room for a second record; it still counts.
    assert_eq!(tallies.gap(71, &placed), Some((1, false)));
    let mut elsewhere = placed;
    elsewhere.record.cpu_end = 7;
    assert_eq!(tallies.gap(71, &elsewhere), None);
    let tick = tallies.tick(1);
    assert_eq!((tick.second, tick.online), (1, 2));
    assert_eq!(tick.longest.map(|gap| (gap.thread, gap.record)), Some((1, placed.record)));
    assert_eq!(tallies.tick(2).longest, None);
    let time = ThreadTime { ran_ns: 30, waited_ns: 4 };
    let threads = tallies.threads(&[None, Some(time)], &[10, 20]);
    assert_eq!((threads[0].gaps, threads[0].busy_ticks, threads[0].run_delay_ns), (0, 10, None));
    let found = &threads[1];
    assert_eq!((found.tid, found.gaps, found.gaps_unrecorded), (71, 2, 1));
    assert_eq!((found.gap_ticks, found.longest), (2 * 8_121_000, Some(placed.record)));
    assert_eq!((found.cpu_time_ns, found.run_delay_ns, found.busy_ticks), (30, Some(4), 20));
    let mut report = MeterReport::default();
    tallies.complete(&mut report);
    assert_eq!(report.unmeasured_gaps, [0, 2]);
}

#[test]
fn osnoise_measures_while_others_have_its_cpu_and_hwlat_does_not() {
    let time = ThreadTime { ran_ns: 30, waited_ns: 4 };
    assert_eq!(time.measured_ns(Kernels::Hwlat, 50), 30);
    assert_eq!(time.measured_ns(Kernels::Osnoise, 20), 34);
    // Interrupts that the scheduler does not count.
    assert_eq!(time.measured_ns(Kernels::Osnoise, 50), 50);
}

#[test]
fn the_scheduler_says_how_long_the_kernels_threads_ran() {
    let proc = tree(&[
        ("1/comm", "schedvmm\n"),
        ("1/schedstat", "9 9 9\n"),
        ("70/comm", "hwlatd/0\n"),
        ("70/schedstat", "100 20 3\n"),
        ("71/comm", "hwlatd/1\n"),
        ("71/schedstat", "0 0 0\n"),
        ("72/comm", "hwlatd/9\n"),
        ("73/comm", "osnoise/1\n"),
        ("73/schedstat", "7 8 9\n"),
    ]);
    let time = |ran_ns, waited_ns| Some(ThreadTime { ran_ns, waited_ns });
    let times = |which| tallies::times(proc.path(), which, &[0, 1]);
    // A kernel that counts nothing says 0.
    assert_eq!(times(Kernels::Hwlat), [time(100, 20), None]);
    assert_eq!(times(Kernels::Osnoise), [None, time(7, 8)]);
    fs::write(proc.path().join("1/comm"), "hwlatd\n").unwrap();
    fs::write(proc.path().join("1/schedstat"), "90 8 9\n").unwrap();
    for stale in ["70", "71"] {
        fs::write(proc.path().join(stale).join("comm"), "x").unwrap();
    }
    assert_eq!(times(Kernels::Hwlat), [time(45, 4), time(45, 4)]);
}

fn spec(kind: MeterKind) -> MeterSpec {
    MeterSpec {
        kind,
        window: Duration::from_secs(1),
        width: Duration::from_millis(500),
        mode: MeterMode::PerCpu,
    }
}

fn set_up(spec: &MeterSpec, root: &Path) -> Result<Meter, MeterError> {
    Meter::set_up(spec, &load(), Ok(root.to_owned()))
}

#[test]
fn a_meter_that_is_missing_names_what_it_needs_and_auto_goes_without() {
    let root = tree(&[("available_tracers", "function nop\n")]);
    for (kind, config) in [
        (MeterKind::Hwlat, "CONFIG_HWLAT_TRACER=y"),
        (MeterKind::Osnoise, "CONFIG_OSNOISE_TRACER=y"),
    ] {
        let error = set_up(&spec(kind), root.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(config) && text.contains("function nop"), "{text}");
        assert_eq!(error.owner(), Owner::Kernel);
    }
    let auto = set_up(&spec(MeterKind::Auto), root.path()).unwrap();
    assert_eq!(auto.facts().kind, MeterKind::Rdtsc);
    assert!(auto.facts().note.as_ref().unwrap().contains("CONFIG_HWLAT_TRACER=y"));
    // No tracefs at all: no kernel is said to lack what nobody could look for.
    let without = |kind| Meter::set_up(&spec(kind), &load(), Err(Obstacle::NeedsRoot));
    let auto = without(MeterKind::Auto).unwrap();
    assert_eq!(auto.facts().kind, MeterKind::Rdtsc);
    assert_eq!(auto.facts().note.as_deref(), Some("hwlat is not there: it needs root"));
    let text = without(MeterKind::Osnoise).unwrap_err().to_string();
    assert!(text.starts_with("the osnoise tracer cannot be looked for: it needs root"), "{text}");
    let rdtsc = set_up(&spec(MeterKind::Rdtsc), root.path()).unwrap();
    assert_eq!((rdtsc.facts().kind, &rdtsc.facts().note), (MeterKind::Rdtsc, &None));
}

/// tracefs as far as hwlat goes, for want of the kernel: files that keep what is written.
const TRACEFS: [(&str, &str); 9] = [
    ("available_tracers", "hwlat nop\n"),
    ("tracing_on", "1"),
    ("current_tracer", "function"),
    ("events/enable", "0"),
    ("buffer_size_kb", "1408"),
    ("tracing_cpumask", "f"),
    ("tracing_thresh", "0"),
    ("hwlat_detector/window", "1000000"),
    ("hwlat_detector/width", "500000"),
];

#[test]
fn a_value_that_does_not_hold_is_an_error_with_both() {
    let root = tree(&TRACEFS);
    let error = set_up(&spec(MeterKind::Hwlat), root.path()).unwrap_err();
    assert!(error.to_string().contains("trace_clock cannot be set to `x86-tsc`"), "{error}");
    fs::write(root.path().join("trace_clock"), "").unwrap();
    // 5.14 and later have a file for the mode; there was one mode before.
    let error = set_up(&spec(MeterKind::Hwlat), root.path()).unwrap_err();
    assert!(matches!(error, MeterError::NoMode { mode: "per-cpu" }), "{error}");
    let spec = MeterSpec { mode: MeterMode::RoundRobin, ..spec(MeterKind::Hwlat) };
    // This file does not answer with the clock in brackets.
    let error = set_up(&spec, root.path()).unwrap_err();
    assert!(error.to_string().contains("holds `x86-tsc` after `x86-tsc`"), "{error}");
    let read = |file: &str| fs::read_to_string(root.path().join(file)).unwrap();
    assert_eq!(
        (read("tracing_thresh"), read("tracing_cpumask")),
        ("100".into(), "00000003".into())
    );
    // Whatever became of it, it is off.
    assert_eq!((read("tracing_on"), read("current_tracer")), ("0".into(), "nop".into()));
}

#[test]
fn windows_that_cannot_be_are_the_users_fault() {
    for (window_us, width_us) in [(1_000, 1_001), (1_000, 0), (0, 0)] {
        let spec = MeterSpec {
            window: Duration::from_micros(window_us),
            width: Duration::from_micros(width_us),
            ..spec(MeterKind::Hwlat)
        };
        let error = set_up(&spec, Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.owner(), Owner::Request, "{error}");
    }
}
