// SPDX-License-Identifier: Apache-2.0
//! CPUID as the guest sees it: what KVM supports, with our topology in every leaf that an
//! Intel or AMD kernel reads, and the paravirtual profile.
//!
//! Sources: Intel SDM volume 2A "CPUID"; AMD APM volume 3 appendix E; Linux
//! arch/x86/kernel/cpu/topology_*.c and arch/x86/kernel/kvm.c,
//! Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::config::{PvProfile, Topology, bits};

const FEATURES: u32 = 0x1;
const INTEL_CACHES: u32 = 0x4;
const EXTENDED_FEATURES: u32 = 0x7;
const PMU: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const HYBRID: u32 = 0x1a;
const TOPOLOGY_V2: u32 = 0x1f;
const HYPERVISOR: u32 = 0x4000_0000;
const HYPERVISOR_END: u32 = 0x4fff_ffff;
const KVM_FEATURES: u32 = 0x4000_0001;
const TIMING: u32 = 0x4000_0010;
const EXTENDED_MAX: u32 = 0x8000_0000;
const AMD_FEATURES: u32 = 0x8000_0001;
const POWER: u32 = 0x8000_0007;
const SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// Local APIC timer rate in kHz that leaf 0x4000_0010 reports: KVM's APIC bus runs at 1 GHz.
const APIC_KHZ: u32 = 1_000_000;

/// Inputs of one vCPU's CPUID.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Number of the vCPU, which is its APIC ID's rank too.
    pub cpu: u32,
    /// The package.
    pub topology: Topology,
    /// Paravirtual features.
    pub pv: PvProfile,
    /// Expose VMX or SVM.
    pub nested: bool,
    /// TSC frequency in kHz, 0 if unknown.
    pub tsc_khz: u32,
}

impl Identity {
    fn thread_bits(self) -> u32 {
        bits(self.topology.threads_per_core)
    }

    fn package_bits(self) -> u32 {
        self.thread_bits() + bits(self.topology.cores())
    }

    fn core(self) -> u32 {
        self.cpu / self.topology.threads_per_core
    }
}

/// The CPUID table of one vCPU, from what `KVM_GET_SUPPORTED_CPUID` reported.
pub fn table(supported: &[kvm_cpuid_entry2], id: Identity) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> =
        supported.iter().copied().filter(|entry| !is_replaced(entry.function, id)).collect();
    let amd_topology = entries.iter().any(|entry| entry.function == AMD_TOPOLOGY);
    for entry in &mut entries {
        adapt(entry, id, amd_topology);
    }
    entries.extend(topology_leaves(TOPOLOGY, id));
    if supported.iter().any(|entry| entry.function == TOPOLOGY_V2) {
        entries.extend(topology_leaves(TOPOLOGY_V2, id));
    }
    if id.pv != PvProfile::Off && id.tsc_khz != 0 {
        entries.push(kvm_cpuid_entry2 {
            function: TIMING,
            eax: id.tsc_khz,
            ebx: APIC_KHZ,
            ..Default::default()
        });
    }
    entries
}

/// Leaves that are left out or written anew.
fn is_replaced(function: u32, id: Identity) -> bool {
    match function {
        TOPOLOGY | TOPOLOGY_V2 | HYBRID | AMD_TOPOLOGY_V2 => true,
        HYPERVISOR..=HYPERVISOR_END => {
            id.pv == PvProfile::Off || !(HYPERVISOR..=KVM_FEATURES).contains(&function)
        }
        _ => false,
    }
}

