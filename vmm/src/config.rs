// SPDX-License-Identifier: Apache-2.0
//! What a virtual machine is made of: plain data and a pure check.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::x86_64::setup_data::RNG_SEED_BYTES;

/// Highest APIC ID we describe: 255 means all CPUs to an APIC of 8 bits. Higher ones would take
/// x2APIC entries in the MADT, and a guest takes those from a hypervisor without interrupt
/// remapping only if its KVM leaf says more than `--pv clock` lets through (Linux
/// arch/x86/kernel/apic/apic.c, `try_to_enable_x2apic`).
pub const MAX_APIC_ID: u32 = 254;
/// Most vCPUs.
pub const MAX_CPUS: u32 = MAX_APIC_ID;
/// Least memory in MiB: below, a 64-bit kernel and its initrd do not fit.
pub const MIN_MEMORY_MIB: u64 = 32;
/// Most memory in MiB: 1 TiB is far above any test guest and far below every CPU's
/// physical address width.
pub const MAX_MEMORY_MIB: u64 = 1 << 20;

/// A virtual machine's hardware and what it boots.
#[derive(Clone, Debug)]
pub struct Config {
    /// Processors.
    pub topology: Topology,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// KVM paravirtual features the guest sees.
    pub pv: PvProfile,
    /// Expose VMX or SVM.
    pub nested: bool,
    /// Give the guest a 16550 for its early console.
    pub serial: bool,
    /// Give the guest a text screen in memory, for what it says before its console
    /// ([`Running::screen`](crate::vm::Running::screen)).
    pub screen: bool,
    /// How virtio devices are reached; `None` takes what the kernel has a driver for.
    pub transport: Option<Transport>,
    /// The one that lists beside the kernel tell of, which may be of another build: taken where none
    /// is named above, unless the kernel itself shows that it has no driver for it.
    pub listed_transport: Option<Transport>,
    /// Kernel command line.
    pub cmdline: String,
    /// What the kernel's random number generator begins with, so that it need not wait for
    /// entropy; without it, what its CPU has.
    pub rng_seed: Option<[u8; RNG_SEED_BYTES]>,
    /// How the kernel image is entered.
    pub boot: BootMethod,
    /// Host CPU of each vCPU; empty leaves all of them to the host's scheduler.
    pub pins: Vec<usize>,
    /// Host CPUs that all vCPUs share, where they have no pins; empty leaves them where this
    /// process is.
    pub spread: Vec<usize>,
    /// Give the vCPU threads, and no other thread, a core-scheduling cookie of their own.
    pub cookie: bool,
}

impl Config {
    /// A machine of so many processors and so much RAM: with a TSC that it can trust, the
    /// transport that the kernel has a driver for, and its vCPUs left to the host's scheduler.
    pub fn new(topology: Topology, memory_mib: u64) -> Self {
        Self {
            topology,
            memory_mib,
            pv: PvProfile::Clock,
            nested: false,
            serial: false,
            screen: false,
            transport: None,
            listed_transport: None,
            cmdline: String::new(),
            rng_seed: None,
            boot: BootMethod::Payload,
            pins: Vec::new(),
            spread: Vec::new(),
            cookie: false,
        }
    }
}

/// Processors as cores of threads, in one package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Number of vCPUs.
    pub cpus: u32,
    /// Hardware threads per core.
    pub threads_per_core: u32,
}

impl Topology {
    /// Number of cores.
    pub fn cores(self) -> u32 {
        self.cpus / self.threads_per_core.max(1)
    }

    /// APIC ID of vCPU `cpu`: thread number in the low bits, core number above them.
    ///
    /// Cores of one, two or four threads give consecutive IDs.
    pub fn apic_id(self, cpu: u32) -> u32 {
        let threads = self.threads_per_core;
        ((cpu / threads) << bits(threads)) | (cpu % threads)
    }
}

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootMethod {
    /// Unpack the bzImage's payload into guest RAM and enter the ELF; fall back to the stub
    /// where the payload cannot be read.
    #[default]
    Payload,
    /// Enter the bzImage's own 64-bit stub, which unpacks the kernel in the guest.
    Stub,
}

/// How the guest finds and reaches its virtio devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Registers at an address that ACPI tells (virtio 1.2, 4.2): less for a kernel to do.
    #[default]
    Mmio,
    /// A function on a PCI bus (virtio 1.2, 4.1).
    Pci,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Mmio, Self::Pci];

    /// The module that has the driver, where it is not built in.
    pub fn module(self) -> &'static str {
        match self {
            Self::Mmio => "virtio_mmio",
            Self::Pci => "virtio_pci",
        }
    }

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::Pci => "pci",
        }
    }
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|transport| transport.name() == name)
            .ok_or_else(|| format!("\"{name}\" is none of mmio, pci"))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A named set of KVM paravirtual features (CPUID leaf 0x4000_0001).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PvProfile {
    /// Stable paravirtual clock, no I/O delays, and no exit at the end of an interrupt: nothing
    /// that changes what the guest's scheduler decides.
    #[default]
    Clock,
    /// All features that KVM offers, as a cloud guest sees them (steal time, paravirtual
    /// spinlocks, TLB flushes and IPIs).
    Cloud,
    /// No KVM signature at all: a kernel that takes the machine for bare metal.
    Off,
}

