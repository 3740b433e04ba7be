// SPDX-License-Identifier: Apache-2.0
//! Packages that are made here, good and bad.

use std::fs;

use super::*;
use crate::testing::Random;
use crate::testing::made::{self, Pack};

const KERNEL: &[u8] = b"a kernel";
const CONFIG: &[u8] = b"CONFIG_SMP=y\n";

/// What is found in a package of these bytes.
fn found(package: &[u8]) -> Result<Contents, String> {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("package");
    fs::write(&path, package).expect("written");
    let package = Package::open(&path).expect("readable").expect("a package");
    package.contents(|module| module == "b").map_err(|error| error.to_string())
}

/// The same files in each kind of package.
fn packages(files: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    let packs = [Pack::Plain, Pack::Gzip, Pack::Xz, Pack::Zstd];
    packs
        .into_iter()
        .flat_map(|pack| {
            [
                (format!("deb {pack:?}"), made::deb(files, pack)),
                (format!("rpm {pack:?}"), made::rpm(files, pack)),
            ]
        })
        .collect()
}

#[test]
fn all_that_tells_of_a_kernel_is_found_in_one_reading() {
    let files = [
        ("./usr/share/doc/copyright", &b"text"[..]),
        ("./boot/config-6.1.0-56", CONFIG),
        ("./boot/vmlinuz-6.1.0-56", KERNEL),
        ("./lib/modules/6.1.0-56/modules.builtin", b"kernel/lib/a.ko\n"),
        ("./lib/modules/6.1.0-56/modules.order", b"kernel/lib/b.ko\n"),
        ("./lib/modules/6.1.0-56/kernel/lib/b.ko.xz", b"packed"),
        ("./lib/modules/6.1.0-56/kernel/lib/c.ko", b"ELF"),
        // A copy, as some have.
        ("./lib/modules/6.1.0-56/vmlinuz", b"copy"),
    ];
    for (name, package) in packages(&files) {
        let mut found = found(&package).expect(&name);
        let kernel = ("6.1.0-56".into(), "boot/vmlinuz-6.1.0-56".into(), KERNEL.to_vec());
        assert_eq!(found.kernels, [kernel], "{name}");
        let release = found.releases.remove("6.1.0-56").expect("its own");
        let config = ("boot/config-6.1.0-56".to_owned(), "CONFIG_SMP=y\n".to_owned());
        assert_eq!(release.config, Some(config), "{name}");
        assert_eq!(release.builtin.as_deref(), Some("kernel/lib/a.ko\n"), "{name}");
        assert_eq!(release.order.as_deref(), Some("kernel/lib/b.ko\n"), "{name}");
        let paths: Vec<_> = release.modules.values().map(String::as_str).collect();
        let folder = "lib/modules/6.1.0-56/kernel/lib";
        assert_eq!(paths, [format!("{folder}/b.ko.xz"), format!("{folder}/c.ko")], "{name}");
        // Of all modules one is kept, as it lies there.
        assert_eq!(release.kept, [("b".to_owned(), b"packed".to_vec())].into(), "{name}");
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
    let mut rpm = made::rpm(&files, Pack::Plain);
    rpm[96 + 8..96 + 12].fill(0xff);
    assert!(found(&rpm).expect_err("a lie").contains("its header claims"));
    let rpm = made::rpm(&files, Pack::Plain);
    let at = memchr::memmem::find(&rpm, b"070701").expect("a file");
    let stripped = [&rpm[..at], b"07070X", &rpm[at + 6..]].concat();
    let text = found(&stripped).expect_err("its header has no list");
    assert!(text.contains("it has a file that its header does not list"), "{text}");
}

#[test]
fn no_flipped_bit_panics() {
    let files = [("boot/vmlinuz-6.1", KERNEL)];
    for package in [made::deb(&files, Pack::Plain), made::rpm(&files, Pack::Plain)] {
        for bit in (22 * 8..package.len() * 8).step_by(3) {
            let mut bent = package.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            let _ = found(&bent);
        }
    }
    let rpm_6 = include_bytes!("../../tests/kernels/data/kernel-core.rpm6.rpm");
    assert_eq!(found(rpm_6).expect("whole").kernels.len(), 1);
    for bit in (0..rpm_6.len() * 8).step_by(17).filter(|bit| bit / 8 >= 96) {
        let mut bent = rpm_6.to_vec();
        bent[bit / 8] ^= 1 << (bit % 8);
        let _ = found(&bent);
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
