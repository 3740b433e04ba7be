// SPDX-License-Identifier: Apache-2.0
//! Options of virtual machines as the load.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::meter::BURSTY;
use crate::units;

/// Virtual machines as the load.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Nested virtual machines")]
pub struct NestedArgs {
    /// The load is virtual machines: each of 2 vCPUs, started by this program in the guest, and
    /// kept busy by a meter (--meter, else the best that their kernel has).
    #[arg(long, conflicts_with_all = BURSTY)]
    pub nested: bool,
    /// Their kernel, named as --kernel is [default: that of the machine around them].
    #[arg(long, value_name = "KERNEL", value_parser = units::named(), requires = "nested")]
    pub l2_kernel: Option<PathBuf>,
    /// Their kernel's modules, as with --modules [default: --modules, for the kernel that it is
    /// of].
    #[arg(long, value_name = "DIR|PACKAGE", value_parser = units::named(), requires = "nested")]
    pub l2_modules: Vec<PathBuf>,
    /// Memory of each [default: what their kernel and initrd take, and room].
    #[arg(long, value_parser = units::mebibytes, value_name = "SIZE", requires = "nested")]
    pub l2_memory: Option<u64>,
    /// Whether they have copies of kernel and initrd, in huge pages, or share the pages of one:
    /// less memory, and far more page faults while they boot.
    #[arg(long, value_enum, default_value_t = Pages::Own, requires = "nested")]
    pub l2_pages: Pages,
    /// How many.
    #[arg(long, default_value_t = 8, value_name = "N", requires = "nested")]
    pub l2_count: u32,
    /// Time from their start until all are ready [default: as long as they come further; one that
    /// for 300 s has neither reached another phase nor taken more memory is given up].
    #[arg(long, value_parser = units::positive_duration, value_name = "TIME", requires = "nested")]
    pub l2_boot_timeout: Option<Duration>,
    /// How many boot at the same time; by default as many as there are CPUs for their vCPUs, and
    /// all with --boot-confined.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N", requires = "nested")]
    pub l2_boot_at_once: Option<u32>,
    /// Words added to their kernels' command lines, of one of them with its number before:
    /// `3:WORDS`; may be repeated.
    #[arg(long, value_parser = vm_words, value_name = "[VM:]WORDS", allow_hyphen_values = true, requires = "nested")]
    pub l2_append: Vec<VmWords>,
    /// Where their vCPU threads run while they are measured.
    #[arg(long, value_enum, default_value_t = Confine::Core, requires = "nested")]
    pub confine: Confine,
    /// Confine them from their start, and not when all are ready: slow, and how the original
    /// had it.
    #[arg(long, requires = "nested")]
    pub boot_confined: bool,
    /// Whose meter's lines are shown live: the number of a VM, `all` or `none`.
    #[arg(long, default_value = "1", value_name = "VM", requires = "nested")]
    pub show_vm: ShowVm,
    /// A VM that fails is noted, and does not make the run fail.
    #[arg(long, requires = "nested")]
    pub allow_degraded: bool,
}

/// Words for the kernels of virtual machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmWords {
    /// For which; `None` for all.
    pub vm: Option<u32>,
    /// The words.
    pub words: String,
}

impl VmWords {
    /// Whether they are for this machine.
    pub fn is_for(&self, vm: u32) -> bool {
        self.vm.is_none_or(|only| only == vm)
    }
}

fn vm_words(text: &str) -> Result<VmWords, String> {
    let numbered = text.split_once(':').and_then(|(vm, words)| Some((vm.parse().ok()?, words)));
    let (vm, words) = numbered.map_or((None, text), |(vm, words)| (Some(vm), words));
    Ok(VmWords { vm, words: units::kernel_words(words)? })
}

/// Pages of kernel and initrd of virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pages {
    /// One for all until it is written.
    Shared,
    /// Copies.
    Own,
}

/// How vCPU threads are confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Confine {
    /// All of them share all of the load's CPUs: both hyperthreads of the core.
    Core,
    /// Each has exactly one of them.
    Vcpu,
}

impl From<Confine> for protocol::job::Confine {
    fn from(confine: Confine) -> Self {
        match confine {
            Confine::Core => Self::Core,
            Confine::Vcpu => Self::Vcpu,
        }
    }
}

/// Whose lines are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowVm {
    /// Everybody's.
    All,
    /// Nobody's.
    None,
    /// Of this one.
    Only(u32),
}

impl ShowVm {
    /// The one that is shown alone.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Only(vm) => Some(vm),
            Self::All | Self::None => None,
        }
    }
}

impl FromStr for ShowVm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            number => number
                .parse()
                .map(Self::Only)
                .map_err(|_| format!("\"{text}\" is no number of a VM, all or none")),
        }
    }
}
