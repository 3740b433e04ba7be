// SPDX-License-Identifier: Apache-2.0
//! A 16550 for the early console. Every character costs two exits, so a guest has one only
//! when somebody looks for what happens before the virtio console exists.

use std::io::Write;

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Uart};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

struct InterruptLine(EventFd);

impl Trigger for InterruptLine {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// A 16550 that writes what the guest sends to a sink that does not block.
pub struct Serial(Uart<InterruptLine, NoEvents, Box<dyn Write + Send>>);

impl Serial {
    /// A UART that raises `interrupt` and writes to `sink`.
    pub fn new(interrupt: EventFd, sink: Box<dyn Write + Send>) -> Self {
        Self(Uart::new(InterruptLine(interrupt), sink))
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = u8::try_from(offset) else { return };
        for byte in data {
            // A sink that fails loses a character of the early console, and the guest goes
            // on: it has no way to hear of it.
            let _ = self.0.write(offset, *byte);
        }
    }
}
