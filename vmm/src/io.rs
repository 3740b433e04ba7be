// SPDX-License-Identifier: Apache-2.0
//! I/O threads: an event loop each, off the measured CPUs, stopped by an eventfd.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::vcpu::sched;

/// Something an I/O thread serves.
pub type Worker = Box<dyn MutEventSubscriber + Send>;

/// A running I/O thread.
pub struct IoThread {
    name: &'static str,
    thread: JoinHandle<()>,
    wake: EventFd,
    stop: Arc<AtomicBool>,
}

/// Wakes the loop so that it sees the stop flag.
struct Alarm(EventFd);

impl MutEventSubscriber for Alarm {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        // Level-triggered and about to stop: whether the count was read does not matter.
        let _ = self.0.read();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        // Without it the thread would only stop late, with the next event.
        let _ = ops.add(Events::new(&self.0, EventSet::IN));
    }
}

impl IoThread {
    /// Starts a thread that serves `workers` and keeps off `measured` CPUs.
    ///
    /// # Errors
    /// No thread, eventfd or epoll instance left.
    pub fn spawn(
        name: &'static str,
        workers: Vec<Worker>,
        measured: Vec<usize>,
    ) -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let stop = Arc::new(AtomicBool::new(false));
        let alarm = Alarm(wake.try_clone()?);
        let stopped = stop.clone();
        let mut manager = EventManager::<Worker>::new().map_err(io::Error::other)?;
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            sched::keep_off(&measured);
            manager.add_subscriber(Box::new(alarm));
            for worker in workers {
                manager.add_subscriber(worker);
            }
            while !stopped.load(Ordering::Acquire) {
                // An interrupted wait is no event; any other error would come again.
                if let Err(event_manager::Error::Epoll(error)) = manager.run()
                    && error.errno() != libc::EINTR
                {
                    break;
                }
            }
        })?;
        Ok(Self { name, thread, wake, stop })
    }

    /// The thread's name, for whoever waits for it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Tells the thread to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // The counter is full only if the thread has been woken already.
        let _ = self.wake.write(1);
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}
