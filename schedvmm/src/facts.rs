// SPDX-License-Identifier: Apache-2.0
//! Facts about the host that a reader needs to trust, or to repeat, a figure.

use std::arch::x86_64::__cpuid;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use results::model::{EMULATION, HostFacts};
use workload::kernel::scheduler;

use crate::cpu_kinds::Kinds;

/// Facts about this host.
pub fn host() -> HostFacts {
    HostFacts {
        kernel: read("/proc/sys/kernel/osrelease"),
        kernel_version: read("/proc/sys/kernel/version"),
        cmdline: read("/proc/cmdline"),
        cpu: cpuinfo("model name"),
        cpus_online: read("/sys/devices/system/cpu/online"),
        smt: read("/sys/devices/system/cpu/smt/control"),
        clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        hypervisor: hypervisor(),
        kvm_halt_poll_ns: read("/sys/module/kvm/parameters/halt_poll_ns"),
        sched_autogroup: read("/proc/sys/kernel/sched_autogroup_enabled"),
        microcode: cpuinfo("microcode"),
        frequency_driver: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"),
        boost: read("/sys/devices/system/cpu/cpufreq/boost"),
        intel_no_turbo: read("/sys/devices/system/cpu/intel_pstate/no_turbo"),
        cpu_kinds: Kinds::read(Path::new("/sys")).facts(),
        cpus_isolated: read("/sys/devices/system/cpu/isolated"),
        cpus_nohz_full: read("/sys/devices/system/cpu/nohz_full"),
        transparent_hugepages: read("/sys/kernel/mm/transparent_hugepage/enabled"),
        rt_runtime_us: read("/proc/sys/kernel/sched_rt_runtime_us"),
        load_average: read("/proc/loadavg"),
        cgroup: read("/proc/self/cgroup"),
        mitigations: directory(Path::new("/sys/devices/system/cpu/vulnerabilities")),
        kvm: parameters(),
        scheduler_files: scheduler::files(Path::new("/")),
    }
}

/// Parameters of KVM's modules.
fn parameters() -> BTreeMap<String, BTreeMap<String, String>> {
    let modules = ["kvm", "kvm_intel", "kvm_amd"];
    modules
        .into_iter()
        .map(|module| {
            let path = Path::new("/sys/module").join(module).join("parameters");
            (module.to_owned(), directory(&path))
        })
        .filter(|(_, found)| !found.is_empty())
        .collect()
}

/// Every readable file of a directory, by name.
fn directory(path: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), text.trim_end().to_owned()))
        })
        .collect()
}

/// True if this host's CPUs are software.
pub fn emulated() -> bool {
    hypervisor().as_deref() == Some(EMULATION)
}

/// A warning where latencies mean nothing.
pub fn emulation_note() -> Option<String> {
    emulated().then(|| {
        "this host is software emulation (QEMU TCG): latencies here are not measurements".into()
    })
}

/// Whether this host is no guest itself.
pub fn on_hardware() -> bool {
    hypervisor().is_none()
}

/// Signature of the hypervisor this host runs on, if it is a guest itself.
fn hypervisor() -> Option<String> {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    if __cpuid(1).ecx & HYPERVISOR_PRESENT == 0 {
        return None;
    }
    let leaf = __cpuid(0x4000_0000);
    let bytes: Vec<u8> =
        [leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes).collect();
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
}

/// What the first processor of /proc/cpuinfo has under this name.
fn cpuinfo(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(": ").map(|(_, value)| value.to_owned())
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_readable_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("nx_huge_pages"), "Y\n").expect("write");
        fs::create_dir(dir.path().join("sub")).expect("mkdir");
        let found = directory(dir.path());
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("nx_huge_pages".into(), "Y".into())]);
        assert!(directory(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn this_host_is_described() {
        let host = host();
        let known = [&host.kernel, &host.cpu, &host.cpus_online, &host.clocksource];
        for fact in known.into_iter().chain([&host.load_average]) {
            assert!(fact.as_ref().is_some_and(|text| !text.is_empty()), "{host:?}");
        }
    }
}
