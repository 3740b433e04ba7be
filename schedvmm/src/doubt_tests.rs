// SPDX-License-Identifier: Apache-2.0
//! Whose a gap over the threshold is, as a table and as rules that always hold.

use std::time::Instant;

use gaps::record::GapRecord;
use gaps::tally::ClassTotal;
use proptest::prelude::*;
use protocol::job::{CoschedRequest, Job, LoadSpec};
use protocol::message::{Gap, Setup, ThresholdHit};
use protocol::noise::CpuNoise;
use protocol::report::{LoadReport, ThreadReport, TscReport};
use results::model::Answer;

use super::*;
use crate::session::{HostPart, HostTime, Session};
use crate::testing::{self, load};
use crate::verdict::{End, Verdict, judge};

const MS: u64 = 1_000_000;
const THRESHOLD: Duration = Duration::from_millis(100);

/// What is known of a run with one gap. Times are milliseconds, and a tick is a nanosecond.
#[derive(Clone, Copy, Debug)]
struct Made {
    class: Class,
    length: u64,
    /// What the host took of it for certain.
    known: u64,
    /// And at most.
    host: Option<u64>,
    /// Whether the guest stopped at it.
    hit: bool,
    /// In other gaps, shorter ones, of a second.
    stolen: u64,
    noise: Option<&'static str>,
    report: bool,
    on_hardware: bool,
}

/// A gap of the scheduler's of which nothing else is known.
const PLAIN: Made = Made {
    class: Class::ScheduledOut,
    length: 121,
    known: 0,
    host: None,
    hit: true,
    stolen: 0,
    noise: None,
    report: false,
    on_hardware: false,
};

/// Of two CPUs for half a second: lost in all, the longest, and what made all of it.
fn noise(name: &str) -> NoiseFloor {
    let (share, longest, class) = match name {
        "quiet" => (0.004, 1, Class::Unknown),
        "lost" => (0.957, 20, Class::Unknown),
        "long" => (0.1, 100, Class::Unknown),
        "others" => (0.1, 150, Class::ScheduledOut),
        _ => panic!("{name}"),
    };
    let total = ClassTotal { class, gaps: 1, gap_ticks: 7 * longest };
    let cpu = CpuNoise {
        gaps: 1,
        gap_ns: longest * MS,
        longest_ns: longest * MS,
        classes: vec![total],
        ..CpuNoise::default()
    };
    let cpus = vec![CpuNoise::default(), cpu];
    NoiseFloor { gap_share: share, longest_ns: longest * MS, cpus, ..NoiseFloor::default() }
}

fn insert(session: &mut Session, gap: GapRecord, time: HostTime) {
    session.host_parts.insert(HostPart { thread: 0, gap, time: Some(time) });
}

fn session(made: Made) -> Session {
    let mut session = Session::new(testing::limits(1), Instant::now());
    let begin = 500 * MS;
    let record = GapRecord {
        tsc_begin: begin,
        tsc_end: begin + made.length * MS,
        class: made.class,
        ..GapRecord::default()
    };
    let stolen =
        GapRecord { tsc_begin: 1, tsc_end: 1 + made.stolen * MS, class: Class::Host, ..record };
    session.gaps[0] = vec![stolen, record];
    let most = made.host.map(|ms| ms * MS);
    insert(&mut session, record, HostTime { known: made.known * MS, most });
    session.hit = made.hit.then_some(ThresholdHit { tid: 1, gap: Gap { thread: 0, record } });
    let noise = made.noise.map(noise);
    session.setup = Some(Setup { tsc_khz: 1_000_000, noise, ..Setup::default() });
    let thread = ThreadReport {
        busy_ticks: 1000 * MS,
        gaps: 2,
        gap_ticks: record.ticks() + stolen.ticks(),
        longest: Some(record),
        classes: crate::analysis::parted::classes(&session.gaps[0]),
        ..ThreadReport::default()
    };
    let tsc = TscReport { khz: 1_000_000, ..TscReport::default() };
    session.report = Some(LoadReport {
        tsc,
        tsc_end: 1000 * MS,
        threads: vec![thread],
        ..LoadReport::default()
    });
    session
}

