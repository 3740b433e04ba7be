// SPDX-License-Identifier: Apache-2.0
//! VMs that stand ready leave the CPUs to those that still boot.
//!
//! A guest that has nothing to do still wakes several times a second, for its kernel's own timers.
//! In emulated virtualization each of its exits costs milliseconds: those that stand ready take a
//! whole CPU together, and a tick takes those that boot last longer than the next one is away, so
//! that they come no further. Until all are ready they have a quota instead, which an idle guest
//! elsewhere does not notice.

use std::fs;
use std::io;
use std::path::PathBuf;

use workload::kernel::files::write_file;

/// CPU time in a period, in microseconds (Documentation/admin-guide/cgroup-v2.rst, `cpu.max`).
const QUOTA: &str = "5000 100000";

/// A VM that waits for others, and what its quota was before.
#[derive(Debug)]
pub struct Standby {
    quota: PathBuf,
    before: String,
}

impl Standby {
    /// Begins it for the processes of these cgroups, given by their `cgroup.procs`. `None` where the
    /// kernel has no such quota: it waits like any other process.
    pub fn begin(cgroups: &[PathBuf]) -> Option<Self> {
        cgroups.iter().find_map(|procs| {
            let quota = procs.with_file_name("cpu.max");
            let before = fs::read_to_string(&quota).ok()?.trim_end().to_owned();
            write_file(&quota, QUOTA).ok()?;
            Some(Self { quota, before })
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// The quota of before cannot be had back.
    pub fn end(self) -> io::Result<()> {
        let named = |error| io::Error::other(format!("{}: {error}", self.quota.display()));
        write_file(&self.quota, &self.before).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_by_has_a_quota_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = [dir.path().join("none/cgroup.procs"), dir.path().join("cgroup.procs")];
        assert!(Standby::begin(&cgroups).is_none(), "no file is made");
        let quota = dir.path().join("cpu.max");
        fs::write(&quota, "70000 100000\n").unwrap();
        let standby = Standby::begin(&cgroups).unwrap();
        assert_eq!(fs::read_to_string(&quota).unwrap().trim_end(), QUOTA);
        standby.end().unwrap();
        assert_eq!(fs::read_to_string(&quota).unwrap().trim_end(), "70000 100000");
        let standby = Standby::begin(&cgroups).unwrap();
        fs::remove_file(&quota).unwrap();
        assert!(standby.end().unwrap_err().to_string().contains("cpu.max"));
    }
}
