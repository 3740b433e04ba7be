// SPDX-License-Identifier: Apache-2.0
//! The table against the test kernels, and what is made of it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use super::*;
use crate::kernel::{Configuration, Source};
use crate::modules::Lists;
use testhost::kernel::{Series, known_absent};

/// Those that are to be on.
fn options() -> impl Iterator<Item = &'static Opt> {
    let all = NEEDS.iter().flat_map(|need| need.ways.iter().copied().flatten());
    all.filter(|opt| opt.wanted == Wanted::On)
}

fn configured(lines: &str, version: Option<Version>) -> Known {
    let options = vmm::x86_64::lint::options(lines);
    let config = Some(Configuration { options, source: Source::Image });
    Known { config, version, ..Known::default() }
}

/// All options of the table, on.
fn complete() -> String {
    options().map(|opt| format!("CONFIG_{}=y\n", opt.name)).collect()
}

fn assessed(nested: bool, known: &Known) -> Vec<Finding> {
    assess(nested, known, |_| None)
}

fn state_of(findings: &[Finding], name: &str) -> State {
    findings.iter().find(|finding| finding.need.name == name).expect(name).state
}

#[test]
fn names_are_unique_and_options_consistent() {
    let names: BTreeSet<_> = NEEDS.iter().map(|need| need.name).collect();
    assert_eq!(names.len(), NEEDS.len());
    let mut all = HashMap::new();
    for opt in options() {
        assert_eq!(*all.entry(opt.name).or_insert(opt), opt, "{} differs", opt.name);
    }
    for need in &NEEDS {
        assert!(need.main != Weight::No || need.nested != Weight::No, "{}", need.name);
        assert!(!need.ways.is_empty() && !need.without.is_empty(), "{}", need.name);
    }
}

/// Test kernels have all of the table, and both know the same of versions.
#[test]
fn the_table_and_the_test_kernels_agree() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testhost/kernel/test.config");
    let text = fs::read_to_string(path).expect("the fragment of test kernels");
    let test_kernel: BTreeSet<&str> = text.lines().collect();
    let fragment = fragment(true);
    let lines = fragment.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let unknown: Vec<_> = lines.filter(|line| !test_kernel.contains(line)).collect();
    assert!(unknown.is_empty(), "testhost/kernel/test.config lacks {unknown:?}");
    let oldest = Series::new(5, 4);
    for opt in options() {
        let name = format!("CONFIG_{}", opt.name);
        let at = |(major, minor): Version| Series::new(major, minor);
        let absent = |series| known_absent(series, &name).is_some();
        assert_eq!(opt.always_from.is_some(), absent(Series::new(99, 0)), "{name}");
        if let Some(version @ (major, minor)) = opt.always_from {
            // No series has so many.
            let before = match minor {
                0 => Series::new(major - 1, 99),
                minor => Series::new(major, minor - 1),
            };
            assert!(absent(at(version)) && !absent(before), "{name}");
        }
        assert!(!absent(oldest), "{name}");
    }
}

