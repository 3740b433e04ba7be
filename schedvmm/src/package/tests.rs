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
    let packs = [Pack::Plain, Pack::Gzip, Pack::Bzip2, Pack::Xz, Pack::Zstd];
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
        ("./lib/modules/6.1.0-56/vmlinuz", KERNEL),
    ];
    for (name, package) in packages(&files) {
        let mut found = found(&package).expect(&name);
        let releases = vec!["6.1.0-56".into(); 2];
        let path = "boot/vmlinuz-6.1.0-56".into();
        let kernel = Kernel { releases, path, bytes: KERNEL.to_vec() };
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
        let end = end_of_files(&package);
        let cuts = [1, 2, 8, 20, 500, 600, 1100].map(|cut| end - cut);
        for len in [30, 100, 200, package.len() / 2].into_iter().chain(cuts) {
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

/// Where the archive of its files ends in a package: that of ar is filled up to an even length.
fn end_of_files(package: &[u8]) -> usize {
    let Some(header) = memchr::memmem::find(package, b"data.tar") else { return package.len() };
    let (at, end) = (header + 48, header + 58);
    let len = std::str::from_utf8(&package[at..end]).expect("digits").trim();
    header + 60 + len.parse::<usize>().expect("a length")
}

/// A decoder compares it at the end of what is packed, behind all that an archive needs.
#[test]
fn checksums_are_compared() {
    let files = [("boot/vmlinuz-6.1", KERNEL)];
    for (name, package) in packages(&files) {
        // Back from the end to a byte that is of a checksum in any case.
        let back = match name.split_once(' ').expect("two words").1 {
            "Plain" => continue,
            "Gzip" => 5,
            "Bzip2" => 2,
            _ => 1,
        };
        assert!(found(&package).is_ok(), "{name}");
        let mut bent = package.clone();
        bent[end_of_files(&package) - back] ^= 1;
        let text = found(&bent).expect_err(&name);
        assert!(text.contains(" cannot be read: "), "{name}: {text}");
    }
    // A module behind the end of an archive is none of the package.
    let mut data = Pack::Gzip.pack(vec![0; 4 << 20]);
    let rpm = made::rpm(&files, Pack::Gzip);
    data.splice(0..0, rpm);
    let text = found(&data).expect_err("it goes on");
    assert!(text.contains("its archive goes on behind its end"), "{text}");
}

/// Of the library's own builder, which puts those of over 100 bytes before their files.
#[test]
fn long_names_are_read_and_longer_ones_are_refused() {
    let folder = "lib/modules/6.1.0-56";
    let long = format!("{folder}/kernel/{}/b.ko", "x".repeat(200));
    for (name, package) in packages(&[(&*long, b"packed"), ("boot/vmlinuz-6.1.0-56", KERNEL)]) {
        let found = found(&package).expect(&name);
        assert_eq!(found.releases["6.1.0-56"].modules["b"], long, "{name}");
        assert_eq!(found.kernels[0].path, "boot/vmlinuz-6.1.0-56", "{name}");
    }
    let endless = format!("{folder}/kernel/{}/b.ko", "x/".repeat(5000));
    for (name, package) in packages(&[(&*endless, b"packed")]) {
        let text = found(&package).expect_err(&name);
        assert!(text.contains("a file in it has too long a name"), "{name}: {text}");
    }
    // As POSIX has it.
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_pax_extensions([("path", long.as_bytes())]).expect("extensions");
    let mut header = tar::Header::new_ustar();
    header.set_size(6);
    tar.append_data(&mut header, "short", &b"packed"[..]).expect("a file");
    let deb = made::deb_of(&tar.into_inner().expect("an archive"));
    assert_eq!(found(&deb).expect("pax").releases["6.1.0-56"].modules["b"], long);
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
