// SPDX-License-Identifier: Apache-2.0
//! What ran on CPUs in a window of time: for pictures.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::FtraceError;
use crate::ring::{Item, Record};
use crate::sched::{Decoder, Event};
use crate::trace::Trace;

/// A thread that had a CPU for a while. Times are of the trace clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// When it began, or the window did.
    pub begin: u64,
    /// When it ended, or the window did.
    pub end: u64,
    /// The thread; 0 is the idle one.
    pub tid: i32,
}

/// One CPU. Where it has no slice, the trace does not say what ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// In order of time; they do not overlap.
    pub slices: Vec<Slice>,
    /// Slices there was no room for, the last ones.
    pub left_out: u64,
}

/// Some CPUs in a window of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    /// By CPU.
    pub cpus: BTreeMap<u32, Lane>,
    /// Names of the threads in the slices.
    pub names: BTreeMap<i32, String>,
    /// Time of the trace's first record, if that is in the window or before its end.
    pub first: Option<u64>,
    /// Time of its last record, or the window's end if that comes first.
    pub last: Option<u64>,
}

/// A thread's name, padded with NUL.
type Comm = [u8; 16];

/// What is known about a CPU.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    /// Nothing is missing since this record.
    known_since: Option<u64>,
    /// What was switched to last, and its name.
    current: Option<(i32, Comm)>,
}

/// Reads what ran on `cpus` in `window`; at most `max_slices` slices of each are kept.
///
/// The trace is read up to the end of the window. It needs `sched_switch`. A record that goes back
/// in time, as only a damaged trace has it, counts as of the latest time before it.
///
/// # Errors
/// [`FtraceError::ReadPages`] and [`FtraceError::TooLarge`].
pub fn lanes(
    trace: &Trace,
    window: Range<u64>,
    cpus: &[u32],
    max_slices: usize,
) -> Result<Lanes, FtraceError> {
    let decoder = Decoder::new(trace.formats());
    let mut reader = Reader {
        lanes: Lanes {
            cpus: cpus.iter().map(|&cpu| (cpu, Lane::default())).collect(),
            ..Lanes::default()
        },
        states: BTreeMap::new(),
        now: 0,
        window,
        max_slices,
    };
    let mut events = trace.events()?;
    while let Some(item) = events.next()? {
        match item {
            Item::Record(record) if record.time >= reader.window.end => {
                reader.lanes.last = Some(reader.window.end);
                break;
            }
            Item::Record(record) => reader.record(&record, decoder.decode(record.data)),
            // The rest of the CPU's slice is unknown, and so is what ran next.
            Item::Lost(lost) => {
                reader.now = reader.now.max(lost.after);
                reader.close(lost.cpu, lost.after);
                reader.states.remove(&lost.cpu);
            }
        }
    }
    let open: Vec<u32> = reader.states.keys().copied().collect();
    let last = reader.lanes.last.unwrap_or(0);
    open.into_iter().for_each(|cpu| reader.close(cpu, last));
    Ok(reader.lanes)
}

struct Reader {
    lanes: Lanes,
    states: BTreeMap<u32, Cpu>,
    /// Latest time of any record; time never goes back.
    now: u64,
    window: Range<u64>,
    max_slices: usize,
}

impl Reader {
    fn record(&mut self, record: &Record, event: Option<Event>) {
        self.now = self.now.max(record.time);
        let now = self.now;
        self.lanes.first.get_or_insert(now);
        self.lanes.last = Some(now);
        if !self.lanes.cpus.contains_key(&record.cpu) {
            return;
        }
        let cpu = self.states.entry(record.cpu).or_default();
        cpu.known_since.get_or_insert(now);
        let Some(Event::Switch(switch)) = event else { return };
        // What the CPU switches from is what ran since the first record that is there.
        cpu.current.get_or_insert((switch.prev_pid, comm(switch.prev_comm)));
        self.close(record.cpu, now);
        let current = Some((switch.next_pid, comm(switch.next_comm)));
        self.states.insert(record.cpu, Cpu { known_since: Some(now), current });
    }

    /// Ends what runs on a CPU.
    fn close(&mut self, cpu: u32, at: u64) {
        let Some(&Cpu { known_since: Some(since), current: Some((tid, comm)) }) =
            self.states.get(&cpu)
        else {
            return;
        };
        let begin = since.max(self.window.start);
        let end = at.min(self.window.end);
        let Some(lane) = self.lanes.cpus.get_mut(&cpu).filter(|_| begin < end) else { return };
        if lane.slices.len() >= self.max_slices {
            lane.left_out += 1;
            return;
        }
        lane.slices.push(Slice { begin, end, tid });
        if tid != 0 {
            self.lanes.names.entry(tid).or_insert_with(|| {
                let length = comm.iter().position(|&byte| byte == 0).unwrap_or(comm.len());
                String::from_utf8_lossy(&comm[..length]).into_owned()
            });
        }
    }
}

/// A name as long as the kernel's are.
fn comm(bytes: &[u8]) -> Comm {
    let mut comm = [0; 16];
    let length = bytes.len().min(comm.len());
    comm[..length].copy_from_slice(&bytes[..length]);
    comm
}
