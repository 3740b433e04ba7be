// SPDX-License-Identifier: Apache-2.0
//! What the nested target adds to a plan, and what it needs of host and kernel.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use protocol::group::{GroupSpec, SleepSpec};
use protocol::index::Kind;
use protocol::job::{CoschedRequest, Job, LoadSpec, MeterKind, MeterMode, MeterSpec, NestedSpec};
use vmm::config::Topology;
use vmm::kvm::Hypervisor;
use vmm::x86_64::lint::{LintError, MODULES};

use crate::cli::{Idle, MachineArgs, NestedArgs, Pages, RunArgs};
use crate::modules::Modules;
use crate::status::Failure;
use crate::{convert, machine};

/// Each second-level guest is one core of two threads.
const L2: Topology = Topology { cpus: 2, threads_per_core: 2 };
/// Most of them: far more than a machine of four vCPUs can boot in time.
const MAX_VMS: u32 = 256;
/// Memory of a second-level guest whose kernel is small.
const MIN_MEMORY_MIB: u64 = 64;
/// What a kernel that has just started takes beside itself and its initrd: its tables of pages and
/// CPUs, the initrd's files unpacked, the meter's records. Debian's cloud kernel 7.3, of which 69
/// MiB are itself and the initrd, runs in 95 MiB, and not in 88.
const OVERHEAD_MIB: u64 = 28;
/// In steps of a huge page.
const MEMORY_STEP_MIB: u64 = 2;
/// Gap records of one vCPU that a second-level guest of little memory has room for.
const MAX_RECORDS: u32 = 8192;
/// Beyond the duration, after which a command ends a second-level guest: its own deadline.
const L2_DURATION_MARGIN: Duration = Duration::from_secs(120);
/// From the first guest that is ready to the order to start, beyond the time to boot.
const BARRIER: Duration = Duration::from_secs(120);
/// How long a second-level guest may not come further while it boots.
const BOOT_STALL: Duration = Duration::from_secs(300);
/// A second-level guest that is ready waits for the others, who may boot as long as they come
/// further. Its launcher ends it before, if nobody is there any more to tell it to start.
const MAX_BOOT: Duration = Duration::from_secs(24 * 60 * 60);

/// Turns a job for the load into one for virtual machines.
///
/// # Errors
/// Options that make no sense.
pub fn nest(job: &mut Job, args: &RunArgs) -> Result<(), Failure> {
    let nested = &args.nested;
    check(nested)?;
    let always = GroupSpec::plain(L2.cpus, job.load.duration, SleepSpec::Fixed(Duration::ZERO));
    job.load.name = None;
    job.load.warmup = Duration::ZERO;
    job.load.groups = (0..nested.l2_count).map(|_| always.clone()).collect();
    job.load.kind = Kind::Vcpus;
    job.load.records_per_thread = job.load.records_per_thread.min(MAX_RECORDS);
    let at_once =
        if nested.boot_confined { nested.l2_count } else { (args.machine.cpus / L2.cpus).max(1) };
    job.nested = Some(Box::new(NestedSpec {
        // Without a word of the user it is their kernel that says.
        memory_mib: nested.l2_memory.unwrap_or(MIN_MEMORY_MIB),
        vcpus: L2.cpus,
        own_pages: nested.l2_pages == Pages::Own,
        threads_per_core: L2.threads_per_core,
        pv: convert::pv(args.machine.pv),
        transport: args.machine.transport.asked().map(convert::transport),
        cmdlines: (1..=nested.l2_count).map(|vm| cmdline(args, vm)).collect(),
        confine: nested.confine.into(),
        boot_confined: nested.boot_confined,
        boot_at_once: nested.l2_boot_at_once.unwrap_or(at_once),
        boot_timeout: nested.l2_boot_timeout,
        boot_stall: BOOT_STALL,
        job: job_of_each(&job.load, args),
    }));
    Ok(())
}

/// Whether the options make sense.
fn check(nested: &NestedArgs) -> Result<(), Failure> {
    let count = nested.l2_count;
    let all = 1..=count;
    if !(1..=MAX_VMS).contains(&count) {
        return Err(Failure::request(format!("--l2-count {count}: give 1 to {MAX_VMS}")));
    }
    if nested.show_vm.number().is_some_and(|vm| !all.contains(&vm)) {
        let text = format!("--show-vm: there are only the VMs 1 to {count} (--l2-count)");
        return Err(Failure::request(text));
    }
    let words = nested.l2_append.iter().map(|append| append.words.as_str());
    if let Some(word) = words.into_iter().find_map(leaves_one_cpu) {
        return Err(Failure::request(format!(
            "--l2-append: with `{word}` a kernel brings up one CPU of its 2, and both are measured; \
             leave it out"
        )));
    }
    let mut strangers = nested.l2_append.iter().filter_map(|words| words.vm);
    match strangers.find(|vm| !all.contains(vm)) {
        Some(vm) => Err(Failure::request(format!(
            "--l2-append {vm}:…: there are only the VMs 1 to {count} (--l2-count)"
        ))),
        None => Ok(()),
    }
}

