// SPDX-License-Identifier: Apache-2.0
//! A trace as one stream of bytes, for a pipe or a port: written while it is read from the
//! kernel, in constant memory; of use up to where it came if it ends early.
//!
//! ```text
//! "ftdump1\n"                                 8 bytes
//! then frames:
//!   kind: u32  number: u32  length: u64       little-endian
//!   `length` bytes
//! the last one is the trailer:
//!   length of all before it: u64  CRC-32 (IEEE 802.3) of that: u32  zero: u32
//! ```
//!
//! `number` is a CPU for pages and statistics, and 0 otherwise. The pages of a CPU come in
//! order, in any number of frames, and each frame has whole pages.

mod read;
mod write;

pub use read::{CpuStats, Dump};
pub use write::DumpWriter;

/// The first bytes.
const MAGIC: &[u8; 8] = b"ftdump1\n";
/// Bytes before a frame's contents.
const HEADER_BYTES: usize = 16;
/// Kind of the trailer.
const KIND_END: u32 = u32::MAX;
/// Contents of the trailer, in bytes.
const END_BYTES: usize = 16;
/// Kind of a frame with pages.
const KIND_PAGES: u32 = 9;
/// Longest contents of a frame: what a reader may have to hold.
const MAX_FRAME_BYTES: u64 = 16 << 20;

/// What there is beside pages. Contents are as the kernel wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section<'a> {
    /// `events/header_page`.
    HeaderPage,
    /// `events/header_event`.
    HeaderEvent,
    /// `events/SYSTEM/*/format`.
    Format {
        /// The system.
        system: &'a str,
    },
    /// `saved_cmdlines`.
    Comms,
    /// `/proc/kallsyms`, or lines of it.
    Kallsyms,
    /// `printk_formats`.
    PrintkFormats,
    /// The name of the clock in use.
    Clock,
    /// The words of `uname`.
    Uname,
    /// The number of its [`TraceId`](crate::TraceId), 8 bytes, little-endian.
    Id,
    /// `per_cpu/cpuN/stats`.
    Stats {
        /// N.
        cpu: u32,
    },
}

