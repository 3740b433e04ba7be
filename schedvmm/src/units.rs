// SPDX-License-Identifier: Apache-2.0
//! Durations, sizes and pauses as people write and read them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use protocol::duration;
pub use protocol::duration::as_ns;
use protocol::group::{ArrivalSpec, SleepSpec};
use protocol::tunable::{TunableName, TuneRequest};
use results::metric::Quantity;

/// Longest duration accepted: longer than any run, and far from overflow.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// `30s`, `100ms`, `1.875ms`, `50us`, `10ns`, `2m`, `1h30m`, `1d`; the unit is required.
///
/// # Errors
/// What is wrong, for clap to show beside the option.
pub fn duration(text: &str) -> Result<Duration, String> {
    let found = duration::parse(text).map_err(|error| error.to_string())?;
    if found > MAX_DURATION {
        return Err("it is longer than a day: 1d is the longest that is accepted".into());
    }
    Ok(found)
}

/// Like [`duration()`], but not zero.
///
/// # Errors
/// As [`duration()`], or it is zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("it must be longer than zero".into()) } else { Ok(duration) }
}

/// A duration, or `off` for none.
///
/// # Errors
/// As [`positive_duration`].
pub fn optional_duration(text: &str) -> Result<Threshold, String> {
    if text == "off" {
        return Ok(Threshold(None));
    }
    positive_duration(text).map(|duration| Threshold(Some(duration)))
}

/// A threshold that may be off. (clap gives a plain `Option` a meaning of its own.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold(pub Option<Duration>);

/// `4G`, `512M`, `65536K`: whole MiB.
///
/// # Errors
/// What is wrong.
pub fn mebibytes(text: &str) -> Result<u64, String> {
    let kib = kibibytes(text)?;
    if kib % 1024 != 0 { Err(format!("{text} is no whole number of MiB")) } else { Ok(kib / 1024) }
}

/// `4M`, `512K`, `1G`: in KiB.
///
/// # Errors
/// What is wrong.
pub fn kibibytes(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches("iB");
    let (number, factor) = match number.char_indices().last() {
        Some((at, 'G' | 'g')) => (&number[..at], 1 << 20),
        Some((at, 'M' | 'm')) => (&number[..at], 1 << 10),
        Some((at, 'K' | 'k')) => (&number[..at], 1),
        _ => return Err("it needs a unit: K, M or G".into()),
    };
    let value: u64 = number.parse().map_err(|_| format!("\"{number}\" is no whole number"))?;
    value.checked_mul(factor).ok_or_else(|| "it is too large".into())
}

/// `0.5%` or `0.5`, as a part of 1.
///
/// # Errors
/// What is wrong.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end();
    let percent: f64 = number.parse().map_err(|_| format!("\"{text}\" is no percentage"))?;
    if (0.0..=100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err("it must be between 0% and 100%".into())
    }
}

/// A part of 1 as [`percent`] reads it again: with as few digits as that takes, 7% and not
/// 7.000000000000001%.
pub fn percent_text(share: f64) -> String {
    let near = share * 100.0;
    // What was written has been divided and multiplied since: its neighbours, too.
    let exact = [near, near.next_up(), near.next_down()];
    let shorter = (0..17).filter_map(|digits| format!("{near:.digits$e}").parse::<f64>().ok());
    let found = shorter.chain(exact).map(|percent| format!("{percent}%"));
    let found = found.into_iter().find(|text| percent(text) == Ok(share));
    found.unwrap_or_else(|| format!("{near}%"))
}

/// `uniform:0s-1s`, `fixed:500ms`, `exponential:300ms`.
///
/// # Errors
/// What is wrong.
pub fn sleep(text: &str) -> Result<SleepSpec, String> {
    let (kind, value) = text
        .split_once(':')
        .ok_or("it needs a kind: uniform:MIN-MAX, fixed:TIME or exponential:MEAN")?;
    match kind {
        "uniform" => {
            let (min, max) = value.split_once('-').ok_or("uniform needs MIN-MAX")?;
            let (min, max) = (duration(min)?, duration(max)?);
            if min > max {
                return Err(format!("its minimum {min:?} is above its maximum {max:?}"));
            }
            Ok(SleepSpec::Uniform { min, max })
        }
        "fixed" => Ok(SleepSpec::Fixed(duration(value)?)),
        "exponential" => Ok(SleepSpec::Exponential(positive_duration(value)?)),
        other => Err(format!("\"{other}\" is none of uniform, fixed, exponential")),
    }
}