/// What test kernels have, and no measurement asks a kernel for.
const NOT_NEEDED: [(&str, &[&str]); 7] = [
    (
        "the machine boots, and its CPUs come up, without",
        &["X86_X2APIC", "X86_MPPARSE", "PVH", "JUMP_LABEL"],
    ),
    (
        "choices of the scheduler and of idle CPUs: either way is measured",
        &[
            "CPU_IDLE",
            "HALTPOLL_CPUIDLE",
            "NO_HZ_IDLE",
            "HZ_250",
            "PREEMPT_VOLUNTARY",
            "SCHED_MC",
            "SCHED_AUTOGROUP",
            "CGROUP_CPUACCT",
            "KVM_SMM",
        ],
    ),
    (
        "for a reader of the console: without, a kernel says less",
        &[
            "PRINTK",
            "PRINTK_TIME",
            "MAGIC_SYSRQ",
            "KALLSYMS",
            "STACKTRACE",
            "UNWINDER_FRAME_POINTER",
            "DEBUG_KERNEL",
            "IKCONFIG_PROC",
        ],
    ),
    (
        "tracers and events beside those that are asked for",
        &["TIMERLAT_TRACER", "SCHED_TRACER", "FTRACE_SYSCALLS", "ENABLE_DEFAULT_TRACERS"],
    ),
    (
        "devices of other monitors, and how they name ours",
        &["UNIX98_PTYS", "VIRTIO_MMIO_CMDLINE_DEVICES", "BLOCK", "BLK_DEV", "VIRTIO_BLK"],
    ),
    (
        "the initrd is not packed, and has one ELF executable; the agent makes device files itself, \
         and goes without tmpfs",
        &[
            "KERNEL_LZ4",
            "RD_GZIP",
            "RD_ZSTD",
            "RD_LZ4",
            "BINFMT_SCRIPT",
            "DEVTMPFS",
            "DEVTMPFS_MOUNT",
            "TMPFS",
        ],
    ),
    (
        "no system call of these is made in a guest",
        &[
            "PROC_PAGE_MONITOR",
            "MULTIUSER",
            "SIGNALFD",
            "MEMBARRIER",
            "RSEQ",
            "FILE_LOCKING",
            "FHANDLE",
            "AIO",
            "SECCOMP",
            "SECCOMP_FILTER",
        ],
    ),
];

/// What was given to the test kernels because something of ours failed without it is in the table.
#[test]
fn what_test_kernels_have_is_needed_or_known_not_to_be() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testhost/kernel/test.config");
    let text = fs::read_to_string(path).expect("the fragment of test kernels");
    let lines = text.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.strip_suffix("=y"));
    let test_kernel: BTreeSet<&str> = lines.collect();
    let needed: BTreeSet<&str> = options().flat_map(|opt| opt.to_set().chain([opt.name])).collect();
    let others: BTreeSet<&str> =
        NOT_NEEDED.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    let neither: Vec<_> =
        test_kernel.iter().filter(|it| !needed.contains(*it) && !others.contains(*it)).collect();
    assert!(neither.is_empty(), "in the table of needs, or named as not needed: {neither:?}");
    let both: Vec<_> = others.intersection(&needed).collect();
    assert!(both.is_empty(), "needed, after all: {both:?}");
    let gone: Vec<_> = others.difference(&test_kernel).collect();
    assert!(gone.is_empty(), "test kernels have no {gone:?}");
}

/// Of what virtual machines need, nothing is told to be there without its option.
#[test]
fn the_files_of_virtual_machines_are_all_asked_for() {
    for option in ["UNIX", "TIMERFD", "EPOLL", "EVENTFD", "MEMFD_CREATE", "SHMEM"] {
        let text = complete().replace(&format!("CONFIG_{option}=y\n"), "");
        let known = configured(&text, Some((6, 12)));
        let findings = assessed(true, &known);
        assert_eq!(state_of(&findings, "VMs' files"), State::Missing, "{option}");
        assert_eq!(Fit::of(&findings), Fit::CannotRun, "{option}");
        let line = format!("CONFIG_{option}=y");
        assert!(lines(&findings, &known).contains(&line), "{option}");
        assert_eq!(Fit::of(&assessed(false, &known)), Fit::Complete, "{option}");
    }
}

/// The configuration of any test kernel that was built with the fragment.
#[test]
fn all_that_the_fragment_brings_is_complete() {
    for nested in [false, true] {
        let known = configured(&complete(), Some((6, 12)));
        let findings = assessed(nested, &known);
        assert_eq!(Fit::of(&findings), Fit::Complete, "{findings:?}");
        assert!(lines(&findings, &known).is_empty());
        // And nothing less is: each option has a finding of its own. A configuration that is known
        // needs no option.
        let others = findings.iter().filter(|finding| finding.need.name != table::CONFIGURATION);
        for finding in others {
            // What has no 64-bit entry point is no kernel, whatever its configuration says.
            let on = finding.need.ways[0].iter().filter(|opt| opt.wanted == Wanted::On);
            for opt in on.filter(|opt| opt.name != "64BIT") {
                // Nor by another way.
                let others = finding.need.ways[1..].iter().copied().flatten();
                let others = others.filter(|other| !finding.need.ways[0].contains(other));
                let less = others.chain([opt]).fold(complete(), |less, opt| {
                    less.replace(&format!("CONFIG_{}=y\n", opt.name), "")
                });
                let less = configured(&less, Some((6, 12)));
                let fit = Fit::of(&assessed(nested, &less));
                assert_ne!(fit, Fit::Complete, "without {}", opt.name);
            }
        }
    }
}

