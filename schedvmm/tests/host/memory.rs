// SPDX-License-Identifier: Apache-2.0
//! Memory of the load: locked as far as whoever runs it may, and told where it is not.

use std::fs;

use libtest_mimic::{Failed, Trial};

use crate::calls::{finish, has_begun, result, schedvmm, until};
use crate::place::{self, Place};

pub fn trials(place: &Place) -> Vec<Trial> {
    vec![
        Trial::test("root_locks_all_of_it", root_locks_all_of_it).with_ignored_flag(!place.root),
        Trial::test("a_limit_is_used_up_and_told", a_limit_is_used_up_and_told),
    ]
}

const WORDS: [&str; 9] =
    ["host", "--groups", "2", "--duration", "2s", "--threshold", "off", "--output", "out"];

/// Locked memory of each of the load's processes, in KiB.
fn locked_kib(parent: u32) -> Vec<u64> {
    let locked = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
    };
    place::children(parent).iter().map(locked).collect()
}

fn root_locks_all_of_it() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let child = schedvmm(dir.path(), &WORDS).spawn()?;
    until("result", || has_begun(dir.path()));
    let locked = locked_kib(child.id());
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let notes = result(dir.path(), "out")["notes"].to_string();
    assert!(!notes.contains("not locked"), "{notes}");
    // Records of two threads, 65,536 of each, 24 bytes or more; and the program.
    assert!(locked.len() == 2 && locked.iter().all(|kib| *kib > 3 << 10), "{locked:?}");
    Ok(())
}

/// As a limit has it that most systems give to whoever is not root, and a smaller one.
fn a_limit_is_used_up_and_told() -> Result<(), Failed> {
    for (limit_kib, words) in [(64, "64 KiB"), (8 << 10, "8.0 MiB")] {
        let dir = tempfile::tempdir()?;
        let child = place::as_nobody(dir.path(), &WORDS, Some(limit_kib << 10)).spawn()?;
        until("result", || has_begun(dir.path()));
        let locked = locked_kib(child.id());
        let output = finish(child);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(locked.len(), 2, "{locked:?}");
        assert!(locked.iter().all(|kib| *kib <= limit_kib), "{locked:?} KiB of {limit_kib}");
        let notes = result(dir.path(), "out")["notes"].to_string();
        // A small program fits into the larger limit.
        let told = notes.contains("are not locked (");
        if told {
            let limit = format!("the limit is {words}");
            assert!(notes.contains(&limit), "{notes}");
            let nearly = limit_kib * 3 / 4;
            assert!(locked.iter().all(|kib| *kib >= nearly), "{locked:?} KiB of {limit_kib}");
        }
        assert!(told || limit_kib > 1 << 10, "nothing is told: {notes}");
        println!("     of {limit_kib} KiB locked: {locked:?} KiB; {notes}");
    }
    Ok(())
}