impl Section<'_> {
    /// Kind and number of its frame.
    fn code(self) -> (u32, u32) {
        match self {
            Self::HeaderPage => (1, 0),
            Self::HeaderEvent => (2, 0),
            Self::Format { .. } => (3, 0),
            Self::Comms => (4, 0),
            Self::Kallsyms => (5, 0),
            Self::PrintkFormats => (6, 0),
            Self::Clock => (7, 0),
            Self::Uname => (8, 0),
            Self::Stats { cpu } => (10, cpu),
            Self::Id => (11, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read};

    /// Gives a page a read, as the kernel does, and then has no more for now.
    struct Pages(Vec<Vec<u8>>);

    impl Read for Pages {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let page = self.0.remove(0);
            buffer[..page.len()].copy_from_slice(&page);
            Ok(page.len())
        }
    }

    const HEADER_PAGE: &[u8] = b"\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
          \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
          \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
          \tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";
    const HEADER_EVENT: &[u8] = b"# compressed entry header\n\
          \ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n\
          \tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n\
          \tdata max type_len  == 28\n";

    const FORMAT: &[u8] = b"name: print\nID: 5\nformat:\n\
          \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
          \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n";

    fn page(number: u8) -> Vec<u8> {
        vec![number; 4096]
    }

    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut dump = DumpWriter::new(&mut bytes).expect("written");
        dump.section(Section::HeaderPage, HEADER_PAGE).expect("written");
        dump.section(Section::HeaderEvent, HEADER_EVENT).expect("written");
        dump.section(Section::Format { system: "ftrace" }, FORMAT).expect("written");
        dump.section(Section::Clock, b"x86-tsc").expect("written");
        dump.section(Section::Id, &7_u64.to_le_bytes()).expect("written");
        let stats = b"entries: 7\noverrun: 3\ndropped events: 0\n";
        dump.section(Section::Stats { cpu: 1 }, stats).expect("written");
        let many = (0..100).map(page).collect();
        dump.pages(1, &mut Pages(many)).expect("written");
        dump.pages(0, &mut Pages(vec![page(200)])).expect("written");
        dump.pages(2, &mut Pages(vec![])).expect("written");
        let length = dump.finish().expect("written");
        assert_eq!(length, bytes.len() as u64);
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let dump = Dump::from_bytes(stream()).expect("readable");
        assert_eq!(dump.torn(), None);
        assert_eq!(dump.trace().metadata().clock, "x86-tsc");
        assert_eq!(dump.trace().metadata().id, crate::TraceId::of(7));
        let stats = CpuStats { cpu: 1, events: 7, overwritten: 3, dropped: 0 };
        assert_eq!(dump.stats(), [stats]);
        let pages = dump.trace().pages();
        assert_eq!(pages.len(), 2);
        let mut all = Vec::new();
        pages[1].reader().read_to_end(&mut all).expect("in memory");
        assert_eq!(all, (0..100).flat_map(page).collect::<Vec<_>>());
        // Across the border of two frames, from the middle.
        let mut some = vec![0; 300 << 10];
        assert_eq!(pages[1].read_at(4095, &mut some).expect("in memory"), some.len());
        assert_eq!((some[0], some[1], some[4097]), (0, 1, 2));
        assert_eq!(pages[0].len(), 4096);
    }

    #[test]
    fn a_torn_stream_is_read_up_to_its_end() {
        let whole = stream();
        let mut before = 0;
        for length in (0..whole.len()).step_by(1009) {
            let dump = match Dump::from_bytes(whole[..length].to_vec()) {
                Ok(dump) => dump,
                Err(error) => {
                    assert!(length < 2000, "{length} bytes are enough: {error}");
                    continue;
                }
            };
            let why = dump.torn().expect("it is torn");
            assert!(why.contains("ends"), "{why}");
            let pages: u64 = dump.trace().pages().iter().map(crate::ByteSource::len).sum();
            assert!(pages >= before && pages.is_multiple_of(4096));
            before = pages;
        }
        assert!(before >= 100 * 4096);
    }

    #[test]
    fn a_torn_dump_is_gone_on_with_behind_its_last_whole_frame() {
        let whole = stream();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut begin = Vec::new();
        let mut dump = DumpWriter::new(&mut begin).expect("written");
        dump.section(Section::HeaderPage, HEADER_PAGE).expect("written");
        dump.section(Section::HeaderEvent, HEADER_EVENT).expect("written");
        dump.section(Section::Format { system: "ftrace" }, FORMAT).expect("written");
        let whole_frames = begin.len();
        for torn in [0, 1, 15, 17, 30] {
            std::fs::write(file.path(), &whole[..whole_frames + torn]).expect("written");
            let mut dump = DumpWriter::resume(file.path()).expect("it is a dump");
            dump.pages(1, &mut Pages(vec![page(7)])).expect("written");
            dump.finish().expect("written");
            let dump = Dump::open(file.path()).expect("readable");
            assert_eq!(dump.torn(), None, "{torn}");
            assert_eq!(dump.trace().pages()[1].len(), 4096);
            assert_eq!(dump.trace().metadata().clock.is_empty(), torn < 23);
        }
        for (bytes, why) in [(&whole[..], "ended"), (b"something else", "no dump")] {
            std::fs::write(file.path(), bytes).expect("written");
            let error = DumpWriter::resume(file.path()).expect_err("no dump to go on with");
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn damage_shows() {
        let whole = stream();
        for at in (1500..whole.len()).step_by(4099) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            if let Ok(dump) = Dump::from_bytes(bytes) {
                assert!(dump.torn().is_some(), "byte {at}");
            }
        }
        let error = Dump::from_bytes(b"something else entirely".to_vec()).expect_err("no dump");
        assert!(error.to_string().contains("byte 0"), "{error}");
    }
}
