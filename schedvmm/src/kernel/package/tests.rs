// SPDX-License-Identifier: Apache-2.0
//! Packages that are made here, good and bad.

use std::fs;

use super::*;
use crate::kernel::testing::{self, Pack};
use crate::testing::Random;

const KERNEL: &[u8] = b"a kernel";
const CONFIG: &[u8] = b"CONFIG_SMP=y\n";

/// What is found in a package of these bytes.
fn found(package: &[u8]) -> Result<Found, String> {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("package");
    fs::write(&path, package).expect("written");
    let package = Package::open(&path).expect("readable").expect("a package");
    package.kernel().map_err(|error| error.to_string())
}

/// The same files in each kind of package.
fn packages(files: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    let packs = [Pack::Plain, Pack::Gzip, Pack::Xz, Pack::Zstd];
    packs
        .into_iter()
        .flat_map(|pack| {
            [
                (format!("deb {pack:?}"), testing::deb(files, pack)),
                (format!("rpm {pack:?}"), testing::rpm(files, pack)),
            ]
        })
        .collect()
}

#[test]
fn a_kernel_comes_with_its_configuration_and_modules() {
    let files = [
        ("./usr/share/doc/copyright", &b"text"[..]),
        ("./boot/config-6.1.0-56", CONFIG),
        ("./boot/vmlinuz-6.1.0-56", KERNEL),
        ("./lib/modules/6.1.0-56/modules.builtin", b"kernel/lib/a.ko\n"),
        ("./lib/modules/6.1.0-56/modules.order", b"kernel/lib/b.ko\n"),
        ("./lib/modules/6.1.0-56/kernel/lib/b.ko", b"ELF"),
    ];
    for (name, package) in packages(&files) {
        let found = found(&package).expect(&name);
        assert_eq!(found.bytes, KERNEL, "{name}");
        assert_eq!(found.member.as_deref(), Some("boot/vmlinuz-6.1.0-56"), "{name}");
        let config = found.config.expect("its own");
        assert_eq!(config.options["CONFIG_SMP"], "y");
        assert!(config.source.to_string().ends_with(": boot/config-6.1.0-56"));
        let modules = found.modules.expect("listed");
        assert_eq!(modules.driver("a"), modules::Driver::BuiltIn);
        assert_eq!(modules.driver("b"), modules::Driver::Module);
    }
}

#[test]
fn newer_packages_have_all_in_one_folder() {
    let files = [
        ("./usr/lib/modules/7.3/vmlinuz", KERNEL),
        ("./usr/lib/modules/7.3/config", CONFIG),
        // A copy, as some have.
        ("./boot/vmlinuz-7.3", &b"copy"[..]),
    ];
    for (name, package) in packages(&files) {
        let found = found(&package).expect(&name);
        assert_eq!(found.bytes, KERNEL, "{name}");
        assert!(found.config.is_some() && found.modules.is_none(), "{name}");
    }
}

#[test]
fn none_and_several_kernels_are_told() {
    let two = [("boot/vmlinuz-6.1", KERNEL), ("boot/vmlinuz-6.12", KERNEL)];
    for (name, package) in packages(&two) {
        let error = found(&package).expect_err(&name);
        assert!(error.contains("several kernels: boot/vmlinuz-6.1, boot/vmlinuz-6.12"), "{error}");
    }
    let modules = [("lib/modules/6.1/kernel/lib/b.ko", KERNEL)];
    for (name, package) in packages(&modules) {
        let error = found(&package).expect_err(&name);
        assert!(error.contains("no kernel in it: 1 modules; give"), "{error}");
    }
    for (name, package) in packages(&[("usr/share/doc/x", KERNEL)]) {
        let error = found(&package).expect_err(&name);
        assert!(error.contains("1 files, and no module"), "{error}");
    }
    for (name, package) in packages(&[]) {
        assert!(found(&package).expect_err(&name).contains("it is empty"), "{name}");
    }
}

#[test]
fn damaged_packages_are_told() {
    // What does not pack.
    let mut random = Random::new(7);
    let noise: Vec<u8> =
        (0..5000).map(|_| u8::try_from(random.below(256)).expect("a byte")).collect();
    let files = [("boot/vmlinuz-6.1", &noise[..])];
    for (name, package) in packages(&files) {
        // The last kibibyte of a tar archive is empty.
        for len in [30, 100, 200, package.len() / 2, package.len() - 1100] {
            let text = found(&package[..len]).expect_err(&name);
            assert!(text.contains(" cannot be read: "), "{name} cut to {len}: {text}");
        }
    }
    let mut bzip2 = testing::deb(&[], Pack::Plain);
    let at = bzip2.len() - 1024;
    bzip2[at..at + 3].copy_from_slice(b"BZh");
    assert!(found(&bzip2).expect_err("bzip2").contains("packed with bzip2"));
    let mut rpm = testing::rpm(&files, Pack::Plain);
    rpm[96 + 8..96 + 12].fill(0xff);
    assert!(found(&rpm).expect_err("a lie").contains("its header claims"));
    let rpm = testing::rpm(&files, Pack::Plain);
    let at = memchr::memmem::find(&rpm, b"070701").expect("a file");
    let stripped = [&rpm[..at], b"07070X", &rpm[at + 6..]].concat();
    assert!(found(&stripped).expect_err("stripped").contains("the format of RPM 6"));
}

#[test]
fn no_flipped_bit_panics() {
    let files = [("boot/vmlinuz-6.1", KERNEL)];
    for package in [testing::deb(&files, Pack::Plain), testing::rpm(&files, Pack::Plain)] {
        for bit in (22 * 8..package.len() * 8).step_by(3) {
            let mut bent = package.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let _ = found(&bent);
        }
    }
}

#[test]
fn what_is_no_package_is_left_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("file");
    for bytes in [&b""[..], b"!<arch>\nfoo.o/", b"\x7fELF"] {
        fs::write(&path, bytes).expect("written");
        assert!(Package::open(&path).expect("readable").is_none());
    }
}

#[test]
fn paths_tell_what_a_member_is() {
    use Member::{Builtin, Config, Kernel, Module, Order};
    for (path, member) in [
        ("boot/vmlinuz-6.1", Some(Kernel("6.1"))),
        ("lib/modules/6.1/vmlinuz", Some(Kernel("6.1"))),
        ("usr/lib/modules/6.1/config", Some(Config("6.1"))),
        ("usr/lib/modules/6.1/modules.builtin", Some(Builtin("6.1"))),
        ("lib/modules/6.1/modules.order", Some(Order("6.1"))),
        ("lib/modules/6.1/kernel/fs/x.ko.xz", Some(Module)),
        ("boot/System.map-6.1", None),
        ("lib/modules/6.1/modules.builtin.modinfo", None),
        ("usr/lib/debug/boot/vmlinux-6.1", None),
        ("", None),
    ] {
        assert_eq!(Member::of(path), member, "{path}");
    }
}
