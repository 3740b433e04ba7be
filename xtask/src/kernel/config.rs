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
    let absent = |known: &&Absent| {
        let before = known.until.is_none_or(|until| series < until);
        known.option == option && series >= known.from && before
    };
    KNOWN_ABSENT.iter().find(absent).map(|known| known.reason)
}

/// Fails if an option that the fragment switches on is off in `config`.
pub(super) fn verify(series: Series, fragment: &str, config: &str) -> Result<()> {
    let on: HashSet<&str> = config.lines().collect();
    let missing: Vec<&str> = fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && line.ends_with("=y") && !on.contains(line))
        .map(|line| line.trim_end_matches("=y"))
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
            "kernel {series}: these options of xtask/kernel/test.config did not survive \
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
        let error = host("CONFIG_A=y\nCONFIG_B=y\n").unwrap_err();
        assert!(error.to_string().contains("CONFIG_B"));
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
