// SPDX-License-Identifier: Apache-2.0
//! The table: what measurements need of a kernel, by which options it has that, and what it means
//! where it has not.
//!
//! Sources: the Kconfig files of Linux 5.4 to 7.3.

/// Version and patch level.
pub type Version = (u32, u32);

/// An option of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// Without `CONFIG_`.
    pub name: &'static str,
    /// What is to be set so that it is: itself, unless others select it.
    pub set: &'static [&'static str],
    /// The first version that has it; those before have nothing of the kind.
    pub from: Option<Version>,
    /// The first version in which it is no option any more, for what it brought is always there.
    pub always_from: Option<Version>,
    /// Its module, where it can be one; with underscores.
    pub module: Option<&'static str>,
    /// A text that is in an image if, and only if, this is built in.
    pub text: Option<&'static str>,
    /// What it is to be.
    pub wanted: Wanted,
}

/// What an option is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `y`.
    On,
    /// Anything else.
    Off,
    /// A number that is not less.
    AtLeast(u32),
}

const fn opt(name: &'static str) -> Opt {
    Opt {
        name,
        set: &[],
        from: None,
        always_from: None,
        module: None,
        text: None,
        wanted: Wanted::On,
    }
}

impl Opt {
    const fn set(mut self, set: &'static [&'static str]) -> Self {
        self.set = set;
        self
    }

    const fn from(mut self, version: Version) -> Self {
        self.from = Some(version);
        self
    }

    const fn always_from(mut self, version: Version) -> Self {
        self.always_from = Some(version);
        self
    }

    const fn module(mut self, module: &'static str) -> Self {
        self.module = Some(module);
        self
    }

    const fn text(mut self, text: &'static str) -> Self {
        self.text = Some(text);
        self
    }

    const fn off(mut self) -> Self {
        self.wanted = Wanted::Off;
        self
    }

    const fn at_least(mut self, number: u32) -> Self {
        self.wanted = Wanted::AtLeast(number);
        self
    }

    /// Options to set, without `CONFIG_`.
    pub fn to_set(self) -> impl Iterator<Item = &'static str> {
        let itself = self.set.is_empty().then_some(self.name);
        self.set.iter().copied().chain(itself)
    }
}

/// How much a kind of run needs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It cannot run without.
    Must,
    /// It runs, and something cannot be had.
    Wants,
    /// It is of no use to it.
    No,
}

/// Something that measurements need of a kernel.
#[derive(Debug)]
pub struct Need {
    /// What it is called.
    pub name: &'static str,
    /// What it means where it is missing.
    pub without: &'static str,
    /// How much the main job needs it.
    pub main: Weight,
    /// How much `--nested` does, of the kernel around the virtual machines.
    pub nested: Weight,
    /// Ways to have it, the best one first: all options of one of them.
    pub ways: &'static [&'static [Opt]],
}

use Weight::{Must, No, Wants};

/// Needs of which a run has one.
pub const ON_INTEL: &str = "KVM on Intel";
pub const ON_AMD: &str = "KVM on AMD";
/// The way to the machine's devices, by one transport or the other.
pub const DEVICES: &str = "devices";
/// What a file beside the kernel is as good for.
pub const CONFIGURATION: &str = "configuration";
/// Needs of those only who ask for what they bring, and hear of it then: no figure of another run
/// depends on them.
pub const ON_REQUEST: [&str; 4] = ["quotas", "hwlat meter", "osnoise meter", "early console"];

const KVM: Opt = opt("KVM").set(&["VIRTUALIZATION", "KVM"]).module("kvm");
// The prefix of the module's parameters, which only a built-in module has in the image.
const KVM_INTEL: Opt = opt("KVM_INTEL").module("kvm_intel").text("kvm_intel.");
const KVM_AMD: Opt = opt("KVM_AMD").module("kvm_amd").text("kvm_amd.");

