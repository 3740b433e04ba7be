// SPDX-License-Identifier: Apache-2.0
//! The launcher's own memory. Unpacking a kernel and reading a trace take several times of what
//! the run itself needs; what stayed resident of that would be missing to the guests.

use std::fs;

/// Gives back what a phase has taken: free heap, and the pages of the executable's code. Code
/// comes back from the page cache at its next use; the kernel maps 64 KiB around each (mm/memory.c,
/// `do_fault_around`), so that little by little all of it would seem to be in use.
///
/// Not while vCPUs measure: pages that come back are faults of the launcher.
pub fn give_back() {
    // SAFETY: frees memory that the allocator holds and nobody uses; it takes its own locks.
    unsafe { libc::malloc_trim(0) };
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Ok(executable) = fs::read_link("/proc/self/exe") else { return };
    for (start, len) in code(&maps, &executable.to_string_lossy()) {
        // SAFETY: the range is a mapping of our executable's code, which nothing writes to (it
        // has no relocations there), so every page that is dropped is read from the file again.
        // A failure leaves the pages where they are, which costs memory only.
        unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_DONTNEED) };
    }
}

/// Start and length in bytes of the mappings that are this file's code (proc_pid_maps(5)).
fn code<'a>(maps: &'a str, file: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    maps.lines().filter_map(move |line| {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let (access, path) = (words.next()?, words.nth(3)?.trim_start());
        let start = usize::from_str_radix(start, 16).ok()?;
        let len = usize::from_str_radix(end, 16).ok()?.checked_sub(start)?;
        (access == "r-xp" && path == file).then_some((start, len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_executable_and_ours() {
        let maps = "1000-3000 r--p 00000000 00:02 14                 /bin/a b\n\
                    3000-7000 r-xp 00002000 00:02 14                 /bin/a b\n\
                    7000-8000 rw-p 00006000 00:02 14                 /bin/a b\n\
                    8000-9000 rw-p 00000000 00:00 0 \n\
                    9000-a000 r-xp 00000000 00:00 0                  [vdso]\n\
                    b000-c000 r-xp 00000000 00:02 15                 /lib/c\n";
        assert_eq!(code(maps, "/bin/a b").collect::<Vec<_>>(), [(0x3000, 0x4000)]);
    }

    #[test]
    fn a_process_goes_on_with_less() {
        let resident_kib = || {
            let status = fs::read_to_string("/proc/self/status").expect("status");
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
            let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
            kib.expect("a number")
        };
        // All of the code is in use, whatever this process has needed of it so far.
        let maps = fs::read_to_string("/proc/self/maps").expect("maps");
        let executable = fs::read_link("/proc/self/exe").expect("a link");
        for (start, len) in code(&maps, &executable.to_string_lossy()) {
            for page in (start..start + len).step_by(4096) {
                // SAFETY: the page lies in a mapping of ours that may be read.
                unsafe { std::ptr::read_volatile(page as *const u8) };
            }
        }
        let before = resident_kib();
        give_back();
        let after = resident_kib();
        assert!(after < before, "{before} KiB before, {after} KiB after");
    }
}