#[test]
fn one_transport_is_as_good_as_the_other() {
    let pci = "CONFIG_PCI=y\nCONFIG_PCI_MSI=y\nCONFIG_VIRTIO_PCI=y\n";
    let only_pci = complete().replace("CONFIG_VIRTIO_MMIO=y\n", pci);
    let fit = |text: &str| Fit::of(&assessed(false, &configured(text, Some((6, 12)))));
    assert_eq!(fit(&only_pci), Fit::Complete);
    let neither = only_pci.replace("CONFIG_PCI_MSI=y\n", "");
    assert_ne!(fit(&neither), Fit::Complete);
    // One that is asked for is needed.
    let asked = |asked| {
        let known = Known { asked: Some(asked), ..configured(&only_pci, Some((6, 12))) };
        Fit::of(&assessed(false, &known))
    };
    assert_eq!(asked(Transport::Pci), Fit::Complete);
    assert_eq!(asked(Transport::Mmio), Fit::CannotRun);
}

#[test]
fn modules_and_gaps_are_told_apart() {
    let text = complete()
        .replace("VIRTIO_CONSOLE=y", "VIRTIO_CONSOLE=m")
        .replace("CONFIG_SCHED_CORE=y\n", "# CONFIG_SCHED_CORE is not set\n");
    let known = configured(&text, Some((6, 12)));
    let findings = assessed(false, &known);
    assert_eq!(state_of(&findings, "results"), State::Module);
    assert_eq!(state_of(&findings, "cookies"), State::Missing);
    // One that is not found cannot be loaded.
    assert_eq!(Fit::of(&findings), Fit::CannotRun);
    let told = note(&findings).expect("gaps");
    assert!(told.contains("without: results, cookies ("), "{told}");
    let loaded = vec!["virtio_console".to_owned()];
    let with = assessed(false, &Known { loaded, ..known.clone() });
    assert_eq!(state_of(&with, "results"), State::Loaded);
    assert_eq!(Fit::of(&with), Fit::Gaps);
    let told = note(&with).expect("a gap");
    assert!(told.contains("without: cookies ("), "{told}");
    let wanted = ["TTY", "VIRTIO_MENU", "VIRTIO_CONSOLE", "SCHED_CORE"];
    assert_eq!(lines(&findings, &known), wanted.map(|name| format!("CONFIG_{name}=y")));
    // What is on already needs no line.
    let known = configured(&format!("{text}CONFIG_TTY=y\nCONFIG_VIRTIO_MENU=y\n"), None);
    let wanted = ["VIRTIO_CONSOLE", "SCHED_CORE"];
    assert_eq!(lines(&findings, &known), wanted.map(|name| format!("CONFIG_{name}=y")));
    assert_eq!(note(&assessed(true, &configured(&complete(), None))), None);
    for (with, fit) in [("VIRTIO_CONSOLE=n", Fit::CannotRun), ("BINFMT_ELF=m", Fit::CannotRun)] {
        let name = with.split_once('=').expect("a value").0;
        let text = complete().replace(&format!("{name}=y"), with);
        assert_eq!(Fit::of(&assessed(false, &configured(&text, None))), fit, "{with}");
    }
}