fn verdict(made: Made) -> Verdict {
    verdict_of(&session(made), made)
}

fn verdict_of(session: &Session, made: Made) -> Verdict {
    let terms = Terms {
        steal_budget: 0.005,
        noise_budget: 0.1,
        report_contaminated: made.report,
        on_hardware: made.on_hardware,
    };
    let load = LoadSpec { threshold: Some(THRESHOLD), ..load(1, 1, 1) };
    let job = Job::new(load, CoschedRequest::None);
    judge(session, &job, terms, &End::Finished, "")
}

/// The noise floor that was met after the load says as much as the one before it.
fn with_noise_afterwards(mut session: Session) -> Session {
    let setup = session.setup.as_mut().expect("it started");
    let report = session.report.as_mut().expect("it ended");
    report.noise_after = setup.noise.replace(noise("quiet"));
    session
}

#[test]
fn only_what_no_host_explains_is_over_the_threshold() {
    use Class::{Host, Irq, ScheduledOut, Unknown};
    use ReasonCode as Code;
    let long = |class, host| Made { class, host, ..PLAIN };
    let fails = (Answer::OverThreshold, None);
    let none = |code| (Answer::Untestable, Some(code));
    for (made, expected) in [
        // No evidence of the host's: the guest's own records of switches are believed.
        (long(ScheduledOut, None), fails),
        // Some of it was lost; what is left is enough, or is not.
        (Made { known: 20, ..long(ScheduledOut, None) }, fails),
        (Made { known: 21, ..long(ScheduledOut, None) }, none(Code::HostTook)),
        (long(Host, None), none(Code::HostUnknown)),
        (long(Unknown, None), none(Code::HostUnknown)),
        (long(Irq, None), none(Code::HostUnknown)),
        (Made { on_hardware: true, ..long(Irq, None) }, fails),
        (Made { on_hardware: true, ..long(Unknown, None) }, none(Code::HostUnknown)),
        (Made { on_hardware: true, ..long(Host, None) }, none(Code::HostUnknown)),
        // The vCPUs were there all the time, or for long enough.
        (long(ScheduledOut, Some(0)), fails),
        (long(ScheduledOut, Some(20)), fails),
        (long(Unknown, Some(0)), fails),
        (long(Irq, Some(20)), fails),
        (Made { report: true, ..long(Host, Some(20)) }, fails),
        // It is in the run's account of steal, too.
        (long(Host, Some(20)), none(Code::Contaminated)),
        // They were not.
        (long(ScheduledOut, Some(21)), none(Code::HostTook)),
        (long(Unknown, Some(80)), none(Code::HostTook)),
        (long(Irq, Some(121)), none(Code::HostTook)),
        (long(Host, Some(121)), none(Code::HostTook)),
        // Whoever found it.
        (Made { hit: false, ..PLAIN }, fails),
        (Made { hit: false, ..long(Host, Some(80)) }, none(Code::HostTook)),
        // Beyond a budget.
        (Made { stolen: 5, ..PLAIN }, fails),
        (Made { stolen: 6, ..PLAIN }, none(Code::Contaminated)),
        (Made { stolen: 6, ..long(ScheduledOut, Some(0)) }, none(Code::Contaminated)),
        (Made { noise: Some("quiet"), ..PLAIN }, fails),
        (Made { noise: Some("lost"), ..PLAIN }, none(Code::Noisy)),
        (Made { noise: Some("long"), ..PLAIN }, none(Code::Noisy)),
        (Made { noise: Some("others"), ..PLAIN }, fails),
        // As the user wants it; a gap that is the host's is one all the same.
        (Made { stolen: 6, report: true, ..PLAIN }, fails),
        (Made { noise: Some("lost"), report: true, ..PLAIN }, fails),
        (Made { noise: Some("long"), report: true, ..PLAIN }, fails),
        (Made { stolen: 6, report: true, ..long(Unknown, None) }, none(Code::HostUnknown)),
        (Made { report: true, ..long(ScheduledOut, Some(21)) }, none(Code::HostTook)),
        // No gap, no doubt.
        (Made { length: 100, hit: false, ..PLAIN }, (Answer::Pass, None)),
        (Made { length: 99, hit: false, stolen: 60, ..PLAIN }, (Answer::Pass, None)),
        (Made { length: 99, hit: false, noise: Some("lost"), ..PLAIN }, (Answer::Pass, None)),
    ] {
        let found = verdict(made);
        assert_eq!((found.answer, found.code), expected, "{made:?}: {}", found.reason);
        assert_eq!(found.reason.is_empty(), found.code.is_none(), "{found:?}");
        let noted = made.report && found.answer == Answer::OverThreshold;
        assert_eq!(found.note.is_some(), noted, "{found:?}");
    }
}

