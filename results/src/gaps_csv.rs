// SPDX-License-Identifier: Apache-2.0
//! `gaps.csv`: written while the run goes on, so that whoever is killed leaves what was measured,
//! and read by the names of its columns.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use gaps::evidence::Class;
use gaps::record::{GapKind, GapRecord};
use protocol::index::Member;

use crate::clock::{Clock, Until};
use crate::error::GapsError;
use crate::model::{LocatedGap, Numbers};

/// Name of the file in a result folder.
pub const NAME: &str = "gaps.csv";
const HEADING: &str = "group,thread,begin_ns,length_ns,tsc_begin,tsc_end,cpu_begin,cpu_end,class,after_hit,kind,\
     unfinished,warmup\n";
/// Lines are handed over in pieces of about this size.
const PIECE_BYTES: usize = 256 << 10;
/// Longer than any line.
const LINE_BYTES: usize = 192;

/// The file, and what is in it.
#[derive(Debug)]
pub struct GapFile {
    file: File,
    /// Length of what was written whole.
    whole_bytes: u64,
    /// Records written, by thread.
    written: Vec<usize>,
    /// When the last one of them ended.
    last_tsc: u64,
    until: Until,
    max_bytes: u64,
}

impl GapFile {
    /// Makes the file, with its heading.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().append(true).create_new(true).open(path)?;
        file.write_all(HEADING.as_bytes())?;
        let (whole_bytes, written) = (HEADING.len() as u64, Vec::new());
        let until = Until::default();
        Ok(Self { file, whole_bytes, written, last_tsc: 0, until, max_bytes: u64::MAX })
    }

    /// Has it take no more than so many bytes.
    pub fn limit(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
    }

    /// Whether there are gaps that it has no room for.
    pub fn is_full(&self) -> bool {
        self.whole_bytes >= self.max_bytes
    }

    /// Adds the records that are not in it yet, marked where they ended after the figures do. One
    /// line a gap: what could not be written whole is taken back, and tried again the next time.
    ///
    /// # Errors
    /// The disk is full, for one.
    pub fn append(&mut self, gaps: &[Vec<GapRecord>], clock: Clock<'_>) -> io::Result<()> {
        let until = clock.until();
        if self.until != until && until.tsc().is_some_and(|tsc| tsc < self.last_tsc) {
            // Some were written before anybody knew: once more from the start.
            self.file.set_len(HEADING.len() as u64)?;
            (self.whole_bytes, self.last_tsc) = (HEADING.len() as u64, 0);
            self.written.clear();
        }
        self.until = until;
        self.written.resize(gaps.len(), 0);
        let mut piece = Vec::with_capacity(PIECE_BYTES + LINE_BYTES);
        for (thread, records) in gaps.iter().enumerate() {
            // A thread that is none of the load's has no gaps.
            let Some(member) = clock.member(thread) else { continue };
            while let Some(rest) = records.get(self.written[thread]..).filter(|r| !r.is_empty()) {
                piece.clear();
                let mut lines = 0;
                for record in rest {
                    if self.whole_bytes + (piece.len() + LINE_BYTES) as u64 > self.max_bytes {
                        // No further line fits, of whichever thread.
                        self.max_bytes = self.whole_bytes + piece.len() as u64;
                        break;
                    }
                    line(&mut piece, member, record, clock);
                    self.last_tsc = self.last_tsc.max(record.tsc_end);
                    lines += 1;
                    if piece.len() >= PIECE_BYTES {
                        break;
                    }
                }
                if lines == 0 {
                    return Ok(());
                }
                self.write(&piece)?;
                self.written[thread] += lines;
            }
        }
        Ok(())
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(piece);
        match written {
            Ok(()) => self.whole_bytes += piece.len() as u64,
            // If that fails, too, half a line stays: the next one begins in it.
            Err(_) => drop(self.file.set_len(self.whole_bytes)),
        }
        written
    }
}

fn line(piece: &mut Vec<u8>, member: Member, record: &GapRecord, clock: Clock<'_>) {
    let (begin_ns, length_ns) = (clock.since_start_ns(record.tsc_begin), clock.ns(record.ticks()));
    let numbers = [
        member.group.number().into(),
        member.number().into(),
        begin_ns,
        length_ns,
        record.tsc_begin,
        record.tsc_end,
        record.cpu_begin.into(),
        record.cpu_end.into(),
    ];
    let mut digits = itoa::Buffer::new();
    for number in numbers {
        piece.extend_from_slice(digits.format(number).as_bytes());
        piece.push(b',');
    }
    piece.extend_from_slice(record.class.name().as_bytes());
    piece.extend_from_slice(if clock.until().has(record) { b",0," } else { b",1," });
    piece.extend_from_slice(record.kind.name().as_bytes());
    piece.extend_from_slice(if record.unfinished { b",1" } else { b",0" });
    piece.extend_from_slice(if record.warmup { b",1\n" } else { b",0\n" });
}