/// What the agent in each of them is to do, for a load of all of them.
fn job_of_each(load: &LoadSpec, args: &RunArgs) -> Job {
    let load = LoadSpec {
        cpus: (0..L2.cpus).collect(),
        duration: load.duration.saturating_add(L2_DURATION_MARGIN),
        ..load.clone()
    };
    let meter = args.meter.spec().unwrap_or(MeterSpec {
        kind: MeterKind::Auto,
        window: args.meter.meter_window,
        width: args.meter.meter_width,
        mode: MeterMode::RoundRobin,
    });
    Job {
        meter: Some(meter),
        wait_for_go: Some(args.nested.l2_boot_timeout.unwrap_or(MAX_BOOT).saturating_add(BARRIER)),
        ..Job::new(load.for_meter(), CoschedRequest::None)
    }
}

/// The command line of the kernel in one of them, by its number.
fn cmdline(args: &RunArgs, vm: u32) -> String {
    let append = args.nested.l2_append.iter().filter(|words| words.is_for(vm));
    let append: Vec<_> = append.map(|words| words.words.as_str()).collect();
    let machine = MachineArgs {
        cpus: L2.cpus,
        threads_per_core: L2.threads_per_core,
        append: append.join(" "),
        idle: Idle::Halt,
        debug_boot: false,
        ..args.machine.clone()
    };
    // Without a version: words for cookies are none of their business.
    machine::cmdline(&machine, &[], None, None)
}

/// Memory in MiB of a second-level guest with a kernel that ends at this address, and an initrd of
/// so many bytes at the end of memory.
pub fn memory_mib(kernel_end: u64, initrd_bytes: u64) -> u64 {
    let taken = kernel_end.saturating_add(initrd_bytes).div_ceil(1 << 20);
    (taken + OVERHEAD_MIB).next_multiple_of(MEMORY_STEP_MIB).max(MIN_MEMORY_MIB)
}

/// The word by which a kernel leaves the second CPU of a second-level guest, a hyperthread of the
/// first, offline.
fn leaves_one_cpu(words: &str) -> Option<&str> {
    words.split_ascii_whitespace().find(|word| match word.split_once('=') {
        Some(("maxcpus" | "nr_cpus" | "possible_cpus", count)) => matches!(count, "0" | "1"),
        Some((word, value)) => matches!((word, value), ("nosmt", "force") | ("acpi", "off")),
        None => matches!(*word, "nosmt" | "nosmp" | "nolapic" | "disableapic"),
    })
}

/// CPUID leaf 1, ECX: VMX.
const VMX: (u32, u32) = (0x1, 1 << 5);
/// CPUID leaf 0x8000_0001, ECX: SVM.
const SVM: (u32, u32) = (0x8000_0001, 1 << 2);

/// The vendor's half of KVM, by what it makes of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// VMX.
    Intel,
    /// SVM.
    Amd,
}

impl Vendor {
    /// Its module.
    pub fn module(self) -> &'static str {
        match self {
            Self::Intel => "kvm_intel",
            Self::Amd => "kvm_amd",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Intel => "CONFIG_KVM_INTEL",
            Self::Amd => "CONFIG_KVM_AMD",
        }
    }
}

/// The same, of a KVM that is there.
///
/// # Errors
/// As for [`vendor`].
pub fn vendor_of(hypervisor: &Hypervisor) -> Result<Vendor, Failure> {
    let supported = hypervisor.supported_cpuid()?;
    vendor(
        |leaf| supported.iter().find(|entry| entry.function == leaf).map_or(0, |entry| entry.ecx),
        Path::new("/sys"),
    )
}

/// Whether this host's KVM lets a guest be a host in turn; `supported` tells the ECX of a CPUID
/// leaf as KVM shows it to guests, `sysfs` is /sys.
///
/// # Errors
/// It does not, and how to switch it on where that is possible.
pub fn vendor(supported: impl Fn(u32) -> u32, sysfs: &Path) -> Result<Vendor, Failure> {
    for ((leaf, bit), vendor) in [(VMX, Vendor::Intel), (SVM, Vendor::Amd)] {
        if supported(leaf) & bit != 0 {
            return Ok(vendor);
        }
    }
    for vendor in [Vendor::Intel, Vendor::Amd] {
        let module = vendor.module();
        let parameter = sysfs.join("module").join(module).join("parameters/nested");
        let value = fs::read_to_string(&parameter).unwrap_or_default();
        if matches!(value.trim(), "N" | "0") {
            return Err(Failure::host(format!(
                "nesting is off on this host ({} is {}): switch it on with `modprobe -r \
                     {module} && modprobe {module} nested=1` while no machine runs, or for good \
                     with a line `options {module} nested=1` in /etc/modprobe.d/kvm.conf",
                parameter.display(),
                value.trim()
            )));
        }
    }
    Err(Failure::host(
        "this host's KVM shows guests neither VMX nor SVM, so no guest can be a host in turn: \
         use a host with hardware virtualization of its own, or one whose own host allows it \
         nesting",
    ))
}

