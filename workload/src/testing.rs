// SPDX-License-Identifier: Apache-2.0
//! What unit tests share.

use std::fs;
use std::time::Duration;

use protocol::group::{GroupSpec, SleepSpec};
use tempfile::TempDir;

/// A folder with some files, as the kernel shows itself in its file systems.
pub fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// Plain groups of two threads.
pub fn groups(count: usize) -> Vec<GroupSpec> {
    let sleep = SleepSpec::Fixed(Duration::ZERO);
    vec![GroupSpec::plain(2, Duration::from_secs(1), sleep); count]
}
