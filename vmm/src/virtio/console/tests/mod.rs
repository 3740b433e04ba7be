// SPDX-License-Identifier: Apache-2.0
//! The console as its driver meets it: whole conversations through the registers.

mod hostile;
mod talk;
mod threads;

use event_manager::{EventManager, SubscriberOps};

use super::*;
use crate::config::Transport;
use crate::virtio::testing::{ALL_FEATURES, Driver, TestSink, over_both_transports};

const RX0: usize = 0;
const TX0: usize = 1;
const CTL_RX: usize = 2;
const CTL_TX: usize = 3;
const RX1: usize = 4;
const TX1: usize = 5;
const TX2: usize = 7;

const NAMES: [&str; 3] = ["console", "control", "bulk"];

/// A console with three ports, its driver, and the workers' event loop.
struct Bench {
    driver: Driver,
    control: ConsoleControl,
    events: EventManager<PortWorker>,
    sinks: Vec<TestSink>,
}

impl Bench {
    fn new(transport: Transport) -> Self {
        let sinks: Vec<_> = NAMES.iter().map(|_| TestSink::default()).collect();
        let handles = without_timeout(Console::new(specs(&sinks)).unwrap());
        let mut events = EventManager::new().unwrap();
        for worker in handles.workers {
            events.add_subscriber(worker);
        }
        let driver = Driver::new(transport, Box::new(handles.console));
        Self { driver, control: handles.control, events, sinks }
    }

    /// With the driver up, all ports made and opened, and the handshake checked.
    fn running(transport: Transport) -> Self {
        let mut bench = Self::new(transport);
        bench.driver.start(ALL_FEATURES);
        bench.shake_hands();
        bench
    }

    fn shake_hands(&mut self) {
        for _ in 0..32 {
            self.driver.post_receive(CTL_RX, 4096);
        }
        self.say(0, DEVICE_READY, 1);
        for id in 0..3 {
            assert_eq!(self.heard(), Some((id, PORT_ADD, 0, String::new())));
        }
        for (id, name) in (0..).zip(NAMES) {
            self.say(id, PORT_READY, 1);
            if id == 0 {
                assert_eq!(self.heard(), Some((id, CONSOLE_PORT, 1, String::new())));
            }
            assert_eq!(self.heard(), Some((id, PORT_NAME, 1, name.to_owned())));
            assert_eq!(self.heard(), Some((id, PORT_OPEN, 1, String::new())));
            self.say(id, PORT_OPEN, 1);
        }
        assert_eq!(self.heard(), None);
        assert!(NAMES.iter().all(|name| self.control.port_open(name)));
    }

    /// Sends a control message and waits, as the driver does, until it is consumed.
    fn say(&mut self, id: u32, event: u16, value: u16) {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        let head = self.driver.send(CTL_TX, &bytes);
        assert_eq!(self.driver.used(CTL_TX), Some((head, 0)));
    }

    /// The same of a driver that does not look whether it was heard.
    fn say_unheard(&mut self, id: u32, event: u16, value: u16) {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        self.driver.send(CTL_TX, &bytes);
    }

    /// The next control message from the device.
    fn heard(&mut self) -> Option<(u32, u16, u16, String)> {
        let bytes = self.driver.received(CTL_RX)?;
        Some((
            u32::from_le_bytes(bytes[..4].try_into().unwrap()),
            u16::from_le_bytes(bytes[4..6].try_into().unwrap()),
            u16::from_le_bytes(bytes[6..8].try_into().unwrap()),
            String::from_utf8(bytes[8..].to_vec()).unwrap(),
        ))
    }

    /// Lets the workers work until they have nothing to do.
    fn work(&mut self) {
        while self.events.run_with_timeout(0).unwrap() > 0 {}
    }

    /// As [`work`](Self::work), and lets the retry timers fire.
    fn work_with_retries(&mut self) {
        while self.events.run_with_timeout(50).unwrap() > 0 {}
    }
}

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

fn specs(sinks: &[TestSink]) -> Vec<PortSpec> {
    let kinds = [PortKind::Console, PortKind::Generic, PortKind::Generic];
    NAMES
        .iter()
        .zip(kinds)
        .zip(sinks)
        .map(|((name, kind), sink)| PortSpec {
            name: (*name).to_owned(),
            kind,
            sink: Box::new(sink.clone()),
        })
        .collect()
}

/// A console of which only the registers matter.
pub(in crate::virtio) fn console(sink: &TestSink) -> Console {
    let sinks: Vec<_> = NAMES.iter().map(|_| sink.clone()).collect();
    without_timeout(Console::new(specs(&sinks)).unwrap()).console
}

/// Its resets wait for no worker: in most tests the workers are on the thread that resets.
fn without_timeout(mut handles: ConsoleHandles) -> ConsoleHandles {
    handles.console.reset_timeout = Duration::ZERO;
    handles
}

#[test]
fn lists_of_ports_that_no_guest_can_use_are_refused() {
    let spec = |name: &str, kind| PortSpec {
        name: name.to_owned(),
        kind,
        sink: Box::new(std::io::sink()) as Box<dyn Write + Send>,
    };
    let make = |ports: Vec<PortSpec>| Console::new(ports).map(|_| ()).unwrap_err();
    let console = || spec("console", PortKind::Console);
    let generic = |name: &str| spec(name, PortKind::Generic);
    assert!(matches!(make(vec![]), ConsoleError::PortCount(0)));
    let many = std::iter::once(console()).chain((0..32).map(|n| generic(&n.to_string())));
    assert!(matches!(make(many.collect()), ConsoleError::PortCount(33)));
    assert!(matches!(make(vec![generic("a")]), ConsoleError::ConsoleNotFirst(_)));
    let two = vec![console(), spec("two", PortKind::Console)];
    assert!(matches!(make(two), ConsoleError::ConsoleNotFirst(_)));
    assert!(matches!(make(vec![console(), generic("")]), ConsoleError::Name(_)));
    assert!(matches!(make(vec![console(), generic("a\nb")]), ConsoleError::Name(_)));
    assert!(matches!(make(vec![console(), generic(&"a".repeat(65))]), ConsoleError::Name(_)));
    let twins = vec![console(), generic("a"), generic("a")];
    assert!(matches!(make(twins), ConsoleError::DuplicateName(_)));
}
