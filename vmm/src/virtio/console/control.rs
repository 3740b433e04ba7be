// SPDX-License-Identifier: Apache-2.0
//! The control queues: how ports come to exist, get names and open (virtio 1.2, 5.3.6.2).
//!
//! ```text
//!  guest                              host
//!  DEVICE_READY 1          ────►
//!                          ◄────      PORT_ADD i                  for every port
//!  PORT_READY i 1          ────►
//!                          ◄────      CONSOLE_PORT i 1            for the console
//!                          ◄────      PORT_NAME i, name           no NUL at the end
//!                          ◄────      PORT_OPEN i 1               or writers wait forever
//!  PORT_OPEN i 1           ────►                                  /dev/vportNpI was opened
//!                          ◄────      PORT_OPEN i 0               our sink has failed
//! ```
//!
//! The guest may say anything, any number of times, and may leave us without a buffer to answer
//! into. So there is no queue of answers: each port has one flag for each answer it is owed.

use super::counters::{Counters, lock};
use super::port::{MAX_NAME_BYTES, Port, PortKind};
use crate::virtio::ring::{self, Budget, Ring};

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// struct virtio_console_control: id u32, event u16, value u16, all little-endian.
const MESSAGE_BYTES: usize = 8;

/// The control queues and what each port is owed.
#[derive(Debug)]
pub(super) struct Control {
    receive: Option<Ring>,
    transmit: Option<Ring>,
    ports: Vec<PortState>,
}

/// Where one port stands in the handshake.
#[derive(Debug)]
struct PortState {
    owed: Owed,
    /// The driver has made the port.
    ready: bool,
    /// Our end takes data. Never true again after a sink has failed.
    host_open: bool,
}

/// The answers that a port is owed, in the order in which they are sent.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    add: bool,
    console: bool,
    name: bool,
    open: bool,
}

/// A message to or from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    id: u32,
    event: u16,
    value: u16,
}

impl Message {
    fn decode(bytes: [u8; MESSAGE_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            id: u32::from_le_bytes([a, b, c, d]),
            event: u16::from_le_bytes([e, f]),
            value: u16::from_le_bytes([g, h]),
        }
    }

