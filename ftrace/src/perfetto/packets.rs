// SPDX-License-Identifier: Apache-2.0
//! Packets, of which a Perfetto trace consists.

use std::io::{self, Write};

use super::wire::Message;
use crate::attribution::Units;

/// Fields of `Trace`.
const PACKET: u32 = 1;

/// Fields of `TracePacket`.
pub(super) mod packet {
    pub(crate) const FTRACE_EVENTS: u32 = 1;
    pub(super) const TIMESTAMP: u32 = 8;
    pub(super) const SEQUENCE_ID: u32 = 10;
    pub(super) const TRACK_EVENT: u32 = 11;
    pub(super) const SEQUENCE_FLAGS: u32 = 13;
    pub(super) const SYSTEM_INFO: u32 = 45;
    pub(super) const TRACK_DESCRIPTOR: u32 = 60;
}

/// `SEQ_INCREMENTAL_STATE_CLEARED`: nothing before is needed to read this.
const STATE_CLEARED: u32 = 1;
/// All packets are of one writer.
const SEQUENCE: u32 = 1;
/// Written at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// `SystemInfo.utsname`, and fields of `Utsname`.
mod system_info {
    pub(super) const UTSNAME: u32 = 1;
    pub(super) const SYSNAME: u32 = 1;
    pub(super) const RELEASE: u32 = 3;
    pub(super) const MACHINE: u32 = 4;
}

/// Fields of `TrackDescriptor`.
mod track_descriptor {
    pub(super) const UUID: u32 = 1;
    pub(super) const NAME: u32 = 2;
    pub(super) const PARENT_UUID: u32 = 5;
}

/// Fields of `TrackEvent`, and values of its `Type`.
mod track_event {
    pub(super) const TYPE: u32 = 9;
    pub(super) const TRACK_UUID: u32 = 11;
    pub(super) const NAME: u32 = 23;
    pub(super) const SLICE_BEGIN: u32 = 1;
    pub(super) const SLICE_END: u32 = 2;
}

/// Writes packets.
pub(super) struct Packets<W> {
    out: W,
    units: Units,
    buffer: Vec<u8>,
    first: bool,
}

impl<W: Write> Packets<W> {
    pub(super) fn new(out: W, units: Units) -> Self {
        Self { out, units, buffer: Vec::new(), first: true }
    }

    /// A time of the trace clock in nanoseconds.
    pub(super) fn ns(&self, ticks: u64) -> u64 {
        self.units.ns(ticks)
    }

    pub(super) fn packet(&mut self, write: impl FnOnce(&mut Message)) -> io::Result<()> {
        let first = std::mem::take(&mut self.first);
        Message::at_end_of(&mut self.buffer).message(PACKET, |message| {
            message.uint(packet::SEQUENCE_ID, SEQUENCE);
            if first {
                message.uint(packet::SEQUENCE_FLAGS, STATE_CLEARED);
            }
            write(message);
        });
        if self.buffer.len() >= CHUNK_BYTES { self.write_out() } else { Ok(()) }
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write_out()?;
        self.out.flush()
    }

    /// Says which system was traced, by the words of `uname`: its name, perhaps the host's, the
    /// kernel's release, and the machine.
    pub(super) fn system(&mut self, uname: &str) -> io::Result<()> {
        let words: Vec<&str> = uname.split_ascii_whitespace().collect();
        let [sysname, rest @ ..] = &words[..] else { return Ok(()) };
        let release = rest.iter().position(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        self.packet(|message| {
            message.message(packet::SYSTEM_INFO, |system| {
                system.message(system_info::UTSNAME, |utsname| {
                    utsname.text(system_info::SYSNAME, sysname);
                    if let Some((release, [.., machine])) =
                        release.map(|at| (rest[at], &rest[at..])).filter(|(_, rest)| rest.len() > 1)
                    {
                        utsname.text(system_info::RELEASE, release);
                        utsname.text(system_info::MACHINE, machine);
                    }
                });
            });
        })
    }

    /// Makes a track; `parent` 0 is none.
    pub(super) fn track(&mut self, uuid: u64, parent: u64, name: &str) -> io::Result<()> {
        self.packet(|message| {
            message.message(packet::TRACK_DESCRIPTOR, |track| {
                track.uint(track_descriptor::UUID, uuid).text(track_descriptor::NAME, name);
                if parent != 0 {
                    track.uint(track_descriptor::PARENT_UUID, parent);
                }
            });
        })
    }

    /// Begins a slice on a track, at a time of the trace clock.
    pub(super) fn begin(&mut self, track: u64, time: u64, name: &str) -> io::Result<()> {
        self.slice(track, time, Some(name))
    }

    /// Ends the slice that began last on a track.
    pub(super) fn end(&mut self, track: u64, time: u64) -> io::Result<()> {
        self.slice(track, time, None)
    }

    fn slice(&mut self, track: u64, time: u64, name: Option<&str>) -> io::Result<()> {
        let time = self.ns(time);
        self.packet(|message| {
            message.uint(packet::TIMESTAMP, time).message(packet::TRACK_EVENT, |event| {
                event.uint(track_event::TRACK_UUID, track);
                match name {
                    Some(name) => event
                        .uint(track_event::TYPE, track_event::SLICE_BEGIN)
                        .text(track_event::NAME, name),
                    None => event.uint(track_event::TYPE, track_event::SLICE_END),
                };
            });
        })
    }
}