/// A kernel of a distribution has no IKCONFIG, and its configuration beside it.
#[test]
fn what_no_figure_depends_on_is_told_by_check_alone() {
    let of = |absent: &str| {
        let text = complete().replace(&format!("CONFIG_{absent}=y\n"), "");
        assessed(false, &configured(&text, Some((6, 12))))
    };
    let findings = of("IKCONFIG");
    assert_eq!(state_of(&findings, "configuration"), State::There);
    assert_eq!((Fit::of(&findings), note(&findings)), (Fit::Complete, None));
    for absent in ["CFS_BANDWIDTH", "HWLAT_TRACER", "OSNOISE_TRACER", "EARLY_PRINTK"] {
        let findings = of(absent);
        assert_eq!((Fit::of(&findings), note(&findings)), (Fit::Gaps, None), "{absent}");
    }
    // A name that no need has would be of no effect.
    let names: Vec<_> = NEEDS.iter().map(|need| need.name).collect();
    let special = [table::ON_INTEL, table::ON_AMD, table::CONFIGURATION];
    assert!(table::ON_REQUEST.iter().chain(&special).all(|name| names.contains(name)));
    // Where nothing tells, that is what is missing.
    let findings = assess(false, &Known::default(), |text| Some(text != "IKCFG_ST"));
    assert_eq!(state_of(&findings, "configuration"), State::NotBuiltIn);
    let told = note(&findings).expect("no configuration");
    assert!(told.contains("without: configuration ("), "{told}");
}

#[test]
fn options_have_their_versions() {
    let without = |name: &str, version| {
        let text = complete().replace(&format!("CONFIG_{name}=y\n"), "");
        assessed(false, &configured(&text, version))
    };
    let tunables = |version| state_of(&without("SCHED_DEBUG", version), "tunables");
    assert_eq!(tunables(Some((6, 15))), State::There);
    assert_eq!(tunables(Some((6, 14))), State::Missing);
    assert_eq!(tunables(None), State::CannotBeTold);
    let old = without("SCHED_CORE", Some((5, 10)));
    assert_eq!(state_of(&old, "cookies"), State::Missing);
    let cookies = old.iter().find(|finding| finding.need.name == "cookies").expect("cookies");
    assert_eq!(cookies.needs_version(Some((5, 10))), Some((5, 14)));
    assert_eq!(cookies.needs_version(Some((5, 14))), None);
    // One that has it all the same, from patches, has it.
    let patched = configured(&complete(), Some((5, 10)));
    let findings = assessed(false, &patched);
    assert_eq!(state_of(&findings, "cookies"), State::There);
    assert_eq!(state_of(&findings, "osnoise meter"), State::There);
    assert_eq!(note(&findings), None);
    // Where nothing else tells, the version does.
    let bare = Known { version: Some((5, 10)), ..Known::default() };
    assert_eq!(state_of(&assessed(false, &bare), "cookies"), State::Missing);
    // No line brings it to that one.
    let known = Known { version: Some((5, 10)), ..Known::default() };
    assert!(lines(&old, &known).is_empty(), "{:?}", lines(&old, &known));
}

#[test]
fn either_vendor_will_do_and_the_other_is_a_gap() {
    let text = complete().replace("CONFIG_KVM_INTEL=y\n", "");
    let findings = assessed(true, &configured(&text, Some((6, 12))));
    assert_eq!(state_of(&findings, "KVM"), State::There);
    assert_eq!(state_of(&findings, "KVM on Intel"), State::Missing);
    assert_eq!(Fit::of(&findings), Fit::Gaps);
    let text = text.replace("CONFIG_KVM_AMD=y", "CONFIG_KVM_AMD=m");
    let findings = assessed(true, &configured(&text, Some((6, 12))));
    assert_eq!(state_of(&findings, "KVM"), State::Module);
    assert_eq!(Fit::of(&findings), Fit::CannotRun);
    let known = configured(&text.replace("CONFIG_SCHED_CORE=y", ""), Some((6, 12)));
    let loaded = vec!["kvm_amd".to_owned()];
    let findings = assessed(true, &Known { loaded, ..known });
    assert_eq!(state_of(&findings, "KVM"), State::Loaded);
    assert_eq!(state_of(&findings, "KVM on Intel"), State::Missing);
    assert_eq!(Fit::of(&findings), Fit::Gaps);
    // The run has the vendor that it is on.
    let told = note(&findings).expect("cookies");
    assert!(told.contains("without: cookies ("), "{told}");
    let text = text.replace("CONFIG_KVM_AMD=m", "");
    let without = assessed(true, &configured(&text, Some((6, 12))));
    assert_eq!(Fit::of(&without), Fit::CannotRun);
    // Nobody asked for virtual machines.
    assert_eq!(Fit::of(&assessed(false, &configured(&text, Some((6, 12))))), Fit::Complete);
}

