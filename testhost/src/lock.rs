// SPDX-License-Identifier: Apache-2.0
//! A lock file, so that two calls do not make the same thing at the same time.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a held lock is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// A held lock; the kernel lets go of it when the file is closed, by death too.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; waits for `holder` up to the deadline.
    pub(crate) fn take(path: &Path, deadline: Duration, holder: &str) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open the lock `{}`", path.display()))?;
        let start = Instant::now();
        let mut told = false;
        while let Err(error) = file.try_lock() {
            if let TryLockError::Error(error) = error {
                return Err(error).with_context(|| format!("cannot lock `{}`", path.display()));
            }
            if start.elapsed() > deadline {
                bail!("{holder} holds `{}` for {} s", path.display(), deadline.as_secs());
            }
            if !told {
                eprintln!("waiting for {holder} (`{}`)", path.display());
                told = true;
            }
            std::thread::sleep(RETRY);
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_waited_for_up_to_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path, Duration::ZERO, "nobody").unwrap();
        let error = Lock::take(&path, Duration::from_millis(300), "this test").unwrap_err();
        assert!(error.to_string().contains("this test holds"), "{error}");
        drop(held);
        Lock::take(&path, Duration::ZERO, "nobody").unwrap();
    }
}
