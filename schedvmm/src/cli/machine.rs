// SPDX-License-Identifier: Apache-2.0
//! Options of the machine.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use results::model;
use vmm::config::{PvProfile, Transport};

use crate::units::{self, CpuList};

/// The machine.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Number of vCPUs.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub cpus: u32,
    /// Hardware threads per core.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub threads_per_core: u32,
    /// Guest memory; allocated as the guest touches it.
    #[arg(long, default_value = "4G", value_parser = units::mebibytes, value_name = "SIZE")]
    pub memory: u64,
    /// Host CPUs for the vCPUs in order, or `none` [default: whole cores from the second on].
    #[arg(long, value_parser = pin, value_name = "LIST")]
    pub pin: Option<Pin>,
    /// The kernel's modules, of which those are loaded that this machine needs and the kernel has
    /// not built in: /lib/modules/RELEASE, a package or a folder that one was unpacked into, or a
    /// build tree; may be repeated [default: beside the kernel's file, or in packages beside its
    /// own].
    #[arg(long, value_parser = units::named(), value_name = "DIR|PACKAGE")]
    pub modules: Vec<PathBuf>,
    /// How the guest kernel idles.
    #[arg(long, value_enum, default_value_t = Idle::Halt)]
    pub idle: Idle,
    /// KVM paravirtual features the guest sees: clock, cloud or off.
    #[arg(long, default_value_t = PvProfile::Clock, value_name = "PROFILE")]
    pub pv: PvProfile,
    /// How the guest reaches its virtio console.
    #[arg(long, value_enum, default_value_t = TransportChoice::Auto)]
    pub transport: TransportChoice,
    /// Unpack the kernel into guest memory, or let its own stub do it.
    #[arg(long, value_enum, default_value_t = Boot::Payload)]
    pub boot: Boot,
    /// Words added to the end of the kernel command line; of two values, the last one counts.
    #[arg(long, default_value = "", value_parser = units::kernel_words, value_name = "WORDS", allow_hyphen_values = true)]
    pub append: String,
    /// Time from start to PID 1 after which the kernel counts as not booting.
    #[arg(long, default_value = "60s", value_parser = units::positive_duration, value_name = "TIME")]
    pub boot_timeout: Duration,
    /// Give the guest a 16550 and show its early console.
    #[arg(long)]
    pub debug_boot: bool,
}

/// Where vCPUs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Wherever the host's scheduler puts them.
    None,
    /// One host CPU for each.
    List(CpuList),
}

fn pin(text: &str) -> Result<Pin, String> {
    if text == "none" { Ok(Pin::None) } else { units::pins(text).map(Pin::List) }
}

/// `idle=` of the guest kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Halt, as a kernel does by itself.
    Halt,
    /// Spin: a forced-idle sibling then takes half of its core's speed.
    Poll,
}

impl Idle {
    /// How a kernel with this command line idles: one that was told to poll once does, whatever
    /// else it was told (arch/x86/kernel/process.c, `idle_setup`).
    pub fn of(cmdline: &str) -> Self {
        let polls = cmdline.split_whitespace().any(|word| word == "idle=poll");
        if polls { Self::Poll } else { Self::Halt }
    }

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Poll => "poll",
        }
    }
}

impl From<Idle> for model::Idle {
    fn from(idle: Idle) -> Self {
        match idle {
            Idle::Halt => Self::Halt,
            Idle::Poll => Self::Poll,
        }
    }
}

/// How the guest reaches its virtio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportChoice {
    /// The one for which the kernel loads fewer modules: virtio-mmio first.
    Auto,
    /// virtio-mmio.
    Mmio,
    /// virtio-pci.
    Pci,
}

impl TransportChoice {
    /// The one that it must be; `None` leaves it to the kernel.
    pub fn asked(self) -> Option<Transport> {
        match self {
            Self::Auto => None,
            Self::Mmio => Some(Transport::Mmio),
            Self::Pci => Some(Transport::Pci),
        }
    }
}

/// How the kernel image is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Boot {
    /// Unpacked by us, entered as ELF.
    Payload,
    /// Entered at the bzImage's 64-bit stub.
    Stub,
}