#[test]
fn without_a_configuration_modules_and_texts_tell() {
    let builtin = "kernel/drivers/virtio/virtio_mmio.ko\n";
    let modules = |loadable| Some(Lists::new("there".into(), Some(builtin), loadable));
    let of = |modules, has: fn(&str) -> Option<bool>| {
        assess(true, &Known { modules, ..Known::default() }, has)
    };
    let findings = of(modules(Some("kernel/drivers/char/virtio_console.ko\n")), |_| None);
    assert_eq!(state_of(&findings, "results"), State::Module);
    assert_eq!(state_of(&findings, "KVM on AMD"), State::Missing);
    // A list of another build has built in what this image has not.
    let findings = of(modules(None), |text| Some(text != "LNRO0005" && text != "virtio-pci\0"));
    assert_eq!(state_of(&findings, "devices"), State::NotBuiltIn);
    assert_eq!(Fit::of(&findings), Fit::CannotRun);
    let known = Known { modules: modules(None), ..Known::default() };
    let told = belied(false, &known, |_| Some(false)).expect("another build");
    assert!(told.starts_with("the lists in there have virtio_mmio built in, and this"), "{told}");
    assert_eq!(belied(false, &known, |_| Some(true)), None);
    assert_eq!(belied(false, &known, |_| None), None);
    // ACPI is no module.
    let findings = of(modules(Some("kernel/drivers/char/virtio_console.ko\n")), |_| None);
    assert_eq!(state_of(&findings, "devices"), State::CannotBeTold);
    let findings = of(modules(None), |_| None);
    assert_eq!(state_of(&findings, "results"), State::CannotBeTold);
    let findings = of(None, |text| Some(text != "virtio_console"));
    assert_eq!(state_of(&findings, "results"), State::NotBuiltIn);
    assert_eq!(Fit::of(&findings), Fit::CannotRun);
    let without = Known::default();
    assert!(lines(&findings, &without).contains(&"CONFIG_VIRTIO_CONSOLE=y".to_owned()));
    // A list of all modules knows that it is none; and a list of what is built in, that it may be.
    let findings = of(modules(Some("kernel/x.ko\n")), |text| Some(text != "virtio_console"));
    assert_eq!(state_of(&findings, "results"), State::Missing);
    let findings = of(modules(None), |text| Some(text != "virtio_console"));
    assert_eq!(state_of(&findings, "results"), State::NotBuiltIn);
    // What can be no module is missing.
    let findings = of(None, |text| Some(!text.starts_with("Initramfs")));
    assert_eq!(state_of(&findings, "initrd"), State::Missing);
    let findings = of(None, |_| Some(true));
    assert_eq!(state_of(&findings, "initrd"), State::There);
    // In every image there are texts of tracers: nothing is concluded from them.
    for name in ["hwlat meter", "osnoise meter", "cookies", "trace"] {
        assert_eq!(state_of(&findings, name), State::CannotBeTold, "{name}");
    }
    // Of how many it can run on, a configuration alone tells.
    for (banner, state) in [("#1 SMP", State::CannotBeTold), ("#1 PREEMPT", State::Missing)] {
        let known = Known { banner: Some(banner.into()), ..Known::default() };
        assert_eq!(state_of(&assessed(false, &known), "processors"), state, "{banner}");
    }
    let nothing = of(None, |_| None);
    assert!(nothing.iter().all(|finding| finding.state == State::CannotBeTold));
    assert_eq!(Fit::of(&nothing), Fit::CannotBeTold);
}

