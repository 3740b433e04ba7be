// SPDX-License-Identifier: Apache-2.0
//! What unit tests share.

use std::fs;

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