/// `periodic:5ms`, `poisson:5ms`.
///
/// # Errors
/// What is wrong.
pub fn arrival(text: &str) -> Result<ArrivalSpec, String> {
    let (kind, value) =
        text.split_once(':').ok_or("it needs a kind: periodic:TIME or poisson:MEAN")?;
    match kind {
        "periodic" => Ok(ArrivalSpec::Periodic(positive_duration(value)?)),
        "poisson" => Ok(ArrivalSpec::Poisson(positive_duration(value)?)),
        other => Err(format!("\"{other}\" is neither periodic nor poisson")),
    }
}

/// `NAME=VALUE`.
///
/// # Errors
/// There is no `=`, or no such tunable.
pub fn tune(text: &str) -> Result<TuneRequest, String> {
    let (name, value) = text.split_once('=').ok_or("it needs the form NAME=VALUE")?;
    let name = name.parse::<TunableName>().map_err(|error| error.to_string())?;
    Ok(TuneRequest { name, value: value.to_owned(), required: true })
}

/// Words for a kernel's command line.
///
/// # Errors
/// A character that it cannot have.
pub fn kernel_words(text: &str) -> Result<String, String> {
    match text.trim().chars().find(|letter| !matches!(letter, ' '..='~')) {
        Some(letter) => Err(format!("it has the character {letter:?}; use printable ASCII")),
        None => Ok(text.to_owned()),
    }
}

/// A file or folder, which must have a name: what is read is read more than once, and stdout takes
/// other lines.
pub fn named() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| {
        if path.as_os_str() == "-" {
            return Err("neither stdin nor stdout will do: give it a name (./- for a file -)");
        }
        Ok(path)
    })
}

/// `2452.545379`: a time of a trace in seconds, as nanoseconds.
///
/// # Errors
/// What is wrong.
pub fn trace_time_ns(text: &str) -> Result<u64, String> {
    let wanted = "it has the form SECONDS.FRACTION, such as 2452.545379";
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if seconds.is_empty() || fraction.len() > 9 || !is_number(seconds) || !is_number(fraction) {
        return Err(wanted.into());
    }
    let digits = format!("{seconds}{fraction:0<9}");
    digits.parse().map_err(|_| "it is too large".into())
}

/// The same time as [`trace_time_ns`] takes it.
pub fn trace_time(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// A CPU list such as `2,3` or `0-3,8`, in the order written.
///
/// # Errors
/// What is wrong.
pub fn cpu_list(text: &str) -> Result<CpuList, String> {
    each_once(text, |cpu| format!("CPU {cpu} is named twice; once is enough"))
}

/// Such a list of one host CPU for each vCPU.
///
/// # Errors
/// What is wrong; CPUs cannot be shared.
pub fn pins(text: &str) -> Result<CpuList, String> {
    each_once(text, |cpu| {
        format!(
            "CPU {cpu} is named twice: vCPUs that share a CPU take turns on it, and the turns of \
             one are gaps of the other; name a CPU for each vCPU, or none to leave them to the \
             host's scheduler"
        )
    })
}

/// No host has more CPUs (`NR_CPUS`).
const MAX_HOST_CPUS: usize = 8192;

fn each_once(text: &str, twice: impl Fn(usize) -> String) -> Result<CpuList, String> {
    let (mut cpus, mut seen) = (Vec::new(), BTreeSet::new());
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (cpu_number(first)?, cpu_number(last)?);
        if first > last {
            return Err(format!("{part} runs backwards"));
        }
        for cpu in first..=last {
            if !seen.insert(cpu) {
                return Err(twice(cpu));
            }
            cpus.push(cpu);
        }
    }
    Ok(CpuList(cpus))
}

fn cpu_number(text: &str) -> Result<usize, String> {
    text.parse::<usize>()
        .ok()
        .filter(|cpu| *cpu < MAX_HOST_CPUS)
        .ok_or(format!("\"{text}\" is no CPU"))
}

/// CPUs in the order written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// Nanoseconds for a reader: `47.2 ms`, `812 µs`, `1.25 s`.
pub fn show_ns(ns: u64) -> String {
    // A figure for a reader needs no more digits than f64 has.
    #[allow(clippy::cast_precision_loss)]
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.2} s", value / 1e9),
    }
}

/// A figure for a reader.
pub fn show_figure(quantity: Quantity, value: f64) -> String {
    match quantity {
        Quantity::LengthNs => show_ns(as_ns(whole_ns(value))),
        Quantity::Share => format!("{:.2} %", 100.0 * value),
    }
}