#[test]
fn the_fragment_has_each_line_once_and_says_what_for() {
    let (main, nested) = (fragment(false), fragment(true));
    for text in [&main, &nested] {
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("CONFIG_")).collect();
        let unique: BTreeSet<_> = lines.iter().collect();
        assert_eq!(lines.len(), unique.len());
        assert!(lines.contains(&"CONFIG_SCHED_CORE=y"), "{text}");
    }
    assert!(main.contains("# SCHED_CORE: Linux 5.14 and later\n"), "{main}");
    assert!(!main.contains("CONFIG_KVM=y") && nested.contains("CONFIG_KVM_AMD=y"));
    assert!(nested.contains("CONFIG_KVM_INTEL=y") && nested.contains("VIRTUALIZATION=y"));
}

#[test]
fn what_must_be_off_or_enough_is_looked_at() {
    let of = |more: &str| {
        let known = configured(&format!("{}{more}", complete()), None);
        let findings = assessed(false, &known);
        (Fit::of(&findings), lines(&findings, &known))
    };
    assert_eq!(of(""), (Fit::Complete, Vec::new()));
    assert_eq!(of("CONFIG_NR_CPUS=4\n# CONFIG_CMDLINE_OVERRIDE is not set\n").0, Fit::Complete);
    let few = vec!["CONFIG_NR_CPUS=4".to_owned()];
    assert_eq!(of("CONFIG_NR_CPUS=3\n"), (Fit::CannotRun, few));
    let own = vec!["# CONFIG_CMDLINE_OVERRIDE is not set".to_owned()];
    assert_eq!(of("CONFIG_CMDLINE_OVERRIDE=y\n"), (Fit::CannotRun, own));
    let fragment = fragment(false);
    assert!(fragment.contains("\n# CONFIG_CMDLINE_OVERRIDE is not set\n"), "{fragment}");
    assert!(!fragment.contains("NR_CPUS"), "it would be less than others have: {fragment}");
}

/// The image is what runs; a file may be of another build.
#[test]
fn a_configuration_that_the_image_contradicts_is_named() {
    let known = configured(&complete(), None);
    let has = |text: &str| Some(text != "LNRO0005");
    let states = |known: &Known| -> Vec<State> {
        let findings = assess(false, known, has);
        findings.iter().filter(|it| it.need.name == DEVICES).map(|it| it.state).collect()
    };
    // By the other transport, of which the image has the driver.
    assert_eq!(states(&known), [State::There]);
    let told = contradicted(false, &known, has).expect("a contradiction");
    assert!(told.ends_with("of CONFIG_VIRTIO_MMIO the image tells otherwise"), "{told}");
    assert_eq!(contradicted(false, &known, |_| None), None);
    assert_eq!(contradicted(false, &known, |_| Some(true)), None);
    let none = |_: &str| Some(false);
    let findings = assess(false, &known, none);
    assert_eq!(Fit::of(&findings), Fit::CannotBeTold, "neither is believed");
    // One that the file has not, and the image has.
    let less = complete().replace("CONFIG_VIRTIO_MMIO=y\n", "").replace("CONFIG_PCI=y\n", "");
    let less = configured(&less, None);
    assert_eq!(assess(false, &less, |_| Some(true))[2].state, State::There);
    let told = contradicted(false, &less, |_| Some(true)).expect("a contradiction");
    assert!(told.contains("CONFIG_VIRTIO_MMIO"), "{told}");
}

#[test]
fn each_text_is_looked_for_once() {
    let asked = std::cell::Cell::new(0);
    let has = each_once(|text| {
        asked.set(asked.get() + 1);
        Some(text == "there")
    });
    assert_eq!(["there", "not", "there", "not"].map(&has), [true, false, true, false].map(Some));
    assert_eq!(asked.get(), 2);
}
