// SPDX-License-Identifier: Apache-2.0
//! The service loop of a machine: what its threads, its ports and signals say reaches the main
//! thread, which attends to it until there is an end, and while the machine is being stopped.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use vmm::vcpu::VcpuEnd;
use vmm::vm::Running;

use crate::status::Failure;

/// Interval of checks whether the machine has stopped.
const STOP_INTERVAL: Duration = Duration::from_millis(1);

/// Events of the main thread.
#[derive(Debug)]
pub enum Event {
    /// Bytes from the control port.
    Control(Vec<u8>),
    /// A vCPU has ended.
    Vcpu(VcpuEnd),
    /// A signal to this process.
    Signal(i32),
}

/// Decides when a machine's service ends.
pub trait Attendant {
    /// Why it has ended.
    type End;

    /// Takes an event.
    fn event(&mut self, event: Event) -> Option<Self::End>;

    /// Looks at whatever sends no events: after each one, and at least once in each interval.
    fn poll(&mut self) -> Option<Self::End>;

    /// Nobody is left who could send an event.
    fn gone(&mut self) -> Self::End;
}

/// What a vCPU that has ended does ([`vmm::vm::Vm::start`]): it tells the service.
pub fn tell_end(events: SyncSender<Event>) -> impl Fn(VcpuEnd) + Send + Sync + Clone + 'static {
    move |end| {
        // Nobody listens any more once the service has ended.
        let _ = events.send(Event::Vcpu(end));
    }
}

/// Serves events until the attendant knows an end.
pub fn serve<A: Attendant>(
    attendant: &mut A,
    inbox: &Receiver<Event>,
    interval: Duration,
) -> A::End {
    loop {
        let end = match inbox.recv_timeout(interval) {
            Ok(event) => attendant.event(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(attendant.gone()),
        };
        if let Some(end) = end.or_else(|| attendant.poll()) {
            return end;
        }
    }
}

/// A machine that has been stopped.
pub struct Stopped {
    /// How vCPUs ended that had not before.
    pub ends: Vec<VcpuEnd>,
    /// How long it took, or why it could not be done.
    pub took: Result<Duration, Failure>,
}

/// Stops a machine; `dump` asks vCPUs for their registers. What it says meanwhile is taken: a
/// thread that finds the inbox full does not end.
pub fn stop(
    running: &mut Running,
    inbox: &Receiver<Event>,
    dump: bool,
    mut take_control: impl FnMut(&[u8]),
) -> Stopped {
    let mut ends = Vec::new();
    let stopped = thread::scope(|scope| {
        let stop = scope.spawn(|| running.stop(dump));
        while !stop.is_finished() {
            if let Ok(event) = inbox.recv_timeout(STOP_INTERVAL) {
                take(event, &mut ends, &mut take_control);
            }
        }
        stop.join()
    });
    inbox.try_iter().for_each(|event| take(event, &mut ends, &mut take_control));
    let took = match stopped {
        Ok(stopped) => stopped.map_err(Failure::from),
        Err(_) => {
            Err(Failure::internal("stopping the machine panicked: this is a defect, report it"))
        }
    };
    Stopped { ends, took }
}

fn take(event: Event, ends: &mut Vec<VcpuEnd>, take_control: &mut impl FnMut(&[u8])) {
    match event {
        Event::Vcpu(end) => ends.push(end),
        Event::Control(bytes) => take_control(&bytes),
        Event::Signal(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Ends at the third look, or with the signal.
    struct Patient(u32);

    impl Attendant for Patient {
        type End = &'static str;

        fn event(&mut self, event: Event) -> Option<Self::End> {
            matches!(event, Event::Signal(_)).then_some("signal")
        }

        fn poll(&mut self) -> Option<Self::End> {
            self.0 += 1;
            (self.0 == 3).then_some("third look")
        }

        fn gone(&mut self) -> Self::End {
            "gone"
        }
    }

    #[test]
    fn a_service_ends_as_its_attendant_says() {
        let short = Duration::from_millis(1);
        let (events, inbox) = mpsc::sync_channel(4);
        events.send(Event::Control(Vec::new())).expect("room");
        assert_eq!(serve(&mut Patient(0), &inbox, short), "third look");
        events.send(Event::Control(Vec::new())).expect("room");
        events.send(Event::Signal(15)).expect("room");
        assert_eq!(serve(&mut Patient(0), &inbox, short), "signal");
        drop(events);
        assert_eq!(serve(&mut Patient(0), &inbox, short), "gone");
    }
}
