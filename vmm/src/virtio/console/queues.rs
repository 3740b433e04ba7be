// SPDX-License-Identifier: Apache-2.0
//! Which queue is whose (virtio 1.2, 5.3.2), and how large.
//!
//! ```text
//!  0 receive(0)   2 control receive    4 receive(1)    6 receive(2)   …
//!  1 transmit(0)  3 control transmit   5 transmit(1)   7 transmit(2)  …
//! ```
//!
//! "Receive" and "transmit" are the driver's words: the guest receives, the guest transmits.

use super::port::PortKind;

/// The driver posts a 4 KiB page for each entry before it has anything to receive (fill_queue in
/// drivers/char/virtio_console.c), so a large ring is guest memory for nothing; our messages to
/// the guest are short.
const RECEIVE_SIZE: u16 = 16;

/// Set-up sends four messages a port; 32 lets eight ports through without waiting.
const CONTROL_SIZE: u16 = 32;

/// hvc sends 16 bytes at a time and spins until they are consumed (__send_to_port).
const CONSOLE_TRANSMIT_SIZE: u16 = 64;

/// A write is cut into chunks of 32 KiB, one chain each (port_fops_write): 256 let a writer be
/// 8 MiB ahead of the sink.
const GENERIC_TRANSMIT_SIZE: u16 = 256;

/// Role of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Host to guest, for one port.
    Receive(usize),
    /// Guest to host, for one port.
    Transmit(usize),
    /// Control messages to the guest.
    ControlReceive,
    /// Control messages from the guest.
    ControlTransmit,
}

/// What queue `index` is for. The port may not exist: the caller looks it up.
pub(super) fn role(index: usize) -> Role {
    match (index, index % 2) {
        (0, _) => Role::Receive(0),
        (1, _) => Role::Transmit(0),
        (2, _) => Role::ControlReceive,
        (3, _) => Role::ControlTransmit,
        (_, 0) => Role::Receive(index / 2 - 1),
        (_, _) => Role::Transmit(index / 2 - 1),
    }
}

/// The index of the queue for `role`.
pub(super) fn index(role: Role) -> usize {
    match role {
        Role::Receive(0) => 0,
        Role::Transmit(0) => 1,
        Role::ControlReceive => 2,
        Role::ControlTransmit => 3,
        Role::Receive(port) => 2 * port + 2,
        Role::Transmit(port) => 2 * port + 3,
    }
}

/// QueueNumMax of each queue of a console with these ports.
pub(super) fn sizes(ports: &[PortKind]) -> Vec<u16> {
    let queues = 2 * (ports.len() + 1);
    (0..queues).map(|queue| queue_size(queue, ports)).collect()
}

fn queue_size(queue: usize, ports: &[PortKind]) -> u16 {
    match role(queue) {
        Role::Receive(_) => RECEIVE_SIZE,
        Role::ControlReceive | Role::ControlTransmit => CONTROL_SIZE,
        Role::Transmit(port) => match ports.get(port) {
            Some(PortKind::Console) => CONSOLE_TRANSMIT_SIZE,
            Some(PortKind::Generic) | None => GENERIC_TRANSMIT_SIZE,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_specification() {
        let expected = [
            Role::Receive(0),
            Role::Transmit(0),
            Role::ControlReceive,
            Role::ControlTransmit,
            Role::Receive(1),
            Role::Transmit(1),
            Role::Receive(2),
            Role::Transmit(2),
        ];
        for (number, expected) in expected.into_iter().enumerate() {
            assert_eq!(role(number), expected);
        }
    }

    #[test]
    fn index_inverts_role() {
        for number in 0..200 {
            assert_eq!(index(role(number)), number);
        }
    }

    #[test]
    fn sizes_go_by_role() {
        let ports = [PortKind::Console, PortKind::Generic];
        assert_eq!(sizes(&ports), [16, 64, 32, 32, 16, 256]);
    }
}