/// All needs, what is vital first.
pub const NEEDS: [Need; 24] = [
    Need {
        name: "processors",
        without: "it cannot run: the machine has several 64-bit CPUs",
        main: Must,
        nested: Must,
        // As many as a machine has by default.
        ways: &[&[opt("64BIT"), opt("SMP"), opt("NR_CPUS").at_least(4)]],
    },
    Need {
        name: "command line",
        without: "it cannot run: the kernel ignores what it is given, and has its own",
        main: Must,
        nested: Must,
        ways: &[&[opt("CMDLINE_OVERRIDE").off()]],
    },
    Need {
        name: DEVICES,
        without: "it cannot run: it has no driver for the machine's virtio devices",
        main: Must,
        nested: Must,
        ways: &[
            &[
                opt("ACPI"),
                // ACPI ID in drivers/virtio/virtio_mmio.c.
                opt("VIRTIO_MMIO")
                    .set(&["VIRTIO_MENU", "VIRTIO_MMIO"])
                    .module("virtio_mmio")
                    .text("LNRO0005"),
            ],
            &[
                opt("ACPI"),
                opt("PCI"),
                opt("PCI_MSI"),
                // Name of the driver in drivers/virtio/virtio_pci_common.c.
                opt("VIRTIO_PCI")
                    .set(&["VIRTIO_MENU", "VIRTIO_PCI"])
                    .module("virtio_pci")
                    .text("virtio-pci\0"),
            ],
        ],
    },
    Need {
        name: "results",
        without: "it cannot run: results come out through a virtio console",
        main: Must,
        nested: Must,
        // Driver name in drivers/char/virtio_console.c.
        ways: &[&[opt("VIRTIO_CONSOLE")
            .set(&["TTY", "VIRTIO_MENU", "VIRTIO_CONSOLE"])
            .module("virtio_console")
            .text("virtio_console")]],
    },
    Need {
        name: "initrd",
        without: "it cannot run: what measures is in an initrd",
        main: Must,
        nested: Must,
        // Message in init/initramfs.c.
        ways: &[&[opt("BLK_DEV_INITRD").text("Initramfs unpacking failed")]],
    },
    Need {
        name: "user space",
        without: "it cannot run: what measures is a program that reads /proc and /sys",
        main: Must,
        nested: Must,
        ways: &[&[opt("BINFMT_ELF"), opt("PROC_FS"), opt("SYSFS"), opt("FUTEX")]],
    },
    Need {
        name: "KVM",
        without: "--nested cannot run: it starts virtual machines in the guest",
        main: No,
        nested: Must,
        ways: &[&[KVM, KVM_INTEL], &[KVM, KVM_AMD]],
    },
    Need {
        name: "VMs' files",
        without: "--nested cannot run: virtual machines share a kernel in memory, have devices, and \
                  talk to the agent through sockets",
        main: No,
        nested: Must,
        // Sockets are between the agent and the launchers of machines, timers in their consoles.
        ways: &[&[
            opt("MEMFD_CREATE"),
            opt("SHMEM"),
            opt("EPOLL"),
            opt("EVENTFD"),
            opt("TIMERFD"),
            opt("UNIX").set(&["NET", "UNIX"]),
        ]],
    },
    Need {
        name: ON_INTEL,
        without: "--nested runs on no Intel host",
        main: No,
        nested: Wants,
        ways: &[&[KVM, KVM_INTEL]],
    },
    Need {
        name: ON_AMD,
        without: "--nested runs on no AMD host",
        main: No,
        nested: Wants,
        ways: &[&[KVM, KVM_AMD]],
    },
    Need {
        name: "VMs' memory",
        without: "virtual machines have small pages: they boot more slowly",
        main: No,
        nested: Wants,
        // Huge pages are asked for with madvise.
        ways: &[&[opt("TRANSPARENT_HUGEPAGE"), opt("ADVISE_SYSCALLS")]],
    },
    Need {
        name: "clock",
        without: "it does not see KVM's clock: it may find no time source but with --pv off",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("KVM_GUEST").set(&["HYPERVISOR_GUEST", "PARAVIRT", "KVM_GUEST"])]],
    },
    Need {
        name: "timers",
        without: "sleeps and slices end at ticks: gaps come in steps of a tick",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("HIGH_RES_TIMERS")]],
    },
    Need {
        name: "POSIX clocks",
        without: "CLOCK_MONOTONIC_RAW is there by the vDSO alone: the TSC's frequency may not be found",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("POSIX_TIMERS")]],
    },
    Need {
        name: "cookies",
        without: "no SCHED_CORE, no cookies: measure the scheduler without them",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("SCHED_SMT"), opt("SCHED_CORE").from((5, 14))]],
    },
    Need {
        name: "cgroups",
        without: "groups of the load are threads only: they have no weights and no share of their own",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("CGROUPS"), opt("CGROUP_SCHED"), opt("FAIR_GROUP_SCHED"), opt("CPUSETS")]],
    },
    Need {
        name: "quotas",
        without: "no CPU quotas: --preset throttle and `quota` of a load cannot be measured",
        main: Wants,
        nested: No,
        ways: &[&[opt("CFS_BANDWIDTH")]],
    },
    Need {
        name: "accounts",
        without: "the kernel does not tell how long threads waited, nor how long CPUs were forced idle",
        main: Wants,
        nested: Wants,
        // They are switched on in /proc/sys/kernel.
        ways: &[&[opt("SCHEDSTATS"), opt("PROC_SYSCTL").always_from((7, 0))]],
    },
    Need {
        name: "tunables",
        without: "the slice cannot be read or set: no --tune, and no gap is called expected",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("DEBUG_FS"), opt("SCHED_DEBUG").always_from((6, 15))]],
    },
    Need {
        name: "trace",
        without: "no trace: gaps are measured, and not explained",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("EVENT_TRACING").set(&["FTRACE", "FUNCTION_TRACER"])]],
    },
    Need {
        name: "hwlat meter",
        without: "no --meter hwlat; --meter auto, and virtual machines, use a loop of ours",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("HWLAT_TRACER").set(&["FTRACE", "HWLAT_TRACER"])]],
    },
    Need {
        name: "osnoise meter",
        without: "no --meter osnoise",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("OSNOISE_TRACER").set(&["FTRACE", "OSNOISE_TRACER"]).from((5, 14))]],
    },
    Need {
        name: "early console",
        without: "--debug-boot does not show why it does not boot",
        main: Wants,
        nested: Wants,
        ways: &[&[
            opt("SERIAL_8250_CONSOLE").set(&["SERIAL_8250", "SERIAL_8250_CONSOLE"]),
            opt("EARLY_PRINTK"),
        ]],
    },
    Need {
        name: CONFIGURATION,
        without: "nothing says how it was built, no file beside it and no IKCONFIG in it: what it \
                  lacks is known in part only",
        main: Wants,
        nested: Wants,
        ways: &[&[opt("IKCONFIG").module("configs").text("IKCFG_ST")]],
    },
];
