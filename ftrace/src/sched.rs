// SPDX-License-Identifier: Apache-2.0
//! The events that say who ran where: found in a trace's formats once, then taken from
//! records without a look at names.
//!
//! Events: `include/trace/events/sched.h`, `include/trace/events/irq.h` and
//! `arch/x86/include/asm/trace/irq_vectors.h` of the kernel.

use crate::format::{EventFormat, Field, Formats, IntField};
use crate::trace::MAX_CPUS;

/// Bits of `prev_state` that say a thread waits for something; the bit above them says that
/// it was preempted. So since Linux 4.15 (`TASK_REPORT`, `TASK_REPORT_IDLE` and
/// `TASK_REPORT_MAX` in `include/linux/sched.h`).
const BLOCKED_STATES: i64 = 0xFF;

/// One event about scheduling or interrupts. Times and the CPU are those of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// The CPU goes from one thread to another.
    Switch(Switch<'a>),
    /// Somebody begins to wake a thread.
    Waking(Wake<'a>),
    /// A woken thread is in the queue of `target_cpu`.
    Wakeup(Wake<'a>),
    /// A new thread is in the queue of `target_cpu`.
    WakeupNew(Wake<'a>),
    /// A thread that does not run changes its CPU.
    Migrate(Migrate<'a>),
    /// An interrupt begins.
    IrqEntry { source: IrqSource, name: Option<&'a [u8]> },
    /// An interrupt ends; not a softirq.
    IrqExit(IrqSource),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch<'a> {
    pub prev_comm: &'a [u8],
    pub prev_pid: i32,
    pub prev_prio: i32,
    /// As in the record.
    pub prev_state: i64,
    pub next_comm: &'a [u8],
    pub next_pid: i32,
    pub next_prio: i32,
}

impl Switch<'_> {
    /// What the thread that stops waits for, as in the record; 0 if it could go on.
    pub(crate) fn blocked_state(&self) -> u8 {
        u8::try_from(self.prev_state & BLOCKED_STATES).unwrap_or(u8::MAX)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wake<'a> {
    pub comm: &'a [u8],
    pub pid: i32,
    pub prio: i32,
    pub target_cpu: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Migrate<'a> {
    pub comm: &'a [u8],
    pub pid: i32,
    pub prio: i32,
    pub orig_cpu: u32,
    pub dest_cpu: u32,
}

/// Source of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum IrqSource {
    /// A device's interrupt, by the kernel's number.
    Line(i32),
    /// An interrupt of the CPUs' own (`irq_vectors`), by the event's place in the formats.
    Vector(u16),
    /// A softirq, by number.
    Soft(i32),
}

/// Finds events in records.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    common_type: IntField,
    /// By event number: one more than the place in `kinds`, 0 for events of no interest.
    places: Vec<u16>,
    kinds: Vec<Kind>,
    vectors: Vec<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    Switch {
        prev_comm: Field,
        prev_pid: IntField,
        prev_prio: IntField,
        prev_state: IntField,
        next_comm: Field,
        next_pid: IntField,
        next_prio: IntField,
    },
    Wake {
        how: How,
        comm: Field,
        pid: IntField,
        prio: IntField,
        target_cpu: IntField,
    },
    Migrate {
        comm: Field,
        pid: IntField,
        prio: IntField,
        orig_cpu: IntField,
        dest_cpu: IntField,
    },
    LineEntry {
        irq: IntField,
        name: Option<Field>,
    },
    LineExit {
        irq: IntField,
    },
    SoftEntry {
        vec: IntField,
    },
    SoftExit {
        vec: IntField,
    },
    VectorEntry(u16),
    VectorExit(u16),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Waking,
    Wakeup,
    New,
}

impl Decoder {
    /// Looks for the events in `formats`. One that lacks a field that is needed is not found;
    /// no kernel since 5.4 has such a one.
    pub(crate) fn new(formats: &Formats) -> Self {
        let mut this = Self {
            common_type: formats.common_type(),
            places: vec![0; 1 << 16],
            kinds: Vec::new(),
            vectors: Vec::new(),
        };
        for event in formats.events() {
            if let Some(kind) = this.kind(event) {
                this.kinds.push(kind);
                this.places[usize::from(event.id)] =
                    u16::try_from(this.kinds.len()).unwrap_or_default();
            }
        }
        this
    }

    fn kind(&mut self, event: &EventFormat) -> Option<Kind> {
        match (event.system.as_str(), event.name.as_str()) {
            ("sched", "sched_switch") => Some(Kind::Switch {
                prev_comm: text_field("prev_comm", event)?,
                prev_pid: event.int("prev_pid")?,
                prev_prio: event.int("prev_prio")?,
                prev_state: event.int("prev_state")?,
                next_comm: text_field("next_comm", event)?,
                next_pid: event.int("next_pid")?,
                next_prio: event.int("next_prio")?,
            }),
            ("sched", "sched_waking") => wake(How::Waking, event),
            ("sched", "sched_wakeup") => wake(How::Wakeup, event),
            ("sched", "sched_wakeup_new") => wake(How::New, event),
            ("sched", "sched_migrate_task") => Some(Kind::Migrate {
                comm: text_field("comm", event)?,
                pid: event.int("pid")?,
                prio: event.int("prio")?,
                orig_cpu: event.int("orig_cpu")?,
                dest_cpu: event.int("dest_cpu")?,
            }),
            ("irq", "irq_handler_entry") => {
                Some(Kind::LineEntry { irq: event.int("irq")?, name: text_field("name", event) })
            }
            ("irq", "irq_handler_exit") => Some(Kind::LineExit { irq: event.int("irq")? }),
            ("irq", "softirq_entry") => Some(Kind::SoftEntry { vec: event.int("vec")? }),
            ("irq", "softirq_exit") => Some(Kind::SoftExit { vec: event.int("vec")? }),
            ("irq_vectors", name) => {
                if let Some(vector) = name.strip_suffix("_entry") {
                    return Some(Kind::VectorEntry(self.vector(vector)?));
                }
                Some(Kind::VectorExit(self.vector(name.strip_suffix("_exit")?)?))
            }
            _ => None,
        }
    }

    /// The number of a vector's name.
    fn vector(&mut self, name: &str) -> Option<u16> {
        let known = self.vectors.iter().position(|vector| vector == name);
        let index = known.unwrap_or_else(|| {
            self.vectors.push(name.to_owned());
            self.vectors.len() - 1
        });
        u16::try_from(index).ok()
    }

    /// The name of an interrupt, for people; `device` is what the record said of it.
    pub(crate) fn irq_name(&self, source: IrqSource, device: Option<&str>) -> String {
        /// `softirq_to_name` in `kernel/softirq.c`.
        const SOFTIRQS: [&str; 10] = [
            "HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER",
            "RCU",
        ];
        match source {
            IrqSource::Line(irq) => match device {
                Some(device) => format!("{irq} {device}"),
                None => irq.to_string(),
            },
            IrqSource::Vector(index) => {
                self.vectors.get(usize::from(index)).cloned().unwrap_or_default()
            }
            IrqSource::Soft(vec) => usize::try_from(vec)
                .ok()
                .and_then(|vec| SOFTIRQS.get(vec))
                .map_or_else(|| vec.to_string(), |name| (*name).to_owned()),
        }
    }

    /// The event that a record is of; `None` for others, and for a record too short for it or with
    /// a CPU that no kernel has.
    #[inline]
    pub(crate) fn decode<'a>(&self, record: &'a [u8]) -> Option<Event<'a>> {
        let id = usize::try_from(self.common_type.get(record)?).ok()?;
        let place = usize::from(*self.places.get(id)?);
        self.kinds.get(place.checked_sub(1)?)?.decode(record)
    }
}

fn text_field(name: &str, event: &EventFormat) -> Option<Field> {
    event.field(name).cloned()
}

fn wake(how: How, event: &EventFormat) -> Option<Kind> {
    Some(Kind::Wake {
        how,
        comm: text_field("comm", event)?,
        pid: event.int("pid")?,
        prio: event.int("prio")?,
        target_cpu: event.int("target_cpu")?,
    })
}

impl Kind {
    #[inline]
    fn decode<'a>(&self, record: &'a [u8]) -> Option<Event<'a>> {
        Some(match self {
            Self::Switch {
                prev_comm,
                prev_pid,
                prev_prio,
                prev_state,
                next_comm,
                next_pid,
                next_prio,
            } => Event::Switch(Switch {
                prev_comm: prev_comm.bytes(record)?,
                prev_pid: prev_pid.get_i32(record)?,
                prev_prio: prev_prio.get_i32(record)?,
                prev_state: prev_state.get(record)?,
                next_comm: next_comm.bytes(record)?,
                next_pid: next_pid.get_i32(record)?,
                next_prio: next_prio.get_i32(record)?,
            }),
            Self::Wake { how, comm, pid, prio, target_cpu } => {
                let wake = Wake {
                    comm: comm.bytes(record)?,
                    pid: pid.get_i32(record)?,
                    prio: prio.get_i32(record)?,
                    target_cpu: cpu_number(target_cpu, record)?,
                };
                match how {
                    How::Waking => Event::Waking(wake),
                    How::Wakeup => Event::Wakeup(wake),
                    How::New => Event::WakeupNew(wake),
                }
            }
            Self::Migrate { comm, pid, prio, orig_cpu, dest_cpu } => Event::Migrate(Migrate {
                comm: comm.bytes(record)?,
                pid: pid.get_i32(record)?,
                prio: prio.get_i32(record)?,
                orig_cpu: cpu_number(orig_cpu, record)?,
                dest_cpu: cpu_number(dest_cpu, record)?,
            }),
            Self::LineEntry { irq, name } => Event::IrqEntry {
                source: IrqSource::Line(irq.get_i32(record)?),
                name: name.as_ref().and_then(|name| name.text_bytes(record)),
            },
            Self::LineExit { irq } => Event::IrqExit(IrqSource::Line(irq.get_i32(record)?)),
            Self::SoftEntry { vec } => {
                Event::IrqEntry { source: IrqSource::Soft(vec.get_i32(record)?), name: None }
            }
            Self::SoftExit { vec } => Event::IrqExit(IrqSource::Soft(vec.get_i32(record)?)),
            Self::VectorEntry(index) => {
                Event::IrqEntry { source: IrqSource::Vector(*index), name: None }
            }
            Self::VectorExit(index) => Event::IrqExit(IrqSource::Vector(*index)),
        })
    }
}

/// Tables are as long as the largest number of a CPU that was in an event.
fn cpu_number(field: &IntField, record: &[u8]) -> Option<u32> {
    u32::try_from(field.get(record)?).ok().filter(|cpu| *cpu < MAX_CPUS)
}