fn adapt(entry: &mut kvm_cpuid_entry2, id: Identity, amd_topology: bool) {
    let apic_id = id.topology.apic_id(id.cpu);
    match entry.function {
        FEATURES => {
            // As many as the field holds: one of 256 would count into the APIC ID.
            let siblings = (1 << id.package_bits()).min(0xff);
            entry.ebx = apic_id << 24 | siblings << 16 | 8 << 8 | entry.ebx & 0xff;
            // HYPERVISOR, TSC_DEADLINE, X2APIC on; PDCM off (there is no PMU).
            entry.ecx = entry.ecx & !(1 << 15) | 1 << 31 | 1 << 24 | 1 << 21;
            keep(&mut entry.ecx, 5, id.nested);
            // HTT: the sibling count above is valid.
            set(&mut entry.edx, 28, id.topology.cpus > 1);
        }
        INTEL_CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level < 3 { 1 << id.thread_bits() } else { 1 << id.package_bits() };
            // Six bits, as Intel fills them in for larger packages: leaf 0xb has the truth.
            let cores = (1u32 << bits(id.topology.cores())).min(64);
            entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14 | (cores - 1) << 26;
        }
        // WAITPKG off: UMWAIT would idle a CPU behind the scheduler's back.
        EXTENDED_FEATURES if entry.index == 0 => set(&mut entry.ecx, 5, false),
        PMU => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        HYPERVISOR => entry.eax = TIMING,
        KVM_FEATURES => {
            entry.eax = paravirtual(entry.eax, id.pv);
            // No REALTIME hint: it makes the guest poll before it halts.
            entry.edx = 0;
        }
        EXTENDED_MAX => entry.eax = entry.eax.min(AMD_TOPOLOGY_V2 - 1),
        AMD_FEATURES => {
            keep(&mut entry.ecx, 2, id.nested);
            // CMP_LEGACY belongs to CPUs without SMT; TOPOEXT announces 0x8000_001d and 1e.
            set(&mut entry.ecx, 1, false);
            set(&mut entry.ecx, 22, amd_topology);
        }
        // Invariant TSC: the guest then trusts it as its clocksource.
        POWER => entry.edx |= 1 << 8,
        SIZES => {
            entry.ecx =
                entry.ecx & !0xf0ff | (id.topology.cpus - 1) & 0xff | id.package_bits() << 12;
        }
        AMD_CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level < 3 { id.topology.threads_per_core } else { id.topology.cpus };
            entry.eax = entry.eax & !(0xfff << 14) | (sharing - 1) << 14;
        }
        AMD_TOPOLOGY => {
            entry.eax = apic_id;
            entry.ebx = (id.topology.threads_per_core - 1) << 8 | id.core();
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Leaf 0xb or 0x1f: thread level, core level and the closing empty level.
fn topology_leaves(function: u32, id: Identity) -> [kvm_cpuid_entry2; 3] {
    [
        level(0, id.thread_bits(), id.topology.threads_per_core, 1),
        level(1, id.package_bits(), id.topology.cpus, 2),
        level(2, 0, 0, 0),
    ]
    .map(|entry| kvm_cpuid_entry2 { function, edx: id.topology.apic_id(id.cpu), ..entry })
}

/// A level of the topology, of no leaf and of no CPU yet.
fn level(index: u32, shift: u32, count: u32, kind: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        ..Default::default()
    }
}

/// The paravirtual feature bits that a profile lets through.
fn paravirtual(offered: u32, pv: PvProfile) -> u32 {
    /// Clock in its two MSR forms, no delays after port writes, an end of an interrupt without an exit
    /// (PV_EOI), stable-clock promise (Documentation/virt/kvm/x86/cpuid.rst).
    const CLOCK: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 6 | 1 << 24;
    match pv {
        PvProfile::Clock => offered & CLOCK,
        PvProfile::Cloud => offered,
        PvProfile::Off => 0,
    }
}

/// Clears `bit` unless `allowed`.
fn keep(word: &mut u32, bit: u32, allowed: bool) {
    *word &= !(u32::from(!allowed) << bit);
}

