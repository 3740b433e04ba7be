// SPDX-License-Identifier: Apache-2.0
//! How much memory a monitor takes beside its guest's, seen from outside: the same view of
//! every monitor.

use std::fs;

/// Memory of a process that is in RAM now, in KiB, without mappings of `guest_kib` / 2 and
/// more: those are guest memory. `None` once the process has ended.
pub(crate) fn beside_guest_kib(pid: u32, guest_kib: u64) -> Option<u64> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    sum_small_mappings(&smaps, guest_kib / 2)
}

/// Sums `Rss` over the mappings smaller than a limit; `None` where there is no mapping at all.
fn sum_small_mappings(smaps: &str, limit_kib: u64) -> Option<u64> {
    let mut sum = None;
    let mut size_kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let value: Result<u64, _> = value.parse();
        match (name, value) {
            ("Size:", Ok(value)) => size_kib = value,
            ("Rss:", Ok(value)) if size_kib < limit_kib => *sum.get_or_insert(0) += value,
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f00-7f10 rw-p 00000000 00:00 0
Size:             524288 kB
KernelPageSize:        4 kB
Rss:              100000 kB
Pss:              100000 kB
7f20-7f30 r-xp 00000000 08:01 77   /bin/thing
Size:               3000 kB
Rss:                1200 kB
7f40-7f50 rw-p 00000000 00:00 0    [heap]
Size:                132 kB
Rss:                  34 kB
";

    #[test]
    fn guest_memory_is_left_out() {
        assert_eq!(sum_small_mappings(SMAPS, 262_144), Some(1234));
        assert_eq!(sum_small_mappings("", 262_144), None);
    }

    #[test]
    fn a_live_process_has_memory_and_a_dead_one_has_none() {
        assert!(beside_guest_kib(std::process::id(), 1 << 40).unwrap() > 100);
        assert_eq!(beside_guest_kib(u32::MAX, 1 << 20), None);
    }
}
