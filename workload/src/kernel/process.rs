// SPDX-License-Identifier: Apache-2.0
//! Other processes, by their folders in /proc.

use std::fs;

use gaps::accounting::{Sample, parse_schedstat};

/// Thread IDs of a process, in no order; none of one that is gone.
pub fn threads(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// The name of a thread; empty for one that is gone.
pub fn thread_name(pid: u32, tid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// A thread's time on a CPU and waiting for one; `None` of one that is gone, and where the kernel
/// does not count it.
pub fn schedstat(pid: u32, tid: u32) -> Option<Sample> {
    parse_schedstat(&fs::read(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?)
}

/// Resident pages of a process, by the second number of its statm.
pub fn resident_pages(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No process has this number.
    const NOBODY: u32 = u32::MAX;

    #[test]
    fn this_process_tells_of_itself_and_one_that_is_gone_does_not() {
        let pid = std::process::id();
        assert!(threads(pid).contains(&pid));
        assert!(!thread_name(pid, pid).is_empty());
        assert!(resident_pages(pid).unwrap() > 0);
        assert_eq!((threads(NOBODY), thread_name(NOBODY, NOBODY)), (Vec::new(), String::new()));
        assert_eq!((schedstat(NOBODY, NOBODY), resident_pages(NOBODY)), (None, None));
    }
}
