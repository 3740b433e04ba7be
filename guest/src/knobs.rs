// SPDX-License-Identifier: Apache-2.0
//! Scheduler knobs by intent.
//!
//! Knobs moved twice: from /proc/sys/kernel to debugfs in 5.13 (8a99b6833c88), and CFS's own
//! ones went away with EEVDF in 6.6 (147f3efaa241, 5e963f2bd465). A request says what is
//! meant; the first file of the table that this kernel has gets it, and every request is
//! reported with what became of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{job::TuneRequest, system::write_file, wire::KnobReport};

/// Why a request makes no sense on any kernel.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KnobError {
    /// No such intent.
    #[error("there is no knob `{name}`; there are {known} and feature:NAME")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The value is not of the knob's kind.
    #[error("`{value}` is no value for knob `{name}`; it takes {takes}")]
    Value {
        /// The knob.
        name: String,
        /// What was asked for.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
}

/// What a knob's file holds.
#[derive(Clone, Copy)]
enum Unit {
    Nanoseconds,
    Microseconds,
    Number,
    /// Words and the numbers the file knows them by.
    Words(&'static str, &'static [(&'static str, &'static str)]),
    /// A word of the kernel's own.
    Text,
    /// A scheduler feature: its name in the features file.
    Feature(&'static str),
}

struct Knob {
    name: &'static str,
    unit: Unit,
    /// Below the root of the file system, newest kernel first.
    files: &'static [&'static str],
    /// Why a kernel may have none of the files.
    absent: &'static str,
}

const DURATION: &str = "a time such as 1.875ms, 100us or 500ns";

const WHOLE_MICROSECONDS: &str = "a time in whole microseconds, such as 100us or 5ms";

const ON_OFF: &[(&str, &str)] = &[("on", "1"), ("off", "0"), ("1", "1"), ("0", "0")];

const FEATURES: &[&str] = &["sys/kernel/debug/sched/features", "sys/kernel/debug/sched_features"];

const NO_CFS_KNOB: &str = "CFS only: gone with EEVDF in 6.6, or CONFIG_SCHED_DEBUG is missing";

const NO_FEATURES: &str = "needs CONFIG_SCHED_DEBUG (before 6.15) and CONFIG_DEBUG_FS";