/// A length of time of so many nanoseconds; what is no length is none.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn whole_ns(ns: f64) -> Duration {
    // `as` saturates, and makes 0 of what is no number.
    Duration::from_nanos(ns.round() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn an_arrival_is_read_as_it_is_written(ns in 1u64..86_400_000_000_000, poisson in any::<bool>()) {
            let make = if poisson { ArrivalSpec::Poisson } else { ArrivalSpec::Periodic };
            let spec = make(Duration::from_nanos(ns));
            prop_assert_eq!(arrival(&spec.to_string()), Ok(spec));
        }
    }

    #[test]
    fn tunables_have_a_name_that_is_known_and_a_value() {
        let request = tune("slice=3ms").expect("a tunable");
        assert_eq!((request.name, request.value.as_str()), (TunableName::Slice, "3ms"));
        assert!(tune("slice").is_err());
        let text = tune("no-such-tunable=1").expect_err("none");
        assert!(text.contains("`no-such-tunable`; there are scaling, slice"), "{text}");
    }

    #[test]
    fn durations_need_a_unit_and_a_number() {
        assert_eq!(duration("1.875ms"), Ok(Duration::from_nanos(1_875_000)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("100us"), Ok(Duration::from_micros(100)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "5", "ms", "1.2.3s", "5 s", "-1s", "3w", "9e9s", "99999999s", "1e3ms"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0ms").is_err());
        let hours = |hours: u64| Ok(Duration::from_secs(3600 * hours));
        assert_eq!(
            (duration("1h"), duration("1d"), duration("24h")),
            (hours(1), hours(24), hours(24))
        );
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for long in ["2d", "25h", "1d1ns", "1d1h"] {
            assert!(
                duration(long).is_err_and(|error| error.contains("longer than a day")),
                "{long}"
            );
        }
        assert_eq!(optional_duration("off"), Ok(Threshold(None)));
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(mebibytes("4G"), Ok(4096));
        assert_eq!(mebibytes("512MiB"), Ok(512));
        assert_eq!(kibibytes("4M"), Ok(4096));
        for bad in ["", "4", "G", "1.5G", "99999999999999999G", "100K"] {
            assert!(mebibytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_are_parts_of_one() {
        assert_eq!(
            (percent("0.5%"), percent("50"), percent("100 %")),
            (Ok(0.005), Ok(0.5), Ok(1.0))
        );
        for bad in ["", "%", "-1%", "101%", "NaN", "x"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kernels_take_printable_words() {
        assert_eq!(kernel_words(" a=b c\n"), Ok(" a=b c\n".into()));
        for (bad, shown) in [("ä", "'ä'"), ("a\nb", "'\\n'"), ("a\u{1b}[b", "'\\u{1b}'")] {
            let error = kernel_words(bad).expect_err(bad);
            assert!(error.contains(shown) && error.contains("printable ASCII"), "{error}");
        }
    }

    #[test]
    fn pauses_have_a_kind() {
        let max = Duration::from_secs(1);
        assert_eq!(sleep("uniform:0s-1s"), Ok(SleepSpec::Uniform { min: Duration::ZERO, max }));
        assert_eq!(sleep("fixed:1s"), Ok(SleepSpec::Fixed(max)));
        assert_eq!(arrival("periodic:1s"), Ok(ArrivalSpec::Periodic(max)));
        assert_eq!(arrival("poisson:1s"), Ok(ArrivalSpec::Poisson(max)));
        for (bad, words) in [
            ("5ms", "needs a kind"),
            ("periodic:0s", "longer than zero"),
            ("poisson:", "a number and a unit"),
            ("every:5ms", "\"every\" is neither"),
        ] {
            let error = arrival(bad).expect_err(bad);
            assert!(error.contains(words), "{error}");
        }
        for bad in ["1s", "uniform:1s", "uniform:2s-1s", "gauss:1s", "exponential:0s"] {
            assert!(sleep(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cpu_lists_keep_their_order() {
        assert_eq!(cpu_list("2,34,3-5"), Ok(CpuList(vec![2, 34, 3, 4, 5])));
        for bad in ["", "x", "3-1", "1,1", "0-99999", "-1", "1,,2"] {
            assert!(cpu_list(bad).is_err(), "{bad}");
        }
        let refused = |list: Result<CpuList, String>| list.expect_err("named twice");
        assert!(refused(cpu_list("0-1,1")).contains("CPU 1 is named twice"));
        let why = refused(pins("0,0,1,1"));
        assert!(why.contains("CPU 0 is named twice: vCPUs that share a CPU"), "{why}");
        assert_eq!(pins("3,1"), Ok(CpuList(vec![3, 1])));
    }

    #[test]
    fn lengths_read_well() {
        let shown = [999, 1_500, 47_249_000, 1_250_000_000].map(show_ns);
        assert_eq!(shown, ["999 ns", "1.5 µs", "47.2 ms", "1.25 s"]);
    }
}
