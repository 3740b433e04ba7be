// SPDX-License-Identifier: Apache-2.0
//! The kernel's own events, in bundles of one CPU each.

use std::io::{self, Write};

use super::packets::{Packets, packet};
use super::wire::Message;
use crate::format::{Field, Formats, IntField};
use crate::ring::{Lost, Record};
use crate::sched::{Decoder, Event, IrqSource, Migrate, Switch, Wake};
use crate::trace::Trace;

/// Bundles of all CPUs together, and each, at most, in bytes; but for one event.
const ALL_BUNDLES_BYTES: usize = 16 << 20;
const BUNDLE_BYTES: usize = 64 << 10;

/// Fields of `FtraceEventBundle`.
mod bundle {
    pub(super) const CPU: u32 = 1;
    pub(super) const EVENT: u32 = 2;
    pub(super) const LOST_EVENTS: u32 = 3;
}

/// Fields of `FtraceEvent`.
mod event {
    pub(super) const TIMESTAMP: u32 = 1;
    pub(super) const PID: u32 = 2;
    pub(super) const PRINT: u32 = 3;
    pub(super) const SCHED_SWITCH: u32 = 4;
    pub(super) const SCHED_WAKEUP: u32 = 17;
    pub(super) const SCHED_WAKING: u32 = 20;
    pub(super) const SOFTIRQ_ENTRY: u32 = 24;
    pub(super) const SOFTIRQ_EXIT: u32 = 25;
    pub(super) const IRQ_HANDLER_ENTRY: u32 = 36;
    pub(super) const IRQ_HANDLER_EXIT: u32 = 37;
    pub(super) const SCHED_WAKEUP_NEW: u32 = 114;
    pub(super) const SCHED_MIGRATE_TASK: u32 = 491;
}

/// Collects events, and writes them in bundles.
pub(super) struct FtraceEvents<'a> {
    decoder: Decoder,
    formats: &'a Formats,
    /// Number and fields of a marker's event.
    print: Option<(u16, IntField, Field)>,
    bundles: Vec<Bundle>,
    bundle_bytes: usize,
}

#[derive(Clone, Default)]
struct Bundle {
    events: Vec<u8>,
    /// Events are missing before it.
    after_loss: bool,
}

impl<'a> FtraceEvents<'a> {
    pub(super) fn new(trace: &'a Trace) -> Self {
        let formats = trace.formats();
        let print = formats
            .event("ftrace", "print")
            .and_then(|print| Some((print.id, print.int("ip")?, print.field("buf")?.clone())));
        let cpus = trace.pages().len();
        Self {
            decoder: Decoder::new(formats),
            formats,
            print,
            bundles: vec![Bundle::default(); cpus],
            bundle_bytes: (ALL_BUNDLES_BYTES / cpus.max(1)).min(BUNDLE_BYTES),
        }
    }

    /// Takes in the next record; what it is.
    pub(super) fn take<'r, W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        record: &Record<'r>,
    ) -> io::Result<Option<Event<'r>>> {
        let decoded = self.decoder.decode(record.data);
        let print = self.print.as_ref().filter(|print| {
            decoded.is_none() && self.formats.event_id(record.data) == Some(print.0)
        });
        if decoded.is_none() && print.is_none() {
            return Ok(None);
        }
        let time = packets.ns(record.time);
        let pid = self.formats.pid(record.data).unwrap_or_default().cast_unsigned();
        let bundle = &mut self.bundles[record.cpu as usize];
        Message::at_end_of(&mut bundle.events).message(bundle::EVENT, |message| {
            message.uint(event::TIMESTAMP, time).uint(event::PID, pid);
            if let Some(decoded) = &decoded {
                write_event(message, decoded, &self.decoder);
            }
            if let Some((_, ip, text)) = print {
                let ip = ip.get(record.data).unwrap_or_default().cast_unsigned();
                let text = text.text_bytes(record.data).unwrap_or_default();
                message.message(event::PRINT, |print| {
                    print.uint(1, ip).c_text(2, text);
                });
            }
        });
        if bundle.events.len() >= self.bundle_bytes {
            self.flush(packets, record.cpu)?;
        }
        Ok(decoded)
    }

    /// Events are missing from here on.
    pub(super) fn lost<W: Write>(
        &mut self,
        packets: &mut Packets<W>,
        lost: &Lost,
    ) -> io::Result<()> {
        self.flush(packets, lost.cpu)?;
        self.bundles[lost.cpu as usize].after_loss = true;
        Ok(())
    }

    fn flush<W: Write>(&mut self, packets: &mut Packets<W>, cpu: u32) -> io::Result<()> {
        let bundle = &mut self.bundles[cpu as usize];
        if bundle.events.is_empty() {
            return Ok(());
        }
        packets.packet(|message| {
            message.message(packet::FTRACE_EVENTS, |message| {
                message.uint(bundle::CPU, cpu);
                if std::mem::take(&mut bundle.after_loss) {
                    message.uint(bundle::LOST_EVENTS, true);
                }
                message.append(&bundle.events);
            });
        })?;
        bundle.events.clear();
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish<W: Write>(&mut self, packets: &mut Packets<W>) -> io::Result<()> {
        for cpu in (0..).take(self.bundles.len()) {
            self.flush(packets, cpu)?;
        }
        Ok(())
    }
}

