// SPDX-License-Identifier: Apache-2.0
//! Whose KVM is used: this machine's own where it can run Linux, else the emulated host's.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process;

/// `schedvmm probe` needs a second at most.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// Where virtual machines run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Venue {
    /// On this machine's own KVM.
    Own,
    /// In the emulated host, for this reason.
    Emulated(String),
}

impl Venue {
    /// Asks `schedvmm` whether this machine's KVM can run Linux.
    pub fn detect(schedvmm: &Path) -> Result<Self> {
        let mut probe = Command::new("sh");
        // Both streams in one, whichever the reason is on.
        probe.args(["-c", "exec \"$0\" probe 2>&1"]).arg(schedvmm);
        let (status, text) = process::capture(&mut probe, PROBE_DEADLINE)?;
        if status.success() {
            return Ok(Self::Own);
        }
        let reason = text.lines().find(|line| !line.trim().is_empty()).map(str::trim);
        Ok(Self::Emulated(reason.map_or_else(|| status.to_string(), String::from)))
    }
}

impl fmt::Display for Venue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("KVM: this machine's own"),
            Self::Emulated(reason) => write!(
                f,
                "KVM: an emulated host's; latencies from emulation are not measurements\n  \
                 (this machine's own KVM will not do: {reason})"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_probe_decides_and_its_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let probe = dir.path().join("schedvmm");
        write(&probe, "#!/bin/sh\n[ $1 = probe ] && echo 'no SVM' >&2 && exit 201\n").unwrap();
        set_permissions(&probe, Permissions::from_mode(0o755)).unwrap();
        let venue = Venue::detect(&probe).unwrap();
        assert_eq!(venue, Venue::Emulated("no SVM".into()));
        let line = venue.to_string();
        assert!(line.contains("not measurements") && line.contains("no SVM"), "{line}");

        assert_eq!(Venue::detect(Path::new("/bin/true")).unwrap(), Venue::Own);
    }
}