    fn encode(self) -> [u8; MESSAGE_BYTES] {
        let [a, b, c, d] = self.id.to_le_bytes();
        let [e, f] = self.event.to_le_bytes();
        let [g, h] = self.value.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

impl Owed {
    /// The event to send next.
    fn next(self) -> Option<u16> {
        [
            (self.add, PORT_ADD),
            (self.console, CONSOLE_PORT),
            (self.name, PORT_NAME),
            (self.open, PORT_OPEN),
        ]
        .into_iter()
        .find_map(|(owed, event)| owed.then_some(event))
    }

    fn settle(&mut self, event: u16) {
        match event {
            PORT_ADD => self.add = false,
            CONSOLE_PORT => self.console = false,
            PORT_NAME => self.name = false,
            _ => self.open = false,
        }
    }
}

impl Control {
    pub(super) fn new(ports: usize) -> Self {
        Self {
            receive: None,
            transmit: None,
            ports: std::iter::repeat_with(|| PortState {
                owed: Owed::default(),
                ready: false,
                host_open: true,
            })
            .take(ports)
            .collect(),
        }
    }

    /// The driver is ready, and has these queues.
    pub(super) fn attach(&mut self, receive: Option<Ring>, transmit: Option<Ring>) {
        self.receive = receive;
        self.transmit = transmit;
    }

    /// The driver is gone, and with it what it was owed.
    pub(super) fn detach(&mut self) {
        self.receive = None;
        self.transmit = None;
        self.forget();
    }

    /// Our end of port `id` takes nothing any more.
    pub(super) fn close(&mut self, id: usize, ports: &[Port], counters: &Counters) {
        if let Some(state) = self.ports.get_mut(id) {
            state.host_open = false;
            state.owed.open = state.ready;
        }
        self.answer(ports, counters, &mut Budget::of_an_exit());
    }

    /// Hears what the guest has to say, and answers. The Linux driver has one message in flight
    /// (__send_control_msg spins under a lock): only another one gets to the end of the budget, and
    /// the rest of its messages waits for the next notification.
    pub(super) fn listen(&mut self, ports: &[Port], counters: &Counters, budget: &mut Budget) {
        // Taken out for the loop, so that a message can change the rest of `self`.
        if let Some(mut ring) = self.transmit.take() {
            while budget.chain() {
                let Some(chain) = ring.pop_or_wait() else { break };
                let head = chain.head_index();
                let mut bytes = [0; MESSAGE_BYTES];
                let whole = ring::gather(&chain, &mut bytes, budget) == MESSAGE_BYTES;
                ring.complete(head, 0);
                if !whole || !self.handle(Message::decode(bytes), (ports, counters), budget) {
                    counters.guest_error();
                }
            }
            ring.notify_driver();
            self.transmit = Some(ring);
        }
        self.answer(ports, counters, budget);
    }

    /// Sends what is owed, as far as the guest has posted buffers for it.
    pub(super) fn answer(&mut self, ports: &[Port], counters: &Counters, budget: &mut Budget) {
        let Some(ring) = self.receive.as_mut() else { return };
        while let Some((id, event)) =
            self.ports.iter().enumerate().find_map(|(id, state)| Some((id, state.owed.next()?)))
            && budget.chain()
        {
            let Some(chain) = ring.pop_or_wait() else { break };
            let head = chain.head_index();
            let state = &mut self.ports[id];
            let (bytes, length) = message(id, event, state.host_open, &ports[id].name);
            let written = ring::scatter(&chain, &bytes[..length], budget);
            if written == length {
                state.owed.settle(event);
                ring.complete(head, u32::try_from(written).unwrap_or(u32::MAX));
            } else {
                // Too small for the answer, which stays owed.
                counters.guest_error();
                ring.complete(head, 0);
            }
        }
        ring.notify_driver();
    }

    /// Takes in one message; false if it makes no sense.
    fn handle(
        &mut self,
        message: Message,
        (ports, counters): (&[Port], &Counters),
        budget: &mut Budget,
    ) -> bool {
        let on = match message.value {
            0 => false,
            1 => true,
            _ => return false,
        };
        if message.event == DEVICE_READY {
            self.forget();
            self.ports.iter_mut().for_each(|state| state.owed.add = on);
            return true;
        }
        let id = message.id as usize;
        let (Some(state), Some(port)) = (self.ports.get_mut(id), ports.get(id)) else {
            return false;
        };
        match message.event {
            PORT_READY => {
                state.ready = on;
                let console = on && port.kind == PortKind::Console;
                state.owed = Owed { add: false, console, name: on, open: on };
            }
            PORT_OPEN => {
                let mut receiver = lock(&port.receiver);
                receiver.set_guest_open(on);
                receiver.deliver(counters, budget);
            }
            _ => return false,
        }
        true
    }

    fn forget(&mut self) {
        for state in &mut self.ports {
            state.owed = Owed::default();
            state.ready = false;
        }
    }
}

/// The bytes of an answer, and how many they are.
fn message(
    id: usize,
    event: u16,
    host_open: bool,
    name: &str,
) -> ([u8; MESSAGE_BYTES + MAX_NAME_BYTES], usize) {
    let value = match event {
        PORT_OPEN => u16::from(host_open),
        CONSOLE_PORT | PORT_NAME => 1,
        _ => 0,
    };
    let mut bytes = [0; MESSAGE_BYTES + MAX_NAME_BYTES];
    // There are at most MAX_PORTS.
    let id = u32::try_from(id).unwrap_or(u32::MAX);
    bytes[..MESSAGE_BYTES].copy_from_slice(&Message { id, event, value }.encode());
    if event != PORT_NAME {
        return (bytes, MESSAGE_BYTES);
    }
    let end = MESSAGE_BYTES + name.len();
    bytes[MESSAGE_BYTES..end].copy_from_slice(name.as_bytes());
    (bytes, end)
}
