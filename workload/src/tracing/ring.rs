// SPDX-License-Identifier: Apache-2.0
//! The tracing instance that the host asked the kernel for on its command line, with
//! `reserve_mem=` and `trace_instance=` (Linux 6.12): its ring buffers lie in memory that the host
//! can read when this guest is dead.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protocol::message::TraceRing;
use protocol::names::TRACE_INSTANCE;

use crate::kernel::files::make_node;

/// A file of each CPU's that only such an instance has.
const ITS_OWN_FILE: &str = "per_cpu/cpu0/buffer_meta";

/// Where the kernel's words begin, up to the instance's name (enable_instances in
/// kernel/trace/trace.c).
const WORDS: &str = "Tracing: mapped boot instance ";

/// Records of the kernel's log that are looked at: a boot has some hundreds.
const MAX_RECORDS: usize = 20_000;

/// Longest record, the kernel's own limit (PRINTK_MESSAGE_MAX).
const RECORD_BYTES: usize = 2048;

/// The instance and its memory, if the kernel has made it and says where it is.
pub(super) fn find(root: &Path) -> Option<(PathBuf, TraceRing)> {
    let instance = root.join("instances").join(TRACE_INSTANCE);
    instance.join(ITS_OWN_FILE).exists().then_some(())?;
    let _ = make_node(Path::new("/dev/kmsg"), 1, 11);
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    Some((instance, place(open.ok()?)?))
}

/// Looks for the kernel's words in its log, which hands out one record with each read.
fn place(mut log: impl Read) -> Option<TraceRing> {
    let mut record = [0; RECORD_BYTES];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(bytes) => {
                let found = parse(&String::from_utf8_lossy(&record[..bytes]));
                if found.is_some() {
                    return found;
                }
            }
            // Older ones were overwritten (EPIPE) meanwhile, or one is too long.
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if is_passing(&error) => {}
            Err(_) => break,
        }
    }
    None
}

fn is_passing(error: &io::Error) -> bool {
    [Some(libc::EPIPE), Some(libc::EINVAL), Some(libc::EINTR)].contains(&error.raw_os_error())
}

/// `… NAME at physical memory 0x… of size 0x…`
fn parse(record: &str) -> Option<TraceRing> {
    let (_, words) = record.split_once(WORDS)?;
    let words = words.lines().next()?.strip_prefix(TRACE_INSTANCE)?;
    let (address, bytes) =
        words.strip_prefix(" at physical memory 0x")?.split_once(" of size 0x")?;
    Some(TraceRing { address: from_hex(address)?, bytes: from_hex(bytes)? })
}

fn from_hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One record with each read.
    struct Log(Vec<io::Result<&'static str>>);

    impl Read for Log {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let record = self.0.remove(0)?;
            buffer[..record.len()].copy_from_slice(record.as_bytes());
            Ok(record.len())
        }
    }

    const RECORD: &str = "6,31,0,-;Tracing: mapped boot instance schedvmm at physical memory \
        0x000000013efec000 of size 0x1000000\n SUBSYSTEM=x\n";

    #[test]
    fn the_kernel_says_where_the_ring_is() {
        let overwritten = Err(io::Error::from_raw_os_error(libc::EPIPE));
        let log = Log(vec![overwritten, Ok("5,0,0,-;Linux version 6.12\n"), Ok(RECORD)]);
        let ring = TraceRing { address: 0x1_3efe_c000, bytes: 0x100_0000 };
        assert_eq!(place(log), Some(ring));
    }

    #[test]
    fn other_words_are_no_place() {
        let other = RECORD.replace("schedvmm", "another");
        for record in [
            &other,
            "Tracing: mapped boot instance schedvmm",
            "",
            &RECORD.replace("0x1000000", "0x"),
        ] {
            assert_eq!(parse(record), None, "{record}");
        }
        assert_eq!(place(Log(vec![])), None);
        assert_eq!(find(Path::new("/nonexistent")), None);
    }
}