const KNOBS: &[Knob] = &[
    Knob {
        name: "scaling",
        unit: Unit::Words(
            "none, log or linear, or 0, 1, 2",
            &[("none", "0"), ("log", "1"), ("linear", "2"), ("0", "0"), ("1", "1"), ("2", "2")],
        ),
        files: &["sys/kernel/debug/sched/tunable_scaling", "proc/sys/kernel/sched_tunable_scaling"],
        absent: NO_FEATURES,
    },
    Knob {
        name: "slice",
        unit: Unit::Nanoseconds,
        files: &[
            "sys/kernel/debug/sched/base_slice_ns",
            "sys/kernel/debug/sched/min_granularity_ns",
            "proc/sys/kernel/sched_min_granularity_ns",
        ],
        absent: NO_FEATURES,
    },
    Knob {
        name: "latency",
        unit: Unit::Nanoseconds,
        files: &["sys/kernel/debug/sched/latency_ns", "proc/sys/kernel/sched_latency_ns"],
        absent: NO_CFS_KNOB,
    },
    Knob {
        name: "min-granularity",
        unit: Unit::Nanoseconds,
        files: &[
            "sys/kernel/debug/sched/min_granularity_ns",
            "proc/sys/kernel/sched_min_granularity_ns",
        ],
        absent: NO_CFS_KNOB,
    },
    Knob {
        name: "wakeup",
        unit: Unit::Nanoseconds,
        files: &[
            "sys/kernel/debug/sched/wakeup_granularity_ns",
            "proc/sys/kernel/sched_wakeup_granularity_ns",
        ],
        absent: NO_CFS_KNOB,
    },
    Knob {
        name: "migration-cost",
        unit: Unit::Nanoseconds,
        files: &[
            "sys/kernel/debug/sched/migration_cost_ns",
            "proc/sys/kernel/sched_migration_cost_ns",
        ],
        absent: NO_FEATURES,
    },
    Knob {
        name: "nr-migrate",
        unit: Unit::Number,
        files: &["sys/kernel/debug/sched/nr_migrate", "proc/sys/kernel/sched_nr_migrate"],
        absent: NO_FEATURES,
    },
    Knob {
        name: "bandwidth-slice",
        unit: Unit::Microseconds,
        files: &["proc/sys/kernel/sched_cfs_bandwidth_slice_us"],
        absent: "needs CONFIG_CFS_BANDWIDTH",
    },
    Knob {
        name: "autogroup",
        unit: Unit::Words("on or off", ON_OFF),
        files: &["proc/sys/kernel/sched_autogroup_enabled"],
        absent: "this kernel has no CONFIG_SCHED_AUTOGROUP, so it groups nothing",
    },
    Knob {
        name: "schedstats",
        unit: Unit::Words("on or off", ON_OFF),
        files: &["proc/sys/kernel/sched_schedstats"],
        absent: "needs CONFIG_SCHEDSTATS",
    },
    Knob {
        name: "preempt",
        unit: Unit::Text,
        files: &["sys/kernel/debug/sched/preempt", "sys/kernel/debug/sched_preempt"],
        absent: "needs CONFIG_PREEMPT_DYNAMIC and CONFIG_DEBUG_FS",
    },
    Knob { name: "hrtick", unit: Unit::Feature("HRTICK"), files: FEATURES, absent: NO_FEATURES },
];

/// The original's settings, as far as a kernel keeps them, and the kernel's own statistics.
pub fn default_tune() -> Vec<TuneRequest> {
    // Scaling first: setting it recomputes the others.
    [
        ("scaling", "0"),
        ("latency", "30ms"),
        ("slice", "1.875ms"),
        ("bandwidth-slice", "100us"),
        ("hrtick", "on"),
        // Forced idle time is counted only with these.
        ("schedstats", "on"),
    ]
    .map(|(name, value)| TuneRequest { name: name.into(), value: value.into() })
    .into()
}

/// Whether a request makes sense: so that the launcher can refuse it before it boots.
pub fn check(request: &TuneRequest) -> Result<(), KnobError> {
    Change::of(request).map(|_| ())
}

/// Switches autogroup off, then applies all requests in order.
///
/// Autogroup would give each session the same share, whatever the load's groups are.
pub fn apply_all(root: &Path, requests: &[TuneRequest]) -> Result<Vec<KnobReport>, KnobError> {
    let autogroup = TuneRequest { name: "autogroup".into(), value: "off".into() };
    [&autogroup]
        .into_iter()
        .chain(requests)
        .map(|request| Ok(Change::of(request)?.apply(root, request)))
        .collect()
}

/// Files, and what to write to them.
pub type Before = Vec<(PathBuf, String)>;

/// Applies requests in order on a machine that others use too: what was there before comes
/// back with the second value, newest first.
pub fn apply_for_a_while(
    root: &Path,
    requests: &[TuneRequest],
) -> Result<(Vec<KnobReport>, Before), KnobError> {
    let (mut reports, mut before) = (Vec::new(), Vec::new());
    for request in requests {
        let change = Change::of(request)?;
        let old = change.files.iter().map(|file| root.join(file)).find(|path| path.exists());
        let old = old.and_then(|path| Some((path.clone(), change.read_back(&path)?)));
        let report = change.apply(root, request);
        before.extend(old.filter(|(_, old)| report.effective.as_ref() != Some(old)));
        reports.push(report);
    }
    before.reverse();
    Ok((reports, before))
}