fn set(word: &mut u32, bit: u32, on: bool) {
    *word = *word & !(1 << bit) | u32::from(on) << bit;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMT: Topology = Topology { cpus: 4, threads_per_core: 2 };

    fn identity(cpu: u32) -> Identity {
        Identity { cpu, topology: SMT, pv: PvProfile::Clock, nested: false, tsc_khz: 2_450_000 }
    }

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..Default::default() }
    }

    fn find(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut hits = table.iter().filter(|e| (e.function, e.index) == (function, index));
        let hit = *hits.next().expect("leaf present");
        assert!(hits.next().is_none(), "leaf {function:#x}.{index} twice");
        hit
    }

    #[test]
    fn leaf_b_tells_two_threads_a_core_and_four_cpus() {
        let table = table(&[leaf(TOPOLOGY, 0), leaf(TOPOLOGY_V2, 0)], identity(3));
        for function in [TOPOLOGY, TOPOLOGY_V2] {
            let thread = find(&table, function, 0);
            assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (1, 2, 0x100, 3));
            let core = find(&table, function, 1);
            assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 4, 0x201, 3));
            let end = find(&table, function, 2);
            assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
        }
    }

    #[test]
    fn apic_ids_leave_room_for_odd_core_sizes() {
        let ids = |cpus, threads_per_core| -> Vec<u32> {
            let topology = Topology { cpus, threads_per_core };
            (0..cpus).map(|cpu| topology.apic_id(cpu)).collect()
        };
        assert_eq!(ids(4, 2), [0, 1, 2, 3]);
        assert_eq!(ids(4, 1), [0, 1, 2, 3]);
        assert_eq!(ids(6, 3), [0, 1, 2, 4, 5, 6]);
    }

    #[test]
    fn amd_leaves_agree_with_leaf_b() {
        let mut ext = leaf(AMD_FEATURES, 0);
        ext.ecx = 1 << 1 | 1 << 2;
        let supported = [ext, leaf(AMD_TOPOLOGY, 0), leaf(SIZES, 0), leaf(AMD_TOPOLOGY_V2, 0)];
        let table = table(&supported, identity(2));
        let topology = find(&table, AMD_TOPOLOGY, 0);
        assert_eq!((topology.eax, topology.ebx, topology.ecx), (2, 0x101, 0));
        let sizes = find(&table, SIZES, 0);
        assert_eq!((sizes.ecx & 0xff, sizes.ecx >> 12 & 0xf), (3, 2));
        let features = find(&table, AMD_FEATURES, 0);
        assert_eq!(features.ecx, 1 << 22, "TOPOEXT on, CMP_LEGACY and SVM off");
        assert!(table.iter().all(|e| e.function != AMD_TOPOLOGY_V2));
    }

    #[test]
    fn cache_leaves_share_by_core_and_by_package() {
        let mut l1 = leaf(INTEL_CACHES, 0);
        l1.eax = 1 | 1 << 5 | 0x3f << 26;
        let mut l3 = leaf(INTEL_CACHES, 3);
        l3.eax = 3 | 3 << 5 | 0xfff << 14;
        let table = table(&[l1, l3], identity(0));
        assert_eq!(find(&table, INTEL_CACHES, 0).eax >> 14, 1 << 12 | 1);
        assert_eq!(find(&table, INTEL_CACHES, 3).eax >> 14, 1 << 12 | 3);
    }

    #[test]
    fn many_cpus_overflow_no_field() {
        for (cpus, threads_per_core) in [(128, 1), (130, 2), (192, 3), (254, 1), (254, 2)] {
            let topology = Topology { cpus, threads_per_core };
            let mut l3 = leaf(INTEL_CACHES, 3);
            l3.eax = 3 | 3 << 5;
            let mut amd_l3 = leaf(AMD_CACHES, 3);
            amd_l3.eax = 3 | 3 << 5;
            let supported = [leaf(FEATURES, 0), l3, amd_l3, leaf(SIZES, 0), leaf(AMD_TOPOLOGY, 0)];
            for cpu in [0, 1, cpus / 2, cpus - 1] {
                let id = Identity { topology, ..identity(cpu) };
                let (table, apic_id) = (table(&supported, id), topology.apic_id(cpu));
                let features = find(&table, FEATURES, 0).ebx;
                assert_eq!(features >> 24, apic_id, "CPU {cpu} of {topology:?}");
                let siblings = features >> 16 & 0xff;
                assert!(siblings >= cpus.min(255) || siblings == 128, "{siblings}");
                let caches = find(&table, INTEL_CACHES, 3).eax;
                assert_eq!((caches >> 14 & 0xfff) + 1, 1 << id.package_bits());
                let cores = topology.cores().next_power_of_two().min(64);
                assert_eq!((caches >> 26) + 1, cores);
                assert_eq!((find(&table, AMD_CACHES, 3).eax >> 14 & 0xfff) + 1, cpus);
                let amd = find(&table, AMD_TOPOLOGY, 0);
                assert_eq!((amd.eax, amd.ebx & 0xff), (apic_id, cpu / threads_per_core));
                let sizes = find(&table, SIZES, 0).ecx;
                assert_eq!(((sizes & 0xff) + 1, sizes >> 12 & 0xf), (cpus, id.package_bits()));
                for index in 0..2 {
                    let level = find(&table, TOPOLOGY, index);
                    assert_eq!(level.edx, apic_id);
                    assert!(apic_id >> level.eax <= apic_id && level.ebx <= cpus);
                }
            }
        }
    }

    #[test]
    fn virtualization_is_shown_only_to_a_nested_guest() {
        let mut intel = leaf(FEATURES, 0);
        intel.ecx = 1 << 5;
        let mut amd = leaf(AMD_FEATURES, 0);
        amd.ecx = 1 << 2;
        for nested in [false, true] {
            let table = table(&[intel, amd], Identity { nested, ..identity(1) });
            assert_eq!(find(&table, FEATURES, 0).ecx >> 5 & 1 != 0, nested);
            assert_eq!(find(&table, AMD_FEATURES, 0).ecx >> 2 & 1 != 0, nested);
            assert_eq!(find(&table, FEATURES, 0).ebx >> 16, 1 << 8 | 4);
        }
    }

    #[test]
    fn profiles_filter_the_paravirtual_leaf() {
        let mut features = leaf(KVM_FEATURES, 0);
        (features.eax, features.edx) = (0x0100_ffff, 1);
        let supported = [leaf(HYPERVISOR, 0), features];
        let with = |pv| table(&supported, Identity { pv, ..identity(0) });
        assert_eq!(find(&with(PvProfile::Clock), KVM_FEATURES, 0).eax, 0x0100_004b);
        let cloud = find(&with(PvProfile::Cloud), KVM_FEATURES, 0);
        assert_eq!((cloud.eax, cloud.edx), (0x0100_ffff, 0));
        assert!(with(PvProfile::Off).iter().all(|e| e.function < HYPERVISOR));
        assert_eq!(find(&with(PvProfile::Clock), TIMING, 0).eax, 2_450_000);
    }
}