fn write_event(message: &mut Message, decoded: &Event, decoder: &Decoder) {
    match decoded {
        Event::Switch(switch) => message.message(event::SCHED_SWITCH, |m| write_switch(m, switch)),
        Event::Waking(wake) => message.message(event::SCHED_WAKING, |m| write_wake(m, wake)),
        Event::Wakeup(wake) => message.message(event::SCHED_WAKEUP, |m| write_wake(m, wake)),
        Event::WakeupNew(wake) => message.message(event::SCHED_WAKEUP_NEW, |m| write_wake(m, wake)),
        Event::Migrate(migrate) => {
            message.message(event::SCHED_MIGRATE_TASK, |m| write_migrate(m, migrate))
        }
        Event::IrqEntry { source: source @ IrqSource::Vector(_), .. } => {
            let name = decoder.irq_name(*source, None);
            write_irq(message, *source, true, Some(name.as_bytes()))
        }
        Event::IrqEntry { source, name } => write_irq(message, *source, true, *name),
        Event::IrqExit(source) => write_irq(message, *source, false, None),
    };
}

/// `SchedSwitchFtraceEvent`.
fn write_switch(message: &mut Message, switch: &Switch) {
    message.c_text(1, switch.prev_comm).int(2, switch.prev_pid).int(3, switch.prev_prio);
    message.int(4, switch.prev_state);
    message.c_text(5, switch.next_comm).int(6, switch.next_pid).int(7, switch.next_prio);
}

/// `SchedWakingFtraceEvent`, `SchedWakeupFtraceEvent` and `SchedWakeupNewFtraceEvent`; field 4,
/// `success`, is 1 in all kernels that have it.
fn write_wake(message: &mut Message, wake: &Wake) {
    message.c_text(1, wake.comm).int(2, wake.pid).int(3, wake.prio).int(4, 1);
    message.int(5, wake.target_cpu);
}

/// `SchedMigrateTaskFtraceEvent`.
fn write_migrate(message: &mut Message, migrate: &Migrate) {
    message.c_text(1, migrate.comm).int(2, migrate.pid).int(3, migrate.prio);
    message.int(4, migrate.orig_cpu).int(5, migrate.dest_cpu);
}

/// `IrqHandlerEntryFtraceEvent` and so on; vectors of the CPUs' own are shown as interrupts
/// whose numbers, from 65536 on, no device has.
fn write_irq<'m, 'b>(
    message: &'m mut Message<'b>,
    source: IrqSource,
    entry: bool,
    name: Option<&[u8]>,
) -> &'m mut Message<'b> {
    let number = match source {
        IrqSource::Soft(vec) => {
            let field = if entry { event::SOFTIRQ_ENTRY } else { event::SOFTIRQ_EXIT };
            return message.message(field, |m| {
                m.uint(1, vec.cast_unsigned());
            });
        }
        IrqSource::Line(irq) => irq,
        IrqSource::Vector(index) => 1 << 16 | i32::from(index),
    };
    let field = if entry { event::IRQ_HANDLER_ENTRY } else { event::IRQ_HANDLER_EXIT };
    message.message(field, |m| {
        m.int(1, number);
        match name {
            Some(name) => m.c_text(2, name),
            None if entry => m,
            None => m.int(2, 1),
        };
    })
}
