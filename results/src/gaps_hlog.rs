// SPDX-License-Identifier: Apache-2.0
//! Distributions as an HdrHistogram log: any tool for that format plots them, and merges those
//! of several runs.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::model::Thread;

/// So many of one length are more than any run has; what is claimed beyond does not fit the format.
const MAX_COUNT: u64 = 1 << 40;
/// Values keep three decimal digits: finer than the buckets they come from.
const DIGITS: u8 = 3;

/// Writes two histograms for each thread, in nanoseconds: gaps with the tag `gap-GROUP.THREAD`,
/// wake-up delays with the tag `wakeup-GROUP.THREAD`. Where gaps ended after the one that ended the
/// run, they are in a third one, `after-hit-GROUP.THREAD`: `after_hit_ns` are their lengths, by
/// thread.
///
/// # Errors
/// Those of the sink.
pub fn write(
    sink: &mut impl Write,
    threads: &[Thread],
    after_hit_ns: &[Vec<u64>],
) -> io::Result<()> {
    let mut serializer = V2Serializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .with_start_time(SystemTime::UNIX_EPOCH)
        .with_max_value_divisor(1.0)
        .add_comment("schedvmm: lengths in nanoseconds")
        .begin_log_with(sink, &mut serializer)?;
    for (index, thread) in threads.iter().enumerate() {
        let report = &thread.report;
        let length = Duration::from_nanos(thread.statistics.wanted_ns);
        let later = after_hit_ns.get(index).into_iter().flatten();
        let later: Vec<_> = later.map(|length_ns| (*length_ns, 1)).collect();
        let both = [("gap", &report.gap_histogram_ns), ("wakeup", &report.wakeup_histogram_ns)];
        let later = Some(("after-hit", &later)).filter(|(_, later)| !later.is_empty());
        for (name, buckets) in both.into_iter().chain(later) {
            let name = format!("{name}-{}", thread.who);
            let tag = Tag::new(&name).ok_or_else(|| io::Error::other("a tag of a log"))?;
            let histogram = histogram(buckets).map_err(io::Error::other)?;
            log.write_histogram(&histogram, Duration::ZERO, length, Some(tag))
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
    }
    Ok(())
}

fn histogram(
    buckets: &[(u64, u64)],
) -> Result<Histogram<u64>, Box<dyn std::error::Error + Send + Sync>> {
    let mut histogram = Histogram::new(DIGITS)?;
    for &(bound, count) in buckets {
        histogram.record_n(bound, count.min(MAX_COUNT))?;
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use protocol::report::ThreadReport;

    use super::*;
    use crate::model::Numbers;
    use crate::testing;

    fn thread(thread: u32, gaps: &[(u64, u64)]) -> Thread {
        let report = ThreadReport {
            gap_histogram_ns: gaps.to_vec(),
            wakeup_histogram_ns: vec![(7, 1)],
            ..ThreadReport::default()
        };
        testing::thread(Numbers { group: 1, thread }, report)
    }

    #[test]
    fn what_is_written_is_read_again_and_merges() {
        let mut log = Vec::new();
        let threads = [thread(1, &[(1_000_000, 3), (50_000_000, 1)]), thread(2, &[(1_000_000, 2)])];
        write(&mut log, &threads, &[vec![50_000_000], vec![]]).expect("written");
        let (mut tags, mut all) = (Vec::new(), Histogram::<u64>::new(DIGITS).expect("made"));
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(entry) = entry.expect("readable") else { continue };
            let tag = entry.tag().expect("a tag").as_str().to_owned();
            let encoded = entry.encoded_histogram().as_bytes();
            let bytes = unbase64(encoded);
            let one: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
            if tag.starts_with("gap-") {
                all.add(one).expect("merged");
            }
            tags.push(tag);
        }
        assert_eq!(tags, ["gap-1.1", "wakeup-1.1", "after-hit-1.1", "gap-1.2", "wakeup-1.2"]);
        assert_eq!((all.len(), all.count_at(1_000_000), all.count_at(50_000_000)), (6, 5, 1));
    }

    /// RFC 4648, as the log has it.
    fn unbase64(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
        for digit in text.iter().take_while(|digit| **digit != b'=') {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                other => panic!("{other} is no digit"),
            };
            bits = bits << 6 | u32::from(value);
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push(u8::try_from(bits >> count & 0xff).expect("masked"));
            }
        }
        bytes
    }
}