#[test]
fn a_reason_names_its_figures() {
    let host = Made { class: Class::Host, host: Some(80), ..PLAIN };
    let lost = Made { noise: Some("lost"), ..PLAIN };
    for (made, says) in [
        (host, &["121.0 ms over 100ms", "took up to 80.0 ms of it, which leaves 41.0 ms"][..]),
        (Made { host: None, ..host }, &["121.0 ms", "its class is host"]),
        (Made { stolen: 6, ..PLAIN }, &["took 0.60 % of the time", "--steal-budget 0.50 %"]),
        (lost, &["95.7 % of the time was lost", "--noise-budget 10.0 %", "--on-contaminated"]),
        (Made { noise: Some("long"), ..PLAIN }, &["there was one of 100.0 ms"]),
    ] {
        let reason = verdict(made).reason;
        assert!(says.iter().all(|words| reason.contains(words)), "{reason}");
    }
    let note = verdict(Made { report: true, ..lost }).note.expect("a note");
    assert!(note.contains("--on-contaminated report says: without a load 95.7 %"), "{note}");
}

/// One of several that is the kernel's is enough.
#[test]
fn a_gap_of_the_hosts_hides_no_other() {
    let job =
        Job::new(LoadSpec { threshold: Some(THRESHOLD), ..load(1, 1, 1) }, CoschedRequest::None);
    let mut session = session(Made { class: Class::Unknown, host: Some(100), ..PLAIN });
    let answer = |session: &Session| judge(session, &job, Terms::NONE, &End::Finished, "").answer;
    assert_eq!(answer(&session), Answer::Untestable);
    let class = Class::ScheduledOut;
    let other = GapRecord { tsc_begin: 2, tsc_end: 2 + 101 * MS, class, ..GapRecord::default() };
    session.gaps[0].push(other);
    assert_eq!(answer(&session), Answer::OverThreshold);
    insert(&mut session, other, HostTime { known: 0, most: Some(2 * MS) });
    assert_eq!(answer(&session), Answer::Untestable);
}

/// What a meter in place of the load finds is what the machine around it does.
#[test]
fn a_meter_is_there_to_find_the_host() {
    let mut job =
        Job::new(LoadSpec { threshold: Some(THRESHOLD), ..load(1, 1, 1) }, CoschedRequest::None);
    job.meter = Some(protocol::job::MeterSpec {
        kind: protocol::job::MeterKind::Rdtsc,
        window: Duration::ZERO,
        width: Duration::ZERO,
        mode: protocol::job::MeterMode::PerCpu,
    });
    let session = session(Made { class: Class::Host, host: Some(121), ..PLAIN });
    let found = judge(&session, &job, Terms::NONE, &End::Finished, "");
    assert_eq!((found.answer, found.code), (Answer::OverThreshold, None));
}

