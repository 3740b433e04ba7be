// SPDX-License-Identifier: Apache-2.0
//! virtio-console with named ports (virtio 1.2, section 5.3).
//!
//! The driver's side is drivers/char/virtio_console.c, and drivers/tty/hvc above it.
//!
//! - `port`: what a user asks for, and what the threads share about each port
//! - `queues`: which queue is whose
//! - `control`: the handshake that makes ports appear in the guest
//! - `tx`: guest to host; `batch`: what it writes at once
//! - `rx`: host to guest
//! - `handle`: what the owner of the machine can do while it runs

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::timerfd::TimerFd;

use self::control::Control;
use self::counters::{Counters, lock};
use self::port::Port;
use self::queues::Role;
use self::shared::Shared;
use self::tx::ConsoleOutput;
use super::device::{Activation, IoEvent, VirtioDevice};
use super::ring::Budget;

mod batch;
mod control;
mod counters;
mod handle;
mod port;
mod queues;
mod rx;
mod shared;
mod slot;
#[cfg(test)]
pub(super) mod tests;
mod tx;

pub use handle::{ConsoleControl, ConsoleStats, SendError};
pub use port::{ConsoleError, MAX_NAME_BYTES, MAX_PORTS, PortKind, PortSpec, check};
pub use rx::MAX_PENDING_BYTES;
pub use tx::PortWorker;

/// VIRTIO_CONSOLE_F_SIZE: the configuration space has columns and rows.
const F_SIZE: u64 = 1 << 0;

/// VIRTIO_CONSOLE_F_MULTIPORT: more ports than one, and the control queues.
const F_MULTIPORT: u64 = 1 << 1;

/// What a guest that asks for the size of its terminal is told.
const COLUMNS: u16 = 80;
const ROWS: u16 = 25;

/// Longest wait of a reset for sinks: below what a vCPU has to stop in.
const RESET_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks at them.
const FLUSH_POLL_INTERVAL: Duration = Duration::from_micros(100);

/// A console device.
///
/// # Threads and locks
///
/// The device itself is locked by the bus and belongs to the vCPU threads; [`PortWorker`]s and
/// [`ConsoleControl`]s never see it. They share three kinds of locks, taken in this order:
///
/// 1. the control queues (one lock): vCPU threads; a worker, once, when its sink fails
/// 2. receive, one lock a port: vCPU threads, and whoever sends
/// 3. transmit, one lock a generic port: its worker, and vCPU threads that reset the device
///
/// Nobody holds a lock of 2 and one of 3 at once, and nobody waits for anything but memory while
/// holding any: writes to sinks happen outside of all locks, except for the console's sink, which
/// never blocks. So a disk that hangs stops its own worker and nothing else.
///
/// # Reset during a write
///
/// What was sent before is waited for, but not for long: a sink that hangs keeps no guest from its
/// reset. Then the worker goes on reading guest memory until its write returns, which is harmless:
/// the memory stays mapped, and the bytes go nowhere but to the sink. It then finds that the
/// generation of its ring has changed, and forgets its chains instead of returning them.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    output: ConsoleOutput,
    queue_sizes: Vec<u16>,
    config: [u8; 12],
    reset_timeout: Duration,
}

/// A new console with all that serves it.
#[derive(Debug)]
pub struct ConsoleHandles {
    /// The device, to be put behind a [`MmioTransport`](super::MmioTransport).
    pub console: Console,
    /// The owner's handle.
    pub control: ConsoleControl,
    /// The I/O side of each generic port, in order of the ports.
    pub workers: Vec<PortWorker>,
}

impl Console {
    /// Makes a console with these ports, the first of which is the console proper.
    ///
    /// # Errors
    ///
    /// If the ports are not such as the guest can use, or file descriptors run out.
    #[expect(clippy::new_ret_no_self, reason = "a console is of no use without its handles")]
    pub fn new(specs: Vec<PortSpec>) -> Result<ConsoleHandles, ConsoleError> {
        port::check(&specs)?;
        let mut ports = Vec::new();
        let mut sinks: Vec<Box<dyn Write + Send>> = Vec::new();
        for spec in specs {
            ports.push(Port::new(spec.name, spec.kind)?);
            sinks.push(spec.sink);
        }
        let kinds: Vec<_> = ports.iter().map(|port| port.kind).collect();
        let shared = Arc::new(Shared {
            control: Mutex::new(Control::new(ports.len())),
            ports,
            counters: Counters::default(),
        });
        let output = ConsoleOutput::new(sinks.remove(0));
        let workers = sinks
            .into_iter()
            .enumerate()
            .map(|(index, sink)| worker(&shared, index + 1, sink))
            .collect::<Result<_, _>>()?;
        let control = ConsoleControl::new(Arc::clone(&shared));
        let queue_sizes = queues::sizes(&kinds);
        let config = config(kinds.len());
        let console = Self { shared, output, queue_sizes, config, reset_timeout: RESET_TIMEOUT };
        Ok(ConsoleHandles { console, control, workers })
    }

