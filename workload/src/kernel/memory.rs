// SPDX-License-Identifier: Apache-2.0
//! Memory that a group's process uses while it measures: locked before the load begins, so that
//! none of its bursts meets a page fault.
//!
//! Whoever is not root may lock 8 MiB, as a rule, and in many containers less. So what matters most
//! comes first: the memory shared with the supervisor as far as it is this group's, the process's
//! own data, its threads' stacks; then the program's code and constants, which a kernel that is
//! short of memory can drop and read again. What cannot be locked is at least there when the load
//! begins, and is told.

use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::{fmt, io, ptr};

use rustix::process::Resource;

use crate::shared_memory::Shared;

/// Of each thread's stack: much more than the measuring loop needs.
pub const STACK_LOCKED_BYTES: usize = 64 << 10;

/// Locked at once, so that a limit is used up to its end.
const PIECE_BYTES: usize = 64 << 10;

const PAGE_BYTES: usize = 4096;

/// What kind of memory it is, for people.
const RECORDS: &str = "records";
const DATA: &str = "data";
const STACKS: &str = "stacks";
const CODE: &str = "code";

/// A piece of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region {
    what: &'static str,
    pages: Range<usize>,
    /// Written by this process alone.
    private_data: bool,
}

/// What has been locked, and what not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    all_bytes: u64,
    unlocked_bytes: u64,
    /// Of which kinds.
    kinds: Vec<&'static str>,
    /// Why the first of it was not.
    why: Option<String>,
}

/// What became of it.
#[derive(Debug)]
pub struct Locked {
    /// What could not be locked, in words.
    pub note: Option<String>,
    /// There is room for the stacks.
    pub stacks: bool,
}

/// Locks what the threads with these numbers use, their stacks apart, for which as much is left as
/// [`lock_stack`] takes.
pub fn lock(shared: &Shared, threads: Range<usize>) -> Locked {
    let count = threads.len();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let used = shared.used_by(threads);
    let mut regions: Vec<Region> =
        used.map(|pages| Region { what: RECORDS, pages, private_data: false }).into();
    let (data, code): (Vec<_>, Vec<_>) = regions_of_program(&maps, &shared.mapping())
        .into_iter()
        .partition(|region| region.what == DATA);
    regions.extend(data);
    let mut tally = Tally::default();
    regions.iter().for_each(|region| tally.lock(region));
    // The stacks are not there yet; something of their size keeps their place before the code's.
    let place = Place::map(count * STACK_LOCKED_BYTES);
    tally.lock(&Region { what: STACKS, pages: place.pages.clone(), private_data: true });
    code.iter().for_each(|region| tally.lock(region));
    drop(place);
    Locked {
        note: (tally.unlocked_bytes > 0).then(|| tally.told(limit_bytes())),
        stacks: !tally.kinds.contains(&STACKS),
    }
}

/// Locks the part of the calling thread's stack that the measuring loop uses. Errors are for who
/// has a right to it, by the answer that [`lock`] gave.
pub fn lock_stack() -> io::Result<()> {
    let top = stack_top()?;
    let pages = top - STACK_LOCKED_BYTES..top;
    lock_pages(&pages).inspect_err(|_| populate(&pages, true))
}

/// The end of the calling thread's stack, where it begins to be used.
fn stack_top() -> io::Result<usize> {
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: the thread is the calling one; `attributes` is valid for writes.
    let error = unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let (mut base, mut bytes) = (ptr::null_mut(), 0);
    // SAFETY: the attributes were filled above; both results are valid for writes.
    let error =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut base, &raw mut bytes) };
    // SAFETY: the attributes were filled above and are not used any more.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    if bytes < STACK_LOCKED_BYTES {
        return Err(io::Error::other(format!("a stack of {bytes} bytes is too small")));
    }
    Ok((base.addr() + bytes) / PAGE_BYTES * PAGE_BYTES)
}

impl Tally {
    /// Locks a region as far as the limit goes, and makes sure that the rest is there.
    fn lock(&mut self, region: &Region) {
        self.all_bytes += region.pages.len() as u64;
        let mut from = region.pages.start;
        while from < region.pages.end {
            let piece = from..region.pages.end.min(from + PIECE_BYTES);
            if let Err(error) = lock_pages(&piece) {
                let rest = from..region.pages.end;
                populate(&rest, region.private_data);
                self.unlocked_bytes += rest.len() as u64;
                if !self.kinds.contains(&region.what) {
                    self.kinds.push(region.what);
                }
                self.why.get_or_insert_with(|| error.to_string());
                return;
            }
            from = piece.end;
        }
    }

    fn told(&self, limit_bytes: Option<u64>) -> String {
        let limit = limit_bytes.map_or_else(String::new, |bytes| {
            format!(", the limit is {} (`ulimit -l`)", Mib(bytes))
        });
        format!(
            "memory: {} of the {} that each process of the load uses are not locked ({}): {}{limit}; \
             they are in memory now, and can be taken out of it while the load runs",
            Mib(self.unlocked_bytes),
            Mib(self.all_bytes),
            self.kinds.join(", "),
            self.why.as_deref().unwrap_or_default()
        )
    }
}

/// Bytes for a reader.
struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.0 / 1024;
        if kib < 1024 {
            return write!(f, "{kib} KiB");
        }
        write!(f, "{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
    }
}

/// What of the program's own memory a process uses, out of `/proc/self/maps`: all that can be read,
/// but for what the kernel keeps itself, and the mapping whose parts have been chosen already.
fn regions_of_program(maps: &str, chosen: &Range<usize>) -> Vec<Region> {
    maps.lines().filter_map(|line| readable_region(line, chosen)).collect()
}

