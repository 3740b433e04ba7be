// SPDX-License-Identifier: Apache-2.0
//! Facts about the host that a reader needs to trust, or to repeat, a figure.

use std::arch::x86_64::__cpuid;
use std::fs;

use serde_json::{Value, json};

/// CPUID signature of QEMU's software emulation.
const EMULATION: &str = "TCGTCGTCGTCG";

/// Facts about this host.
pub fn host() -> Value {
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "kernel_version": read("/proc/sys/kernel/version"),
        "cmdline": read("/proc/cmdline"),
        "cpu": cpu_model(),
        "cpus_online": read("/sys/devices/system/cpu/online"),
        "smt": read("/sys/devices/system/cpu/smt/control"),
        "clocksource": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "hypervisor": hypervisor(),
        "kvm_halt_poll_ns": read("/sys/module/kvm/parameters/halt_poll_ns"),
        "sched_autogroup": read("/proc/sys/kernel/sched_autogroup_enabled"),
    })
}

/// A warning where latencies mean nothing.
pub fn emulation_note() -> Option<String> {
    (hypervisor().as_deref() == Some(EMULATION)).then(|| {
        "this host is software emulation (QEMU TCG): latencies here are not measurements".into()
    })
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

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(": ").map(|(_, model)| model.to_owned())
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}