    /// Gives what the driver has handed over before a reset its way to the sinks: Linux resets its
    /// devices when it powers off (`virtio_device_shutdown` in drivers/virtio/virtio.c, 6.15 and
    /// stable kernels of that time), and a program's last words are still in the rings then.
    fn flush(&self) {
        let deadline = Instant::now() + self.reset_timeout;
        while !self.shared.flushed() && Instant::now() < deadline {
            thread::sleep(FLUSH_POLL_INTERVAL);
        }
    }

    fn port(&self, id: usize) -> Option<&Port> {
        self.shared.ports.get(id)
    }
}

impl VirtioDevice for Console {
    fn id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        F_SIZE | F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn io_events(&self) -> Vec<IoEvent> {
        self.shared
            .ports
            .iter()
            .enumerate()
            .filter_map(|(id, port)| {
                let queue = u32::try_from(queues::index(Role::Transmit(id))).ok()?;
                (port.kind == PortKind::Generic)
                    .then(|| IoEvent { queue, event: Arc::clone(&port.kick) })
            })
            .collect()
    }

    fn activate(&mut self, mut activation: Activation) {
        let multiport = activation.features & F_MULTIPORT != 0;
        if multiport {
            let receive = activation.take(queues::index(Role::ControlReceive));
            let transmit = activation.take(queues::index(Role::ControlTransmit));
            lock(&self.shared.control).attach(receive, transmit);
        }
        let usable = if multiport { self.shared.ports.len() } else { 1 };
        for (id, port) in self.shared.ports.iter().enumerate().take(usable) {
            let receive = activation.take(queues::index(Role::Receive(id)));
            lock(&port.receiver).attach(receive, !multiport);
            let transmit = activation.take(queues::index(Role::Transmit(id)));
            match port.kind {
                PortKind::Console => self.output.attach(transmit),
                PortKind::Generic => lock(&port.transmit).replace(transmit),
            }
        }
    }

    fn notify(&mut self, queue: usize) {
        let shared = &self.shared;
        let budget = &mut Budget::of_an_exit();
        match queues::role(queue) {
            Role::Receive(id) => {
                if let Some(port) = self.port(id) {
                    lock(&port.receiver).deliver(&shared.counters, budget);
                }
            }
            Role::Transmit(0) => self.output.drain(&shared.counters, budget),
            // Without an ioeventfd, and after activation.
            Role::Transmit(id) => {
                if let Some(port) = self.port(id) {
                    port.wake();
                }
            }
            Role::ControlReceive => {
                lock(&shared.control).answer(&shared.ports, &shared.counters, budget);
            }
            Role::ControlTransmit => {
                lock(&shared.control).listen(&shared.ports, &shared.counters, budget);
            }
        }
    }

    fn reset(&mut self) {
        self.flush();
        lock(&self.shared.control).detach();
        self.output.attach(None);
        for port in &self.shared.ports {
            lock(&port.receiver).detach();
            lock(&port.transmit).replace(None);
        }
    }
}

fn worker(
    shared: &Arc<Shared>,
    id: usize,
    sink: Box<dyn Write + Send>,
) -> Result<PortWorker, ConsoleError> {
    let timer = TimerFd::new().map_err(|error| ConsoleError::FileDescriptor {
        name: shared.ports[id].name.clone(),
        source: error.into(),
    })?;
    Ok(PortWorker::new(Arc::clone(shared), id, sink, timer))
}

/// struct virtio_console_config: columns u16, rows u16, ports u32, emergency write u32.
/// EMERG_WRITE is not offered: writes to the last field are ignored.
fn config(ports: usize) -> [u8; 12] {
    let [a, b] = COLUMNS.to_le_bytes();
    let [c, d] = ROWS.to_le_bytes();
    // At most MAX_PORTS.
    let [e, f, g, h] = u32::try_from(ports).unwrap_or(1).to_le_bytes();
    [a, b, c, d, e, f, g, h, 0, 0, 0, 0]
}