/// Gaps of machines in the guest are the guest's, unless the host below it explains them.
#[test]
fn gaps_of_machines_are_judged_by_what_the_host_took_and_by_the_noise() {
    use ReasonCode as Code;
    let job = || {
        let load = LoadSpec { threshold: Some(THRESHOLD), ..load(1, 1, 1) };
        let nested = protocol::job::NestedSpec {
            memory_mib: 64,
            own_pages: false,
            vcpus: 1,
            threads_per_core: 1,
            pv: protocol::job::Pv::Clock,
            transport: None,
            cmdlines: Vec::new(),
            confine: protocol::job::Confine::Core,
            boot_confined: false,
            boot_at_once: 1,
            boot_timeout: None,
            boot_stall: Duration::ZERO,
            job: Job::new(load.clone(), CoschedRequest::None),
        };
        Job { nested: Some(Box::new(nested)), ..Job::new(load, CoschedRequest::None) }
    };
    let of = |made: Made| {
        let terms = Terms {
            steal_budget: 0.005,
            noise_budget: 0.1,
            report_contaminated: made.report,
            on_hardware: false,
        };
        let found = judge(&session(made), &job(), terms, &End::Finished, "");
        (found.answer, found.code)
    };
    let host = Made { class: Class::Host, host: Some(20), ..PLAIN };
    let none = |code| (Answer::Untestable, Some(code));
    assert_eq!(of(host), (Answer::OverThreshold, None));
    // What a machine calls its host has no budget: that is the guest.
    assert_eq!(of(Made { stolen: 90, ..host }), (Answer::OverThreshold, None));
    assert_eq!(of(Made { host: Some(21), ..host }), none(Code::HostTook));
    assert_eq!(of(Made { host: None, ..host }), none(Code::HostUnknown));
    assert_eq!(of(Made { host: None, ..PLAIN }), (Answer::OverThreshold, None));
    let lost = Made { noise: Some("lost"), ..host };
    assert_eq!(of(lost), none(Code::Noisy));
    assert_eq!(of(Made { report: true, ..lost }), (Answer::OverThreshold, None));
}

fn made() -> impl Strategy<Value = Made> {
    let class = (0..Class::ALL.len()).prop_map(|index| Class::ALL[index]);
    let noise = prop_oneof![
        Just(None),
        Just(Some("quiet")),
        Just(Some("lost")),
        Just(Some("long")),
        Just(Some("others"))
    ];
    let known = (1..400u64).prop_flat_map(|length| (Just(length), 0..=length));
    (class, known, any::<bool>(), 0..90u64, noise, any::<bool>(), any::<bool>()).prop_map(
        |(class, (length, host), over, stolen, noise, report, on_hardware)| Made {
            class,
            length,
            known: 0,
            host: Some(host),
            hit: over && length > 100,
            stolen,
            noise,
            report,
            on_hardware,
        },
    )
}

proptest! {
    /// Whatever else is true of the run.
    #[test]
    fn a_gap_that_the_host_explains_is_never_a_fail(made in made()) {
        let explained = made.length - made.host.unwrap_or(0) <= 100;
        let found = verdict(made);
        prop_assert!(!explained || found.answer != Answer::OverThreshold, "{found:?}");
        prop_assert_eq!(found.answer == Answer::Pass, made.length <= 100);
        prop_assert_eq!(verdict_of(&with_noise_afterwards(session(made)), made), found);
    }

    /// A gap gets longer by what the host takes, and the host tells how much that was.
    #[test]
    fn time_that_the_host_takes_makes_no_fail(made in made(), more in 0..300u64) {
        let length = made.length + more;
        let host = made.host.map(|host| host + more);
        let longer = Made { length, host, hit: made.hit || length > 100, ..made };
        if verdict(made).answer != Answer::OverThreshold {
            let found = verdict(longer);
            prop_assert!(found.answer != Answer::OverThreshold, "{longer:?} {found:?}");
        }
        // Taken from others, it makes the run one of which nothing is told; or changes nothing.
        let stolen = Made { stolen: (made.stolen + more).min(99), ..made };
        prop_assert!(
            verdict(made).answer == Answer::OverThreshold
                || verdict(stolen).answer != Answer::OverThreshold
        );
    }

    /// Of a run of which less is known, no more is said.
    #[test]
    fn without_evidence_only_the_schedulers_own_gaps_fail(made in made()) {
        let blind = verdict(Made { host: None, ..made });
        let scheduler = made.class == Class::ScheduledOut;
        let irq = made.class == Class::Irq && made.on_hardware;
        prop_assert!(blind.answer != Answer::OverThreshold || scheduler || irq, "{blind:?}");
    }
}