impl PvProfile {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Cloud => "cloud",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for PvProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PvProfile {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Clock, Self::Cloud, Self::Off]
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| format!("\"{name}\" is none of clock, cloud, off"))
    }
}

/// A configuration that cannot be built on any host.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// No vCPU, or more than can be described.
    #[error("{0} vCPUs: give 1 to {MAX_CPUS}; APIC IDs have 8 bits here")]
    Cpus(u32),
    /// Cores whose size is no power of two leave holes between the APIC IDs.
    #[error(
        "{cpus} vCPUs in cores of {threads} threads need APIC IDs up to {}, and there are those of \
         8 bits up to {MAX_APIC_ID}: give at most {} vCPUs, or cores of 1, 2 or 4 threads",
        last_apic_id(*.cpus, *.threads),
        most_cpus(*.threads)
    )]
    ApicIds {
        /// vCPUs.
        cpus: u32,
        /// Threads per core.
        threads: u32,
    },
    /// Threads do not divide the vCPUs into whole cores.
    #[error("{cpus} vCPUs do not divide into cores of {threads} threads")]
    Threads {
        /// vCPUs.
        cpus: u32,
        /// Threads per core.
        threads: u32,
    },
    /// RAM out of range.
    #[error("{0} MiB of memory: give {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB} MiB")]
    Memory(u64),
    /// A pin list that does not name one CPU for each vCPU.
    #[error("{pins} host CPUs to pin to, but {cpus} vCPUs: name one for each")]
    Pins {
        /// CPUs named.
        pins: usize,
        /// vCPUs.
        cpus: u32,
    },
}

/// Bits needed to number `n` things.
pub(crate) fn bits(n: u32) -> u32 {
    n.next_power_of_two().trailing_zeros()
}

fn last_apic_id(cpus: u32, threads_per_core: u32) -> u32 {
    Topology { cpus, threads_per_core }.apic_id(cpus - 1)
}

/// Most vCPUs in whole cores of so many threads.
fn most_cpus(threads: u32) -> u32 {
    let whole = (1..=MAX_CPUS).filter(|cpus| cpus.is_multiple_of(threads));
    whole.filter(|cpus| last_apic_id(*cpus, threads) <= MAX_APIC_ID).max().unwrap_or(0)
}

impl Config {
    /// Checks what can be checked without a host.
    ///
    /// # Errors
    /// The first value that no host could build.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Topology { cpus, threads_per_core: threads } = self.topology;
        if cpus == 0 || cpus > MAX_CPUS {
            return Err(ConfigError::Cpus(cpus));
        }
        if threads == 0 || !cpus.is_multiple_of(threads) {
            return Err(ConfigError::Threads { cpus, threads });
        }
        if last_apic_id(cpus, threads) > MAX_APIC_ID {
            return Err(ConfigError::ApicIds { cpus, threads });
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(ConfigError::Memory(self.memory_mib));
        }
        if !self.pins.is_empty() && self.pins.len() != cpus as usize {
            return Err(ConfigError::Pins { pins: self.pins.len(), cpus });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new(Topology { cpus: 4, threads_per_core: 2 }, 4096)
    }

    #[test]
    fn each_impossible_value_is_named() {
        assert_eq!(config().validate(), Ok(()));
        let topology = |cpus, threads_per_core| Config {
            topology: Topology { cpus, threads_per_core },
            ..config()
        };
        assert_eq!(topology(0, 1).validate(), Err(ConfigError::Cpus(0)));
        assert_eq!(topology(255, 1).validate(), Err(ConfigError::Cpus(255)));
        assert_eq!(topology(254, 1).validate(), Ok(()));
        assert_eq!(topology(192, 3).validate(), Ok(()));
        let error = topology(195, 3).validate().expect_err("no IDs");
        assert_eq!(error, ConfigError::ApicIds { cpus: 195, threads: 3 });
        let text = error.to_string();
        assert!(text.contains("APIC IDs up to 258") && text.contains("at most 192"), "{text}");
        assert_eq!(topology(3, 2).validate(), Err(ConfigError::Threads { cpus: 3, threads: 2 }));
        assert_eq!(topology(4, 0).validate(), Err(ConfigError::Threads { cpus: 4, threads: 0 }));
        let memory = Config { memory_mib: 31, ..config() };
        assert_eq!(memory.validate(), Err(ConfigError::Memory(31)));
        let pins = Config { pins: vec![0, 1], ..config() };
        assert_eq!(pins.validate(), Err(ConfigError::Pins { pins: 2, cpus: 4 }));
    }

    #[test]
    fn names_parse() {
        assert_eq!("cloud".parse(), Ok(PvProfile::Cloud));
        assert!("steal".parse::<PvProfile>().is_err());
        for transport in Transport::ALL {
            assert_eq!(transport.to_string().parse(), Ok(transport));
        }
        assert!("auto".parse::<Transport>().is_err());
    }
}
