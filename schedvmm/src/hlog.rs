// SPDX-License-Identifier: Apache-2.0
//! Distributions as an HdrHistogram log: any tool for that format plots them, and merges those
//! of several runs.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::result::Thread;

/// Values keep three decimal digits: finer than the buckets they come from.
const DIGITS: u8 = 3;

/// Writes two histograms for each thread, in nanoseconds: gaps with the tag `gap-THREAD`,
/// wake-up delays with the tag `wakeup-THREAD`.
pub fn write(sink: &mut impl Write, threads: &[Thread]) -> io::Result<()> {
    let mut serializer = V2Serializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .with_start_time(SystemTime::UNIX_EPOCH)
        .with_max_value_divisor(1.0)
        .add_comment("schedvmm: lengths in nanoseconds")
        .begin_log_with(sink, &mut serializer)?;
    for thread in threads {
        let report = &thread.report;
        let length = Duration::from_nanos(thread.statistics.wanted_ns);
        let both = [("gap", &report.gap_histogram_ns), ("wakeup", &report.wakeup_histogram_ns)];
        for (name, buckets) in both {
            let name = format!("{name}-{}", thread.thread);
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
        histogram.record_n(bound, count)?;
    }
    Ok(histogram)
}
