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

/// Interval at which one who waits for a command checks by itself.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The commands that have come so far.
#[derive(Debug, Default)]
pub struct Commands {
    go: AtomicBool,
    stop: AtomicBool,
    keep_trace: AtomicBool,
    send_trace: AtomicBool,
}

impl Commands {
    /// Listens for the host's commands in a thread of its own, which wakes the calling one.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn listen(port: impl Read + Send + 'static) -> io::Result<Arc<Self>> {
        let commands = Arc::new(Self::default());
        let received = Arc::clone(&commands);
        let waiting = thread::current();
        thread::Builder::new()
            .name("agent-commands".into())
            .spawn(move || take_bytes(port, received, waiting))?;
        Ok(commands)
    }

    /// True if a command has come.
    pub fn has(&self, command: Command) -> bool {
        self.flag(command).load(Relaxed)
    }

    /// Waits until one of two commands has come; false if neither has by then. It sleeps
    /// meanwhile: in a guest of a guest each look costs several exits through two hypervisors, and
    /// those that are ready would take what others need to boot.
    pub fn wait_for(&self, wanted: [Command; 2], timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !wanted.iter().any(|&command| self.has(command)) {
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
            Command::SendTrace => &self.send_trace,
        }
    }
}

fn take_bytes(
    mut port: impl Read + Send + 'static,
    received: Arc<Commands>,
    waiting: thread::Thread,
) {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    // Ends when the host has closed the port, or talks nonsense: the load goes on, and
    // the results are sent if the host still takes them.
    while let Ok(length @ 1..) = port.read(&mut bytes) {
        decoder.push(&bytes[..length]);
        while let Ok(Some(command)) = decoder.next_command() {
            received.flag(command).store(true, Relaxed);
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
        let received = Commands::listen(port).unwrap();
        let moment = Duration::from_millis(1);
        assert!(!received.wait_for([Command::Go, Command::Stop], moment));
        let mut say = |command| {
            io::Write::write_all(&mut host, &encode_command(command).unwrap()).unwrap();
        };
        say(Command::SendTrace);
        let long = Duration::from_secs(10);
        assert!(received.wait_for([Command::KeepTrace, Command::SendTrace], long));
        assert!(received.has(Command::SendTrace) && !received.has(Command::KeepTrace));
        assert!(!received.has(Command::Go) && !received.has(Command::Stop));
        say(Command::Stop);
        assert!(received.wait_for([Command::Go, Command::Stop], long));
    }
}
