// SPDX-License-Identifier: Apache-2.0
//! Tiny guests: how they are built, run, heard and waited for.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use vmm::config::{Config, MIN_MEMORY_MIB, Topology, Transport};
use vmm::kvm::{DEVICE, Hypervisor};
use vmm::load::{self, Initrd, Kernel};
use vmm::vcpu::VcpuEnd;
use vmm::virtio::console::{PortKind, PortSpec};
use vmm::vm::{Facts, Parts, Running, StartError, Vm};
use vmm::x86_64::image::KernelImage;
use vmm::x86_64::setup_data::RNG_SEED_BYTES;

pub mod code;

/// A tiny guest needs microseconds; one that is interpreted on a busy machine, far less than
/// this.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Opens this machine's KVM.
pub fn hypervisor() -> Result<Hypervisor, String> {
    Hypervisor::open(Path::new(DEVICE)).map_err(|error| error.to_string())
}

/// A guest before it is built.
pub struct Guest {
    config: Config,
    image: Vec<u8>,
    serial: Option<Box<dyn Write + Send>>,
}

impl Guest {
    /// One vCPU that runs `code` from [`code::BASE`].
    pub fn new(code: &[u8]) -> Self {
        Self { config: config(1), image: code::image(code, &[]), serial: None }
    }

    /// Four vCPUs as two cores of two threads. The boot processor runs `boot`; the others
    /// run `other`, in real mode, if and when the boot processor wakes them.
    pub fn four(boot: &[u8], other: &[u8]) -> Self {
        Self { config: config(4), image: code::image(boot, other), serial: None }
    }

    /// Host CPU of each vCPU.
    pub fn pins(mut self, pins: Vec<usize>) -> Self {
        self.config.pins = pins;
        self
    }

    /// What its random number generator begins with.
    pub fn rng_seed(mut self, seed: [u8; RNG_SEED_BYTES]) -> Self {
        self.config.rng_seed = Some(seed);
        self
    }

    /// How it reaches its console.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.config.transport = Some(transport);
        self
    }

    /// Replaces the serial device's sink; then nothing is heard.
    pub fn serial(mut self, sink: Box<dyn Write + Send>) -> Self {
        self.serial = Some(sink);
        self
    }

    /// Builds and starts it; the inner error is that of the start, with the ends that were
    /// reported all the same.
    pub fn try_start(self) -> Result<Result<Live, (StartError, Receiver<VcpuEnd>)>, Failed> {
        let kernel = KernelImage::parse(self.image)?;
        let port = |name: &str, kind| PortSpec {
            name: name.into(),
            kind,
            sink: Box::new(io::sink()) as Box<dyn Write + Send>,
        };
        let ports = vec![
            port("console", PortKind::Console),
            port("results", PortKind::Generic),
            port("trace", PortKind::Generic),
        ];
        let (said, heard) = mpsc::channel();
        let sink = self.serial.unwrap_or(Box::new(Mouth(said)));
        let parts = Parts {
            loaded: load::fill(&self.config, Kernel::Image(&kernel), Initrd::Bytes(&[]))?,
            ports,
            serial: Some(sink),
        };
        let vm = Vm::build(&hypervisor()?, &self.config, parts)?;
        let facts = vm.facts();
        let (ended, ends) = mpsc::channel();
        let started = vm.start(move |end| {
            // A test that has heard enough is gone.
            let _ = ended.send(end);
        });
        Ok(match started {
            Ok(running) => Ok(Live { running, facts, heard, ends }),
            Err(error) => Err((error, ends)),
        })
    }

    /// Builds and starts it.
    pub fn start(self) -> Result<Live, Failed> {
        self.try_start()?.map_err(|(error, _)| error.into())
    }

    /// Runs a guest of one vCPU to its own end.
    pub fn run(self) -> Result<(VcpuEnd, Vec<u8>), Failed> {
        let live = self.start()?;
        let end = live.next_end()?;
        let said = live.heard.try_iter().flatten().collect();
        live.stop(false)?;
        Ok((end, said))
    }
}

fn config(cpus: u32) -> Config {
    let topology = Topology { cpus, threads_per_core: cpus.min(2) };
    Config { serial: true, ..Config::new(topology, MIN_MEMORY_MIB) }
}

/// A serial sink that passes on what the guest says.
struct Mouth(Sender<Vec<u8>>);

impl Write for Mouth {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Nobody listens to a guest that is being stopped.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A guest that runs.
pub struct Live {
    /// The machine.
    pub running: Running,
    /// What its build found out.
    pub facts: Facts,
    heard: Receiver<Vec<u8>>,
    ends: Receiver<VcpuEnd>,
}

impl Live {
    /// Waits for the next `count` bytes on the serial line.
    pub fn hear(&self, count: usize) -> Result<Vec<u8>, Failed> {
        let deadline = Instant::now() + DEADLINE;
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(more) => bytes.extend(more),
                Err(_) => {
                    let end = self.ends.try_recv();
                    return Err(format!("heard {bytes:02x?}, not {count} bytes; {end:x?}").into());
                }
            }
        }
        Ok(bytes)
    }

    /// Waits for the next vCPU to end.
    pub fn next_end(&self) -> Result<VcpuEnd, Failed> {
        self.ends.recv_timeout(DEADLINE).map_err(|_| "no vCPU has ended in time".into())
    }

    /// Stops it. Returns the time this took, `None` if it was late because the host is too
    /// busy to run our threads, and the ends not yet seen, by number of the vCPU.
    pub fn stop(mut self, dump: bool) -> Result<(Option<Duration>, Vec<VcpuEnd>), Failed> {
        // Late or never? Never is found out below.
        let took = self.running.stop(dump).ok();
        drop(self.running);
        let mut ends = Vec::new();
        loop {
            match self.ends.recv_timeout(DEADLINE) {
                Ok(end) => ends.push(end),
                // All senders are gone with the threads.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err("a vCPU thread hangs".into()),
            }
        }
        ends.sort_unstable_by_key(|end| end.cpu);
        Ok((took, ends))
    }
}

/// Tries `check` until it succeeds or the deadline has passed.
pub fn eventually(mut check: impl FnMut() -> Result<(), String>) -> Result<(), Failed> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match check() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
