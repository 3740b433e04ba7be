// SPDX-License-Identifier: Apache-2.0
//! The files of quotas (Documentation/admin-guide/cgroup-v2.rst, `cpu.max`;
//! Documentation/scheduler/sched-bwc.rst for v1), and quotas that are taken back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use protocol::group::Quota;

use super::{Version, at};
use crate::kernel::files::write_file;

/// The files of a group's quota, and what is written to them, in this order.
pub(super) fn files(version: Version, quota: Quota) -> Vec<(&'static str, String)> {
    let (time_us, period_us) = (quota.time.as_micros(), quota.period.as_micros());
    match version {
        Version::V1 => vec![
            ("cpu.cfs_period_us", period_us.to_string()),
            ("cpu.cfs_quota_us", time_us.to_string()),
        ],
        _ => vec![("cpu.max", format!("{time_us} {period_us}"))],
    }
}

/// A quota that a cgroup has for a while, and what it had before.
#[derive(Debug)]
pub struct PassingQuota {
    /// Files, and what was in them.
    before: Vec<(PathBuf, String)>,
}

impl PassingQuota {
    /// Begins it for the processes of these cgroups, given by their `cgroup.procs`. `None` where none
    /// of these has files of quotas that can be written.
    pub fn begin(procs: &[PathBuf], quota: Quota) -> Option<Self> {
        let directories = procs.iter().filter_map(|procs| procs.parent());
        let mut of_all = directories.flat_map(|directory| {
            [Version::V2, Version::V1].map(|version| (directory, files(version, quota)))
        });
        of_all.find_map(|(directory, files)| Self::write(directory, &files))
    }

    fn write(directory: &Path, files: &[(&str, String)]) -> Option<Self> {
        let mut quota = Self { before: Vec::new() };
        for (file, _) in files {
            let path = directory.join(file);
            let text = fs::read_to_string(&path).ok()?.trim_end().to_owned();
            quota.before.push((path, text));
        }
        for ((path, _), (_, text)) in quota.before.iter().zip(files) {
            if write_file(path, text).is_err() {
                // Half of it is none; what cannot be taken back was not written either.
                let _ = quota.end();
                return None;
            }
        }
        Some(quota)
    }

    /// Ends it.
    ///
    /// # Errors
    /// The quota of before cannot be had back; the file is named.
    pub fn end(self) -> io::Result<()> {
        self.before.iter().rev().try_for_each(|(path, text)| at(path, write_file(path, text)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const QUOTA: Quota =
        Quota { time: Duration::from_millis(5), period: Duration::from_millis(100) };

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap().trim_end().to_owned()
    }

    #[test]
    fn a_quota_of_v2_passes() {
        let dir = tempfile::tempdir().unwrap();
        let procs = [dir.path().join("none/cgroup.procs"), dir.path().join("cgroup.procs")];
        assert!(PassingQuota::begin(&procs, QUOTA).is_none(), "no file is made");
        let file = dir.path().join("cpu.max");
        fs::write(&file, "70000 100000\n").unwrap();
        let quota = PassingQuota::begin(&procs, QUOTA).unwrap();
        assert_eq!(text(&file), "5000 100000");
        quota.end().unwrap();
        assert_eq!(text(&file), "70000 100000");
        let quota = PassingQuota::begin(&procs, QUOTA).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(quota.end().unwrap_err().to_string().contains("cpu.max: "));
    }

    #[test]
    fn a_quota_of_v1_passes() {
        let dir = tempfile::tempdir().unwrap();
        let procs = [dir.path().join("cgroup.procs")];
        let [time, period] = ["cpu.cfs_quota_us", "cpu.cfs_period_us"].map(|f| dir.path().join(f));
        fs::write(&time, "-1\n").unwrap();
        assert!(PassingQuota::begin(&procs, QUOTA).is_none(), "half of the files");
        assert_eq!(text(&time), "-1");
        fs::write(&period, "50000\n").unwrap();
        let quota = PassingQuota::begin(&procs, QUOTA).unwrap();
        assert_eq!([text(&time), text(&period)], ["5000", "100000"]);
        quota.end().unwrap();
        assert_eq!([text(&time), text(&period)], ["-1", "50000"]);
    }
}
