// SPDX-License-Identifier: Apache-2.0
//! The host's commands to a running agent.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use protocol::frame::Decoder;
use protocol::message::Command;

/// Interval at which one who waits for an order checks by itself.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The commands that have come so far.
#[derive(Debug, Default)]
pub struct Orders {
    go: AtomicBool,
    stop: AtomicBool,
    keep_trace: AtomicBool,
    ship_trace: AtomicBool,
}

impl Orders {
    /// Listens for the host's commands in a thread of its own, which wakes the calling one.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn listen(port: impl Read + Send + 'static) -> io::Result<Arc<Self>> {
        let orders = Arc::new(Self::default());
        let heard = Arc::clone(&orders);
        let waiting = thread::current();
        thread::Builder::new()
            .name("agent-ear".into())
            .spawn(move || take_bytes(port, heard, waiting))?;
        Ok(orders)
    }

    /// True if a command has come.
    pub fn has(&self, command: Command) -> bool {
        self.flag(command).load(Relaxed)
    }

    /// Waits until one of two commands has come; false if neither has by then. It sleeps
    /// meanwhile: in a guest of a guest each look costs several exits through two hypervisors, and
    /// those that stand ready would take what others need to boot.
    pub fn wait_for(&self, commands: [Command; 2], patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while !commands.iter().any(|&command| self.has(command)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::park_timeout(left.min(POLL_INTERVAL));
        }
        true
    }

    fn flag(&self, command: Command) -> &AtomicBool {
        match command {
            Command::Go => &self.go,
            Command::Stop => &self.stop,
            Command::KeepTrace => &self.keep_trace,
            Command::ShipTrace => &self.ship_trace,
        }
    }
}

fn take_bytes(mut port: impl Read + Send + 'static, heard: Arc<Orders>, waiting: thread::Thread) {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    // Ends when the host has closed the port, or talks nonsense: the load goes on, and
    // the results are sent if the host still takes them.
    while let Ok(length @ 1..) = port.read(&mut bytes) {
        decoder.push(&bytes[..length]);
        while let Ok(Some(command)) = decoder.next_command() {
            heard.flag(command).store(true, Relaxed);
            waiting.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::encode_command;

    #[test]
    fn orders_are_heard_one_by_one_and_waited_for_not_for_ever() {
        let (port, mut host) = io::pipe().unwrap();
        let orders = Orders::listen(port).unwrap();
        let moment = Duration::from_millis(1);
        assert!(!orders.wait_for([Command::Go, Command::Stop], moment));
        let mut say = |command| {
            io::Write::write_all(&mut host, &encode_command(command).unwrap()).unwrap();
        };
        say(Command::ShipTrace);
        let long = Duration::from_secs(10);
        assert!(orders.wait_for([Command::KeepTrace, Command::ShipTrace], long));
        assert!(orders.has(Command::ShipTrace) && !orders.has(Command::KeepTrace));
        assert!(!orders.has(Command::Go) && !orders.has(Command::Stop));
        say(Command::Stop);
        assert!(orders.wait_for([Command::Go, Command::Stop], long));
    }
}