fn readable_region(line: &str, chosen: &Range<usize>) -> Option<Region> {
    let mut words = line.split_ascii_whitespace();
    let (begin, end) = words.next()?.split_once('-')?;
    let pages = from_hex(begin)?..from_hex(end)?;
    let rights = words.next()?;
    let name = words.nth(3).unwrap_or_default();
    let kernels = ["[vvar", "[vdso", "[vsyscall"].iter().any(|own| name.starts_with(own));
    if kernels || !rights.starts_with('r') || chosen.contains(&pages.start) {
        return None;
    }
    let written = rights.as_bytes().get(1) == Some(&b'w');
    let private_data = written && rights.ends_with('p');
    Some(Region { what: if written { DATA } else { CODE }, pages, private_data })
}

fn from_hex(digits: &str) -> Option<usize> {
    usize::from_str_radix(digits, 16).ok()
}

fn lock_pages(pages: &Range<usize>) -> io::Result<()> {
    let base = ptr::with_exposed_provenance(pages.start);
    // SAFETY: mlock changes no contents, and refuses what is not mapped.
    let result = unsafe { libc::mlock(base, pages.len()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes pages be there, if they are not: best effort.
fn populate(pages: &Range<usize>, for_writing: bool) {
    let advice = if for_writing { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
    let base = ptr::with_exposed_provenance_mut(pages.start);
    // SAFETY: these two change no contents, and refuse what is not mapped.
    if unsafe { libc::madvise(base, pages.len(), advice) } == 0 {
        return;
    }
    // Before Linux 5.14 there is no such advice. The kernel gets a page that it is to read.
    let Ok(memory) = File::open("/proc/self/mem") else { return };
    let mut page = [0; PAGE_BYTES];
    for at in pages.clone().step_by(PAGE_BYTES) {
        let _ = memory.read_at(&mut page, at as u64);
    }
}

/// What this process may lock; `None` without a limit.
fn limit_bytes() -> Option<u64> {
    rustix::process::getrlimit(Resource::Memlock).current
}

/// Memory of no use, as long as this value lives.
struct Place {
    pages: Range<usize>,
}

impl Place {
    /// Nothing where there is no room for it.
    fn map(bytes: usize) -> Self {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Self { pages: 0..0 };
        }
        let base = base.expose_provenance();
        Self { pages: base..base + bytes }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let base = ptr::with_exposed_provenance_mut(self.pages.start);
        // SAFETY: the mapping was made with this size, or is empty and this does nothing; nobody
        // has a reference into it.
        unsafe { libc::munmap(base, self.pages.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d000000000-55d000002000 r--p 00000000 fe:00 1 /bin/x
55d000002000-55d000005000 r-xp 00002000 fe:00 1 /bin/x
55d000005000-55d000006000 rw-p 00005000 fe:00 1 /bin/x
55d100000000-55d100021000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000100000 rw-s 00000000 00:01 9 /dev/shm/schedvmm-load-1-0 (deleted)
7f1000000000-7f1004000000 ---p 00000000 00:00 0 
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
7ffc00100000-7ffc00104000 r--p 00000000 00:00 0 [vvar]
7ffc00104000-7ffc00106000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";

    #[test]
    fn a_program_is_data_and_code_and_nothing_of_the_kernels() {
        let chosen = 0x7f00_0000_0000..0x7f00_0010_0000;
        let found = regions_of_program(MAPS, &chosen);
        let sizes = |what| -> Vec<usize> {
            let wanted = found.iter().filter(|region| region.what == what);
            wanted.map(|region| region.pages.len() / PAGE_BYTES).collect()
        };
        assert_eq!((sizes(DATA), sizes(CODE)), (vec![1, 0x21, 0x21], vec![2, 3]));
        assert!(found.iter().all(|region| (region.what == DATA) == region.private_data));
        // Without the choice, the shared memory is data as well, and not this process's alone.
        let all = regions_of_program(MAPS, &(0..0));
        assert_eq!(all.iter().filter(|region| !region.private_data).count(), 3);
        assert_eq!(regions_of_program("nonsense\n\nx-y r\n", &chosen), []);
    }

    #[test]
    fn what_is_not_locked_is_told_with_its_size_and_the_limit() {
        let tally = Tally {
            all_bytes: 9 << 20,
            unlocked_bytes: 5 << 19,
            kinds: vec![STACKS, CODE],
            why: Some("no".into()),
        };
        let text = tally.told(Some(64 << 10));
        assert_eq!(
            text,
            "memory: 2.5 MiB of the 9.0 MiB that each process of the load uses are not locked \
             (stacks, code): no, the limit is 64 KiB (`ulimit -l`); they are in memory now, and can \
             be taken out of it while the load runs"
        );
        assert!(!tally.told(None).contains("limit"));
    }

    #[test]
    fn a_region_that_is_not_there_is_not_locked() {
        let mut tally = Tally::default();
        let pages = 0x1000_0000_0000..0x1000_0000_3000;
        tally.lock(&Region { what: DATA, pages, private_data: true });
        assert_eq!((tally.all_bytes, tally.unlocked_bytes), (0x3000, 0x3000));
        assert!(tally.why.is_some() && tally.kinds == [DATA]);
    }

    #[test]
    fn a_stack_is_where_its_variables_are() {
        let here = std::thread::spawn(|| {
            let variable = 0u8;
            (ptr::from_ref(&variable).addr(), stack_top().unwrap())
        });
        let (variable, top) = here.join().unwrap();
        assert!(variable < top && top - variable < STACK_LOCKED_BYTES, "{variable:x} {top:x}");
    }
}