/// Where each column that is read stands.
struct Columns {
    group: usize,
    thread: usize,
    begin_ns: usize,
    length_ns: usize,
    tsc_begin: usize,
    tsc_end: usize,
    cpu_begin: usize,
    cpu_end: usize,
    class: usize,
    /// Older files have gaps of one kind only.
    kind: Option<usize>,
    unfinished: Option<usize>,
}

impl Columns {
    /// By a heading.
    fn of(heading: &str) -> Result<Self, GapsError> {
        let names: Vec<&str> = heading.split(',').collect();
        Ok(Self {
            group: column("group", &names)?,
            thread: column("thread", &names)?,
            begin_ns: column("begin_ns", &names)?,
            length_ns: column("length_ns", &names)?,
            tsc_begin: column("tsc_begin", &names)?,
            tsc_end: column("tsc_end", &names)?,
            cpu_begin: column("cpu_begin", &names)?,
            cpu_end: column("cpu_end", &names)?,
            class: column("class", &names)?,
            kind: place("kind", &names),
            unfinished: place("unfinished", &names),
        })
    }

    /// The gap of a line.
    fn gap(&self, line: &str, names: &Names<'_>) -> Option<LocatedGap> {
        let cells: Vec<&str> = line.split(',').collect();
        let class = cells.get(self.class)?;
        let (tsc_begin, tsc_end) = (u64_at(self.tsc_begin, &cells)?, u64_at(self.tsc_end, &cells)?);
        let kind = match self.kind {
            Some(column) => {
                let name = cells.get(column)?;
                GapKind::ALL.into_iter().find(|known| known.name() == *name)?
            }
            None => GapKind::default(),
        };
        Some(LocatedGap {
            who: names.of(u32_at(self.group, &cells)?, u32_at(self.thread, &cells)?)?,
            tid: None,
            begin_ns: u64_at(self.begin_ns, &cells)?,
            length_ns: u64_at(self.length_ns, &cells)?,
            length_ticks: tsc_end.checked_sub(tsc_begin)?,
            tsc_begin,
            tsc_end,
            cpu_begin: u32_at(self.cpu_begin, &cells)?,
            cpu_end: u32_at(self.cpu_end, &cells)?,
            class: Class::ALL.into_iter().find(|known| known.name() == *class)?,
            kind,
            unfinished: match self.unfinished {
                Some(column) => u32_at(column, &cells)? != 0,
                None => false,
            },
            host_known_ns: 0,
            host_ns: None,
            net_ns: None,
        })
    }
}

/// The place of a column that has to be in the head line.
fn column(name: &'static str, names: &[&str]) -> Result<usize, GapsError> {
    place(name, names).ok_or(GapsError::Column(name))
}

/// The place of a column in the head line; older files lack some.
fn place(name: &str, names: &[&str]) -> Option<usize> {
    names.iter().position(|column| *column == name)
}

fn u64_at(column: usize, cells: &[&str]) -> Option<u64> {
    cells.get(column)?.parse::<u64>().ok()
}

fn u32_at(column: usize, cells: &[&str]) -> Option<u32> {
    cells.get(column)?.parse::<u32>().ok()
}

/// Whose gaps the numbers in the file are.
#[derive(Clone, Copy, Debug)]
pub enum Names<'a> {
    /// Group and thread as they are shown.
    Shown,
    /// Of the first version: threads are counted over all groups. These are they, in order.
    Counted(&'a [Numbers]),
}

impl Names<'_> {
    fn of(&self, group: u32, thread: u32) -> Option<Numbers> {
        match self {
            Self::Shown => Some(Numbers { group, thread }),
            Self::Counted(threads) => threads.get(thread as usize).copied(),
        }
    }
}

