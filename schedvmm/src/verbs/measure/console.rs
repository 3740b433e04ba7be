// SPDX-License-Identifier: Apache-2.0
//! The console of a machine that is measured.

use std::io::Write;
use std::sync::mpsc::SyncSender;

use protocol::names::{CONSOLE_PORT, CONTROL_PORT, TRACE_PORT};
use vmm::virtio::console::{PortKind, PortSpec};

use crate::service::Event;
use crate::sinks::{ConsoleRing, ControlSink, Drawn, Tail, TraceSink, WholeLines};

/// The guest's console on its way to the log, the screen, and into errors.
#[derive(Default)]
pub struct Console {
    pub ring: ConsoleRing,
    /// What came before.
    pub drawn: Drawn,
    pub tail: Tail,
    pub lines: WholeLines,
    /// True if the log lacks some of it.
    pub lost: bool,
    /// Bytes in the log.
    logged_bytes: u64,
    /// Bytes that there was no room for.
    pub dropped_bytes: u64,
}

impl Console {
    /// What of these bytes a log of at most `room` bytes takes.
    pub fn within<'a>(&mut self, bytes: &'a [u8], room: u64) -> &'a [u8] {
        let room = room.saturating_sub(self.logged_bytes);
        let taken = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        self.logged_bytes += taken as u64;
        self.dropped_bytes += (bytes.len() - taken) as u64;
        &bytes[..taken]
    }
}

/// The ports of a machine: its console, what the agent says, and the trace.
pub fn ports(console: ConsoleRing, events: SyncSender<Event>, trace: TraceSink) -> Vec<PortSpec> {
    vec![
        port(CONSOLE_PORT, PortKind::Console, Box::new(console)),
        port(CONTROL_PORT, PortKind::Generic, Box::new(ControlSink(events))),
        port(TRACE_PORT, PortKind::Generic, Box::new(trace)),
    ]
}

fn port(name: &str, kind: PortKind, sink: Box<dyn Write + Send>) -> PortSpec {
    PortSpec { name: name.to_owned(), kind, sink }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_never_ends_fills_its_log_and_is_counted() {
        let mut console = Console::default();
        for (bytes, taken) in [(6, 6), (6, 4), (6, 0)] {
            assert_eq!(console.within(&[b'x'; 9][..bytes], 10).len(), taken);
        }
        assert_eq!((console.logged_bytes, console.dropped_bytes), (10, 8));
    }
}
