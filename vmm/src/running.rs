// SPDX-License-Identifier: Apache-2.0
//! A machine whose guest runs, and how it stops.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use crate::io::IoThread;
use crate::memory;
use crate::vcpu::halts::HaltClock;
use crate::vcpu::sched::VcpuThread;
use crate::vcpu::{Machine, kick};
use crate::virtio::console::ConsoleControl;
use crate::x86_64::{layout, screen};

/// A stop takes microseconds, on a host that starves us some hundred milliseconds; this is
/// the time after which it has failed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// A machine did not stop.
#[derive(Debug, Error)]
#[error("{0} did not stop within {STOP_DEADLINE:?}")]
pub struct StopError(pub String);

/// A machine whose guest runs. Dropping it stops it.
pub struct Running {
    pub(crate) vcpus: Vec<(String, JoinHandle<()>)>,
    pub(crate) threads: Vec<VcpuThread>,
    pub(crate) statistics: Vec<Option<File>>,
    pub(crate) io: Vec<IoThread>,
    pub(crate) machine: Arc<Machine>,
    pub(crate) console: ConsoleControl,
    // Last: memory slots must not outlive the RAM that `machine` holds.
    pub(crate) _vm: Arc<VmFd>,
}

impl Running {
    /// The console's other side.
    pub fn console(&self) -> &ConsoleControl {
        &self.console
    }

    /// The vCPUs' threads as they were placed before the first guest instruction.
    pub fn threads(&self) -> &[VcpuThread] {
        &self.threads
    }

    /// The counter of halts of vCPU `cpu`.
    ///
    /// # Errors
    /// KVM does not count it.
    pub fn halt_clock(&self, cpu: u32) -> io::Result<HaltClock> {
        let statistics = self.statistics.get(cpu as usize).and_then(Option::as_ref);
        HaltClock::find(
            statistics.ok_or_else(|| {
                io::Error::other("this host's KVM has no statistics (Linux 5.14)")
            })?,
        )
    }

    /// Reads RAM of the guest, which goes on changing it until it was stopped.
    ///
    /// # Errors
    /// Not all of it is RAM.
    pub fn read_ram(&self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.machine.ram.read_slice(buffer, GuestAddress(address));
        read.map_err(io::Error::other)
    }

    /// What the guest has drawn on its text screen so far, in lines; nothing where it has none.
    pub fn screen(&self) -> String {
        let mut cells = vec![0; screen::SCREEN_BYTES];
        // A machine has more RAM than this takes.
        match self.read_ram(layout::SCREEN.0, &mut cells) {
            Ok(()) => screen::text(&cells),
            Err(_) => String::new(),
        }
    }

    /// Host memory this process has in use beside guest RAM, in KiB; `None` where the host
    /// kernel does not tell.
    pub fn resident_beyond_ram_kib(&self) -> Option<u64> {
        memory::resident_beyond(&self.machine.ram)
    }

    /// Stops all vCPUs, then the I/O threads, once the console's sinks have what the guest had
    /// handed over. With `dump`, stopped vCPUs report their state in their
    /// [`VcpuEnd`](crate::vcpu::VcpuEnd). Returns the time from the call to the last vCPU's end.
    ///
    /// # Errors
    /// Names the thread that did not stop in time. All others have, and the sinks are served
    /// all the same.
    pub fn stop(&mut self, dump: bool) -> Result<Duration, StopError> {
        let begin = Instant::now();
        let deadline = begin + STOP_DEADLINE;
        self.machine.dump.store(dump, Ordering::Release);
        self.machine.stop.store(true, Ordering::Release);
        for (_, thread) in &self.vcpus {
            kick::kick(thread);
        }
        let mut late = None;
        for (name, thread) in self.vcpus.drain(..) {
            match wait_for(&name, || thread.is_finished(), deadline) {
                // Its end was reported by the thread itself, panics included.
                Ok(()) => drop(thread.join()),
                Err(error) => late = late.or(Some(error)),
            }
        }
        let took = begin.elapsed();
        let io = self.stop_io();
        late.map_or(io, Err).map(|()| took)
    }

    /// Time of its own: a vCPU that has used up its deadline costs no output.
    fn stop_io(&mut self) -> Result<(), StopError> {
        let deadline = Instant::now() + STOP_DEADLINE;
        let Some(first) = self.io.first() else { return Ok(()) };
        // A sink that is too slow for this is found out by whoever counts its bytes.
        let _ = wait_for(first.name(), || self.console.flushed(), deadline);
        for thread in &self.io {
            thread.stop();
        }
        let mut late = Ok(());
        for thread in self.io.drain(..) {
            late = late.and(wait_for(thread.name(), || thread.is_finished(), deadline));
        }
        late
    }
}

fn wait_for(name: &str, done: impl Fn() -> bool, deadline: Instant) -> Result<(), StopError> {
    while !done() {
        if Instant::now() >= deadline {
            return Err(StopError(name.to_owned()));
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody is left to hear of a thread that hangs; the process ends without it.
        let _ = self.stop(false);
    }
}