/// What to write where.
struct Change {
    files: &'static [&'static str],
    absent: &'static str,
    text: String,
    /// The feature that the text switches, if it is one.
    feature: Option<String>,
}

impl Change {
    fn of(request: &TuneRequest) -> Result<Self, KnobError> {
        let TuneRequest { name, value } = request;
        if let Some(feature) = name.strip_prefix("feature:") {
            let plain =
                |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            if feature.is_empty() || !feature.bytes().all(plain) {
                return Err(unknown(name));
            }
            return Self::feature(request, feature, FEATURES, NO_FEATURES);
        }
        let knob = KNOBS.iter().find(|knob| knob.name == name).ok_or_else(|| unknown(name))?;
        let (text, takes) = match knob.unit {
            Unit::Feature(feature) => {
                return Self::feature(request, feature, knob.files, knob.absent);
            }
            Unit::Nanoseconds => (parse_time_ns(value).map(|ns| ns.to_string()), DURATION),
            Unit::Microseconds => (whole_us(value), WHOLE_MICROSECONDS),
            Unit::Number => (value.parse::<u32>().ok().map(|n| n.to_string()), "a number"),
            Unit::Words(takes, words) => (lookup(words, value), takes),
            Unit::Text => {
                let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric());
                (plain.then(|| value.clone()), "a word the kernel knows")
            }
        };
        let text = text.ok_or_else(|| bad_value(request, takes))?;
        Ok(Self { files: knob.files, absent: knob.absent, text, feature: None })
    }

    fn feature(
        request: &TuneRequest,
        feature: &str,
        files: &'static [&'static str],
        absent: &'static str,
    ) -> Result<Self, KnobError> {
        let state =
            lookup(ON_OFF, &request.value).ok_or_else(|| bad_value(request, "on or off"))?;
        let text = if state == "1" { feature.to_owned() } else { format!("NO_{feature}") };
        Ok(Self { files, absent, text, feature: Some(feature.to_owned()) })
    }

    fn apply(&self, root: &Path, request: &TuneRequest) -> KnobReport {
        let mut report = KnobReport {
            request: format!("{}={}", request.name, request.value),
            ..Default::default()
        };
        let mut files = self.files.iter().map(|file| (file, root.join(file)));
        let Some((file, path)) = files.find(|(_, path)| path.exists()) else {
            report.note = Some(format!("absent: {}", self.absent));
            return report;
        };
        let written = write_file(&path, &self.text);
        report.file = Some(PathBuf::from("/").join(file).display().to_string());
        report.effective = self.read_back(&path);
        report.note = match (written, &report.effective) {
            (Err(error), _) => Some(self.refused(&error)),
            (Ok(()), None) => Some("its effect cannot be read back".into()),
            (Ok(()), Some(effective)) if *effective != self.text => {
                Some(format!("the kernel did not take {}", self.text))
            }
            (Ok(()), Some(_)) => None,
        };
        report
    }

    fn refused(&self, error: &io::Error) -> String {
        match (&self.feature, error.raw_os_error()) {
            (Some(feature), Some(libc::EINVAL)) => {
                format!("absent: this kernel has no scheduler feature {feature}")
            }
            _ => format!("the kernel refused {}: {error}", self.text),
        }
    }

    fn read_back(&self, path: &Path) -> Option<String> {
        let text = fs::read_to_string(path).ok()?;
        let mut words = text.split_ascii_whitespace();
        if let Some(feature) = &self.feature {
            let is_it = |word: &&str| word.strip_prefix("NO_").unwrap_or(word) == feature;
            return words.find(is_it).map(str::to_owned);
        }
        // A choice of several marks the one in use: `none voluntary (full) lazy`.
        let marked = words.clone().find_map(|word| word.strip_prefix('(')?.strip_suffix(')'));
        marked.or_else(|| words.next()).map(str::to_owned)
    }
}

fn unknown(name: &str) -> KnobError {
    let known = KNOBS.iter().map(|knob| knob.name).collect::<Vec<_>>().join(", ");
    KnobError::Unknown { name: name.into(), known }
}

