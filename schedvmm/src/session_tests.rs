// SPDX-License-Identifier: Apache-2.0
//! Tests of [`super`].

use protocol::error::Owner;
use protocol::frame::{encode_gaps, encode_message};
use protocol::report::ThreadReport;

use super::*;

const LIMITS: Limits = Limits {
    threads: 2,
    records_per_thread: 3,
    boot: Duration::from_secs(60),
    vms: 0,
    allow_degraded: false,
};

fn bytes(message: &Message) -> Vec<u8> {
    encode_message(message).expect("encodes")
}

#[test]
fn a_run_goes_through_its_stages() {
    let start = Instant::now();
    let mut session = Session::new(LIMITS, start);
    assert_eq!(session.deadline(), start + LIMITS.boot);
    let steps = [
        (Message::Hello(Hello::default()), Stage::Setup),
        (Message::Ready(Setup::default()), Stage::Run),
        (Message::Tick(Tick::default()), Stage::Run),
        (Message::Finished(LoadReport::default()), Stage::Finish),
        (Message::Trace(TraceProgress::End { bytes: 7 }), Stage::Finish),
        (Message::Bye, Stage::PowerOff),
    ];
    for (n, (message, stage)) in (1..).zip(steps) {
        let now = start + Duration::from_secs(n);
        session.take(&bytes(&message), now).expect("understood");
        assert_eq!(session.stage(), stage);
        assert!(session.deadline() > now);
    }
    let stages: Vec<_> = session.entered.iter().map(|(stage, _)| *stage).collect();
    let all = [Stage::Boot, Stage::Setup, Stage::Run, Stage::Finish, Stage::PowerOff];
    assert_eq!(stages, all);
    assert_eq!((session.trace_bytes, session.bye), (Some(7), true));
}

#[test]
fn silence_is_measured_from_the_last_word() {
    let start = Instant::now();
    let mut session = Session::new(LIMITS, start);
    session.take(&bytes(&Message::Hello(Hello::default())), start).expect("understood");
    session.take(&bytes(&Message::Ready(Setup::default())), start).expect("understood");
    let later = start + Duration::from_secs(9);
    session.take(&bytes(&Message::Tick(Tick::default())), later).expect("understood");
    assert_eq!(session.deadline(), later + HEARTBEAT_DEADLINE);
    session.progressed(later + Duration::from_secs(1));
    assert_eq!(session.deadline(), later + Duration::from_secs(1) + HEARTBEAT_DEADLINE);
}

#[test]
fn a_hostile_guest_cannot_make_us_keep_more_than_agreed() {
    let now = Instant::now();
    let mut session = Session::new(LIMITS, now);
    let gap = GapRecord { tsc_begin: 1, tsc_end: 2, ..GapRecord::default() };
    for thread in [0, 1] {
        for _ in 0..2 {
            let frame = encode_gaps(thread, &[gap; 2]).expect("encodes");
            session.take(&frame, now).expect("understood");
        }
    }
    for second in (0..).take(MAX_TICKS + 1) {
        session.message(Message::Tick(Tick { second, ..Tick::default() }), now);
    }
    assert_eq!(session.ticks.len(), MAX_TICKS);
    assert_eq!(session.gaps.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    assert!(session.take(&[0xff; 64], now).is_err());
}

#[test]
fn what_the_host_took_is_kept_of_so_many_gaps() {
    let gap = |tsc_begin| GapRecord { tsc_begin, tsc_end: u64::MAX, ..GapRecord::default() };
    let time = |known, most| HostTime { known, most };
    let part = |begin, time| HostPart { thread: 1, gap: gap(begin), time };
    let mut parts = HostParts::default();
    for begin in (0..MAX_HOST_PARTS as u64 + 9).rev() {
        parts.insert(part(begin, Some(time(1, (begin % 2 == 0).then_some(begin)))));
    }
    let most = MAX_HOST_PARTS as u64 + 8;
    assert_eq!(parts.0.len(), MAX_HOST_PARTS);
    assert_eq!(parts.of(1, &gap(most)), time(1, Some(most)));
    assert_eq!(parts.of(1, &gap(9)), time(1, None));
    assert_eq!(parts.of(1, &gap(8)), time(0, None), "there was no room left");
    assert_eq!(parts.of(0, &gap(9)), time(0, None), "another thread's");
    // The first word stands, as long as it is one.
    parts.insert(part(9, Some(time(2, Some(7)))));
    assert_eq!(parts.of(1, &gap(9)), time(1, None));
}

#[test]
fn what_cannot_be_is_not_believed() {
    let now = Instant::now();
    let refused = |bytes: &[u8]| {
        let error = Session::new(LIMITS, now).take(bytes, now).expect_err("refused");
        error.to_string()
    };
    let gap = |thread, tsc_begin, tsc_end| Gap {
        thread,
        record: GapRecord { tsc_begin, tsc_end, ..GapRecord::default() },
    };
    let hit = |gap| bytes(&Message::ThresholdHit(ThresholdHit { tid: 1, gap }));
    let tick = |gap| bytes(&Message::Tick(Tick { longest: Some(gap), ..Tick::default() }));
    let finished = |count, gap: Gap| {
        let thread = ThreadReport { longest: Some(gap.record), ..ThreadReport::default() };
        let threads = vec![thread; count];
        bytes(&Message::Finished(LoadReport { threads, ..LoadReport::default() }))
    };
    let records = |gap: Gap| encode_gaps(gap.thread, &[gap.record]).expect("encodes");
    let (none, far) = (gap(2, 1, 2), gap(u32::MAX, 1, 2));
    for bytes in [hit(none), tick(none), records(none), hit(far), tick(far), finished(3, none)] {
        let error = refused(&bytes);
        assert!(error.contains("of a load of 2"), "{error}");
    }
    assert!(refused(&hit(none)).contains("thread 3 of"));
    let back = gap(0, 7, 6);
    for bytes in [hit(back), tick(back), records(back), finished(1, back)] {
        assert_eq!(refused(&bytes), "a gap that ended before it began, at tick 7");
    }
}

#[test]
fn a_guest_that_asks_for_its_ring_waits_for_an_answer() {
    let now = Instant::now();
    let mut session = Session::new(LIMITS, now);
    let asks = bytes(&Message::Trace(TraceProgress::InMemory));
    let notices = session.take(&asks, now).expect("understood");
    assert!(matches!(notices[..], [Notice::TraceInMemory]), "{notices:?}");
    // It is no word about the trace's length.
    assert_eq!(session.trace_bytes, None);
}

#[test]
fn a_failure_is_the_last_word() {
    let now = Instant::now();
    let mut session = Session::new(LIMITS, now);
    let failure = Failure { owner: Owner::Kernel, text: "no".into() };
    session.take(&bytes(&Message::Failed(failure.clone())), now).expect("understood");
    assert_eq!((session.stage(), session.failure), (Stage::PowerOff, Some(failure)));
}