/// True if the first-level kernel can be a host, by its configuration where that is known; `has`
/// finds a text in it.
///
/// # Errors
/// It lacks KVM, or has it as a module that is not among those it gets.
pub fn check_kernel(
    config: Option<&HashMap<String, String>>,
    modules: &Modules,
    has: impl Fn(&[u8]) -> bool,
    vendor: Vendor,
) -> Result<(), LintError> {
    if modules.has(vendor.module()) {
        return Ok(());
    }
    let option = vendor.option();
    let Some(config) = config else {
        // The prefix of the module's parameters, which only a built-in module has in the image.
        let prefix = format!("{}.", vendor.module());
        return if has(prefix.as_bytes()) {
            Ok(())
        } else {
            let what = "it has no KVM built in, which --nested needs";
            Err(LintError { before: MODULES, ..lacks(what, vendor) })
        };
    };
    match (config.get("CONFIG_KVM").map(String::as_str), config.get(option).map(String::as_str)) {
        (Some("y"), Some("y")) => Ok(()),
        (Some("m"), _) | (_, Some("m")) => {
            Err(lacks("it has KVM as a module only; give its --modules", vendor))
        }
        _ => Err(lacks("it has no KVM, which --nested needs", vendor)),
    }
}

fn lacks(what: &'static str, vendor: Vendor) -> LintError {
    let options = match vendor {
        Vendor::Intel => "CONFIG_KVM=y CONFIG_KVM_INTEL=y",
        Vendor::Amd => "CONFIG_KVM=y CONFIG_KVM_AMD=y",
    };
    LintError { what, before: "", options }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ExitStatus;

    #[test]
    fn hosts_without_nesting_are_told_apart() {
        let none = tempfile::tempdir().expect("tempdir");
        let with = |(leaf, bit): (u32, u32)| move |asked: u32| if asked == leaf { bit } else { 0 };
        assert_eq!(vendor(with(VMX), none.path()).ok(), Some(Vendor::Intel));
        assert_eq!(vendor(with(SVM), none.path()).ok(), Some(Vendor::Amd));
        let error = vendor(|_| 0, none.path()).expect_err("no such CPU");
        assert!(error.status() == ExitStatus::Host && error.to_string().contains("neither VMX"));
        for module in ["kvm_intel", "kvm_amd"] {
            let sys = tempfile::tempdir().expect("tempdir");
            let parameters = sys.path().join("module").join(module).join("parameters");
            fs::create_dir_all(&parameters).expect("made");
            fs::write(parameters.join("nested"), "0\n").expect("written");
            let text = vendor(|_| 0, sys.path()).expect_err("off").to_string();
            assert!(text.contains(&format!("options {module} nested=1")), "{text}");
        }
    }

    #[test]
    fn words_that_hide_a_cpu_are_known() {
        for words in ["quiet nosmt", "nosmt=force", "maxcpus=1 x", "nr_cpus=1", "acpi=off"] {
            assert!(leaves_one_cpu(words).is_some(), "{words}");
        }
        for words in ["", "maxcpus=2", "nr_cpus=8", "mitigations=off", "xnosmt"] {
            assert_eq!(leaves_one_cpu(words), None, "{words}");
        }
    }

    #[test]
    fn memory_follows_from_kernel_and_initrd() {
        assert_eq!(memory_mib(20 << 20, 6 << 20), MIN_MEMORY_MIB);
        assert_eq!(memory_mib(63 << 20, (6 << 20) - 1), 98);
        assert_eq!(memory_mib(63 << 20, (6 << 20) + 1), 98);
        assert_eq!(memory_mib(63 << 20, 8 << 20), 100);
    }

    #[test]
    fn kernels_without_kvm_are_told_apart() {
        let none = Modules::default();
        let check = |lines: &[(&str, &str)]| {
            let config = lines.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            check_kernel(Some(&config), &none, |_| false, Vendor::Amd)
        };
        assert_eq!(check(&[("CONFIG_KVM", "y"), ("CONFIG_KVM_AMD", "y")]), Ok(()));
        let modular = check(&[("CONFIG_KVM", "y"), ("CONFIG_KVM_AMD", "m")]).expect_err("module");
        assert!(modular.to_string().contains("module") && modular.options.contains("KVM_AMD=y"));
        assert!(check(&[("CONFIG_KVM", "y"), ("CONFIG_KVM_INTEL", "y")]).is_err());
        assert!(check(&[]).expect_err("none").to_string().contains("CONFIG_KVM=y"));
        let amd = |text: &[u8]| text == b"kvm_amd.";
        assert_eq!(check_kernel(None, &none, amd, Vendor::Amd), Ok(()));
        assert!(check_kernel(None, &none, amd, Vendor::Intel).is_err());
    }
}