fn bad_value(request: &TuneRequest, takes: &'static str) -> KnobError {
    KnobError::Value { name: request.name.clone(), value: request.value.clone(), takes }
}

fn lookup(words: &[(&str, &str)], value: &str) -> Option<String> {
    words.iter().find(|(word, _)| *word == value).map(|(_, number)| (*number).to_owned())
}

fn whole_us(value: &str) -> Option<String> {
    let ns = parse_time_ns(value)?;
    ns.is_multiple_of(1000).then(|| (ns / 1000).to_string())
}

/// A time with its unit, exactly: `1.875ms` is 1 875 000. No fractions of a nanosecond.
fn parse_time_ns(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let digits_of_unit: u32 = match unit {
        "ns" => 0,
        "us" | "µs" => 3,
        "ms" => 6,
        "s" => 9,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = fraction.trim_end_matches('0');
    let missing = digits_of_unit.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    // Only digits can be here, so this is a number unless it is empty or too large.
    format!("{whole}{fraction}").parse::<u64>().ok()?.checked_mul(10u64.pow(missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree;
    use tempfile::TempDir;

    fn request(text: &str) -> TuneRequest {
        let (name, value) = text.split_once('=').unwrap();
        TuneRequest { name: name.into(), value: value.into() }
    }

    /// The report on one request beside autogroup's.
    fn apply(root: &TempDir, text: &str) -> KnobReport {
        apply_all(root.path(), &[request(text)]).unwrap().remove(1)
    }

    #[test]
    fn times_are_exact() {
        for (text, ns) in [
            ("1.875ms", Some(1_875_000)),
            ("30ms", Some(30_000_000)),
            ("100us", Some(100_000)),
            ("100µs", Some(100_000)),
            ("0.5us", Some(500)),
            ("1.50000000000s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("7ns", Some(7)),
            ("0ms", Some(0)),
            ("0.5ns", None),
            ("1", None),
            ("ms", None),
            ("", None),
            ("1.2.3ms", None),
            ("-1ms", None),
            ("1e3ms", None),
            ("1 ms", None),
            ("99999999999999999999s", None),
            ("20000000000s", None),
        ] {
            assert_eq!(parse_time_ns(text), ns, "{text}");
        }
    }

    #[test]
    fn each_era_of_kernels_gets_the_file_it_has() {
        for file in [
            "proc/sys/kernel/sched_min_granularity_ns",
            "sys/kernel/debug/sched/min_granularity_ns",
            "sys/kernel/debug/sched/base_slice_ns",
        ] {
            let root = tree(&[(file, "750000\n")]);
            let report = apply(&root, "slice=1.875ms");
            assert_eq!(report.file, Some(format!("/{file}")));
            assert_eq!(report.effective.as_deref(), Some("1875000"));
            assert_eq!(report.note, None);
        }
    }

    #[test]
    fn what_a_kernel_lacks_is_reported_and_no_error() {
        let root = tree(&[]);
        let reports = apply_all(root.path(), &default_tune()).unwrap();
        assert_eq!(reports.len(), 1 + default_tune().len());
        for report in &reports {
            assert_eq!((&report.file, &report.effective), (&None, &None));
            assert!(report.note.is_some(), "{report:?}");
        }
        assert_eq!(reports[2].request, "latency=30ms");
        assert!(reports[2].note.as_deref().unwrap().contains("EEVDF"));
    }

    #[test]
    fn units_of_the_files() {
        let bandwidth = "proc/sys/kernel/sched_cfs_bandwidth_slice_us";
        let scaling = "sys/kernel/debug/sched/tunable_scaling";
        let root = tree(&[(bandwidth, "5000"), (scaling, "1")]);
        assert_eq!(apply(&root, "bandwidth-slice=100us").effective.as_deref(), Some("100"));
        assert_eq!(apply(&root, "scaling=none").effective.as_deref(), Some("0"));
        assert_eq!(apply(&root, "scaling=2").effective.as_deref(), Some("2"));
    }

    #[test]
    fn what_is_applied_for_a_while_comes_back() {
        let (slice, preempt) =
            ("sys/kernel/debug/sched/base_slice_ns", "sys/kernel/debug/sched/preempt");
        let root = tree(&[(slice, "700000"), (preempt, "none (voluntary) full")]);
        let requests = ["slice=3ms", "slice=4ms", "latency=30ms"].map(request);
        let (reports, before) = apply_for_a_while(root.path(), &requests).unwrap();
        assert_eq!(reports.len(), 3);
        assert_eq!(fs::read_to_string(root.path().join(slice)).unwrap(), "4000000");
        let path = root.path().join(slice);
        assert_eq!(before, [(path.clone(), "3000000".into()), (path, "700000".into())]);
        let (_, before) = apply_for_a_while(root.path(), &[request("preempt=full")]).unwrap();
        assert_eq!(before, [(root.path().join(preempt), "voluntary".into())]);
        apply_for_a_while(root.path(), &[request("nonsense=1")]).unwrap_err();
    }

    #[test]
    fn autogroup_is_always_switched_off() {
        let root = tree(&[("proc/sys/kernel/sched_autogroup_enabled", "1")]);
        let reports = apply_all(root.path(), &[]).unwrap();
        assert_eq!(reports[0].request, "autogroup=off");
        assert_eq!(reports[0].effective.as_deref(), Some("0"));
    }

    #[test]
    fn features_are_written_by_name_and_read_back_from_the_list() {
        // A plain file takes the write as its whole content; the kernel's gives a list.
        let root = tree(&[(FEATURES[1], "")]);
        let report = apply(&root, "hrtick=on");
        assert_eq!(report.file, Some(format!("/{}", FEATURES[1])));
        assert_eq!(report.effective.as_deref(), Some("HRTICK"));
        let report = apply(&root, "feature:PLACE_LAG=off");
        assert_eq!(report.effective.as_deref(), Some("NO_PLACE_LAG"));
        let change = Change::of(&request("hrtick=on")).unwrap();
        let list = root.path().join("list");
        fs::write(&list, "PLACE_LAG NO_HRTICK NO_HRTICK_DL\n").unwrap();
        assert_eq!(change.read_back(&list).as_deref(), Some("NO_HRTICK"));
        fs::write(&list, "HRTICK_DL\n").unwrap();
        assert_eq!(change.read_back(&list), None);
    }

    #[test]
    fn the_marked_choice_is_the_effective_one() {
        let change = Change::of(&request("preempt=full")).unwrap();
        let root = tree(&[("list", "none voluntary (full) lazy\n")]);
        assert_eq!(change.read_back(&root.path().join("list")).as_deref(), Some("full"));
    }

    #[test]
    fn a_refusal_is_reported_with_what_is_in_force() {
        // A directory in the file's place: it exists and cannot be written.
        let root = tree(&[("proc/sys/kernel/sched_latency_ns/x", "")]);
        let report = apply(&root, "latency=30ms");
        assert!(report.file.is_some());
        assert!(report.note.unwrap().contains("30000000"));
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_written() {
        for text in [
            "nonsense=1",
            "slice=fast",
            "slice=3",
            "bandwidth-slice=1500ns",
            "hrtick=maybe",
            "scaling=3",
            "nr-migrate=-1",
            "feature:=on",
            "feature:A/B=on",
            "preempt=a b",
            "preempt=",
        ] {
            check(&request(text)).expect_err(text);
        }
        let error = check(&request("slcie=1ms")).unwrap_err().to_string();
        assert!(error.contains("slcie") && error.contains("slice"), "{error}");
        for request in default_tune() {
            check(&request).unwrap();
        }
    }
}