/// Reads the text of a file. A last line without an end was being written when the run was killed,
/// and is left out.
///
/// # Errors
/// A column is missing, or a line is none of its.
pub fn read(text: &str, names: Names<'_>) -> Result<Vec<LocatedGap>, GapsError> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole.lines();
    let columns = Columns::of(lines.next().unwrap_or_default())?;
    lines
        .enumerate()
        .map(|(number, line)| {
            columns
                .gap(line, &names)
                .ok_or_else(|| GapsError::Line { number: number + 2, line: line.to_owned() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::load;

    #[test]
    fn what_is_written_is_read_by_the_names_of_its_columns() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join(NAME);
        let load = load(2, 1);
        let clock = Clock::new(1_000_000, 5, &load);
        let mut file = GapFile::create(&path).expect("made");
        file.append(&[vec![], vec![record(10), record(50)]], clock).expect("written");
        let text = fs::read_to_string(&path).expect("read");
        let found = read(&text, Names::Shown).expect("its own");
        let written = [record(10), record(50)].map(|it| clock.locate(1, None, it));
        assert_eq!(found.into_iter().map(Some).collect::<Vec<_>>(), written);
        // In another order, and with a line that was being written.
        let heading =
            "class,thread,new,group,begin_ns,length_ns,tsc_begin,tsc_end,cpu_begin,cpu_end";
        let found = read(&format!("{heading}\nirq,3,x,2,10,20,100,200,4,5\nirq,3"), Names::Shown);
        let gap = LocatedGap {
            who: Numbers { group: 2, thread: 3 },
            tid: None,
            begin_ns: 10,
            length_ns: 20,
            length_ticks: 100,
            tsc_begin: 100,
            tsc_end: 200,
            cpu_begin: 4,
            cpu_end: 5,
            class: Class::Irq,
            ..LocatedGap::default()
        };
        assert_eq!(found, Ok(vec![gap]));
        let line = "host,1,x,0,1,1,1,2,0,0";
        let counted = Names::Counted(&[gap.who, Numbers { group: 9, thread: 8 }]);
        let found = read(&format!("{heading}\n{line}\n"), counted).expect("read");
        assert_eq!(found[0].who.to_string(), "9.8");
        for (text, says) in [
            (String::new(), "no column group"),
            (heading.replace("class", "x") + "\n", "no column class"),
            (format!("{heading}\nirq,1,x,1\n"), "line 2"),
            (format!("{heading}\nirq,1,x,1,1,1,9,8,0,0\n"), "line 2"),
            (format!("{heading}\nwhat,1,x,1,1,1,8,9,0,0\n"), "line 2"),
        ] {
            let error = read(&text, Names::Shown).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    fn record(begin: u64) -> GapRecord {
        GapRecord {
            tsc_begin: begin,
            tsc_end: begin + 20,
            cpu_begin: 2,
            cpu_end: 3,
            class: Class::Host,
            kind: if begin.is_multiple_of(20) { GapKind::WakeUp } else { GapKind::Preemption },
            unfinished: begin.is_multiple_of(40),
            warmup: begin == 7,
        }
    }

    #[test]
    fn each_gap_is_written_once_and_as_it_comes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("gaps.csv");
        let load = load(2, 1);
        let clock = Clock::new(1_000_000, 5, &load);
        let mut file = GapFile::create(&path).expect("made");
        let mut gaps = vec![vec![], vec![record(10)]];
        for _ in 0..2 {
            file.append(&gaps, clock).expect("written");
        }
        gaps[0].push(record(7));
        file.append(&gaps, clock).expect("written");
        let text = || fs::read_to_string(&path).expect("read");
        let end = ",preemption,0,0\n";
        let early = ",preemption,0,1\n";
        let lines = ["2,1,5,20,10,30,2,3,host", "1,1,2,20,7,27,2,3,host"];
        assert_eq!(text(), format!("{HEADING}{},0{end}{},0{early}", lines[0], lines[1]));
        // A hit that does not touch them, and one that is heard of too late.
        file.append(&gaps, clock.ending(Until::new(Some(30)))).expect("written");
        assert_eq!(text(), format!("{HEADING}{},0{end}{},0{early}", lines[0], lines[1]));
        gaps[1].push(record(40));
        file.append(&gaps, clock.ending(Until::new(Some(28)))).expect("written");
        let later = "2,1,35,20,40,60,2,3,host,1,wake-up,1,0";
        let two = format!("{},0{early}{},1{end}", lines[1], lines[0]);
        assert_eq!(text(), format!("{HEADING}{two}{later}\n"));
        GapFile::create(&path).expect_err("it is there already");
    }

    #[test]
    fn many_gaps_come_in_pieces_and_none_is_lost() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("gaps.csv");
        let load = load(1, 1);
        let mut file = GapFile::create(&path).expect("made");
        let gaps = vec![(0..20_000).map(record).collect::<Vec<_>>()];
        file.append(&gaps, Clock::new(1_000_000, 0, &load)).expect("written");
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.len() > 2 * PIECE_BYTES, "too few for two pieces");
        let begins = text.lines().skip(1).map(|line| line.split(',').nth(2).expect("a field"));
        assert!(begins.map(|begin| begin.parse::<u64>().expect("a number")).eq(0..20_000));
    }
}
