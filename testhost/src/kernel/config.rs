// SPDX-License-Identifier: Apache-2.0
//! Did the options we ask for survive `make olddefconfig`?

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::Series;

/// An option that kernels of some age do not take, and why.
struct Absent {
    option: &'static str,
    reason: &'static str,
    /// The first series without it.
    from: Series,
    /// The first series that has it (again); `None` if none has.
    until: Option<Series>,
}

const ALWAYS: Series = Series::new(0, 0);

const KNOWN_ABSENT: [Absent; 5] = [
    Absent {
        option: "CONFIG_ENABLE_DEFAULT_TRACERS",
        reason: "offered only where no tracer is chosen by name",
        from: ALWAYS,
        until: None,
    },
    Absent {
        option: "CONFIG_KVM_SMM",
        reason: "an option since 6.2, always on before",
        from: ALWAYS,
        until: Some(Series::new(6, 2)),
    },
    Absent {
        option: "CONFIG_SCHED_DEBUG",
        reason: "always on since 6.15",
        from: Series::new(6, 15),
        until: None,
    },
    Absent {
        option: "CONFIG_PREEMPT_VOLUNTARY",
        reason: "since 7.0 x86 has full and lazy preemption only",
        from: Series::new(7, 0),
        until: None,
    },
    Absent {
        option: "CONFIG_PROC_SYSCTL",
        reason: "part of CONFIG_SYSCTL, which is on",
        from: Series::new(7, 0),
        until: None,
    },
];

/// Why a series is known not to take an option.
pub fn known_absent(series: Series, option: &str) -> Option<&'static str> {
    KNOWN_ABSENT
        .iter()
        .find(|known| {
            let before = known.until.is_none_or(|until| series < until);
            known.option == option && series >= known.from && before
        })
        .map(|known| known.reason)
}

/// A fragment without remarks and empty lines.
pub(super) fn bare(fragment: &str) -> String {
    let kept = fragment.lines().filter(|line| option(line).is_some());
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The options of `base` with those of `changes` in place of its own.
pub(super) fn overlay(base: &str, changes: &str) -> String {
    let changed: HashSet<&str> = changes.lines().filter_map(option).collect();
    let kept = base.lines().filter(|line| option(line).is_none_or(|name| !changed.contains(name)));
    kept.chain(changes.lines()).flat_map(|line| [line, "\n"]).collect()
}

/// The option that a line sets.
fn option(line: &str) -> Option<&str> {
    line.split_once('=').map(|(name, _)| name).filter(|name| name.starts_with("CONFIG_"))
}

/// Fails if an option that the fragment switches on, or makes a module, is not so in `config`.
pub(super) fn verify(series: Series, fragment: &str, config: &str) -> Result<()> {
    let on: HashSet<&str> = config.lines().collect();
    let missing: Vec<&str> = fragment
        .lines()
        .filter(|line| line.ends_with("=y") || line.ends_with("=m"))
        .filter(|line| !on.contains(line))
        .filter_map(option)
        .collect();
    let mut unexpected = Vec::new();
    for option in missing {
        match known_absent(series, option) {
            Some(reason) => eprintln!("kernel {series}: without {option} ({reason})"),
            None => unexpected.push(option),
        }
    }
    if !unexpected.is_empty() {
        bail!(
            "kernel {series}: these options of its fragment did not survive \
             `make olddefconfig`: {}; add what they depend on, or list them as known to be absent",
            unexpected.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_option_is_an_error_and_a_known_one_is_not() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\n";
        let host = |fragment| verify(Series::HOST, fragment, config);
        assert!(host("# not so: CONFIG_B=y\nCONFIG_A=y\n").is_ok());
        assert!(host("CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=64\n").is_ok());
        for lost in ["CONFIG_A=y\nCONFIG_B=y\n", "CONFIG_B=m\n"] {
            let error = host(lost).unwrap_err();
            assert!(error.to_string().contains("CONFIG_B"));
        }
    }

    #[test]
    fn remarks_are_no_options() {
        assert_eq!(bare("# A: CONFIG_A=y\n\nCONFIG_B=64\n"), "CONFIG_B=64\n");
    }

    #[test]
    fn changes_take_the_place_of_what_they_change() {
        let base = "# A remark: CONFIG_B=y\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_BC=y\n";
        let merged = overlay(base, "CONFIG_B=m\nCONFIG_D=n\n");
        let expected = "# A remark: CONFIG_B=y\nCONFIG_A=y\nCONFIG_BC=y\nCONFIG_B=m\nCONFIG_D=n\n";
        assert_eq!(merged, expected);
    }

    #[test]
    fn options_come_and_go_with_the_series() {
        let taken = |series, option| known_absent(series, option).is_none();
        let newest = Series::new(99, 0);
        assert!(!taken(Series::CFS, "CONFIG_KVM_SMM") && taken(Series::HOST, "CONFIG_KVM_SMM"));
        for option in ["CONFIG_SCHED_DEBUG", "CONFIG_PREEMPT_VOLUNTARY"] {
            assert!(taken(Series::HOST, option) && !taken(newest, option), "{option}");
        }
        assert!(!taken(Series::CFS, "CONFIG_ENABLE_DEFAULT_TRACERS"));
        assert!(taken(newest, "CONFIG_SMP"));
    }
}
