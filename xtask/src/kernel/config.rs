// SPDX-License-Identifier: Apache-2.0
//! Did the options we ask for survive `make olddefconfig`?

use std::collections::HashSet;

use anyhow::{Result, bail};

use super::Version;

/// An option, and why a kernel does not take it.
type Absent = (&'static str, &'static str);

const DEFAULT_TRACERS: Absent =
    ("CONFIG_ENABLE_DEFAULT_TRACERS", "offered only where no tracer is chosen by name");
const KVM_SMM: Absent = ("CONFIG_KVM_SMM", "an option since 6.2, always on before");

/// Options of the fragment that a version is known not to take.
fn known_absent(version: Version) -> &'static [Absent] {
    match version {
        Version::V6_1 => &[DEFAULT_TRACERS, KVM_SMM],
        Version::V6_12 => &[DEFAULT_TRACERS],
    }
}

/// Fails if an option that the fragment switches on is off in `config`.
pub(super) fn verify(version: Version, fragment: &str, config: &str) -> Result<()> {
    let on: HashSet<&str> = config.lines().collect();
    let missing: Vec<&str> = fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && line.ends_with("=y") && !on.contains(line))
        .map(|line| line.trim_end_matches("=y"))
        .collect();
    let mut unexpected = Vec::new();
    for option in missing {
        match known_absent(version).iter().find(|(known, _)| *known == option) {
            Some((_, reason)) => eprintln!("kernel {version}: without {option} ({reason})"),
            None => unexpected.push(option),
        }
    }
    if !unexpected.is_empty() {
        bail!(
            "kernel {version}: these options of xtask/kernel/test.config did not survive \
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
        assert!(verify(Version::V6_12, "# not so: CONFIG_B=y\nCONFIG_A=y\n", config).is_ok());
        assert!(verify(Version::V6_12, "CONFIG_A=y\nCONFIG_B=n\nCONFIG_C=64\n", config).is_ok());
        let error = verify(Version::V6_12, "CONFIG_A=y\nCONFIG_B=y\n", config).unwrap_err();
        assert!(error.to_string().contains("CONFIG_B"));
        assert!(verify(Version::V6_1, "CONFIG_KVM_SMM=y\n", config).is_ok());
        assert!(verify(Version::V6_12, "CONFIG_KVM_SMM=y\n", config).is_err());
    }
}
