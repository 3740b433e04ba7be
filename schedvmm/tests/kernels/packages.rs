// SPDX-License-Identifier: Apache-2.0
//! Kernels and modules in packages, as they were downloaded.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::calls::call;
use crate::files::{self, Pack, module};
use crate::made::{complete, kernel_of, status};

const RELEASE: &str = "6.12.1-made";
const FOLDER: &str = "usr/lib/modules/6.12.1-made";

/// All cases.
pub const CASES: [(&str, fn()); 5] = [
    ("parts_of_a_kernel_are_found_together", parts_of_a_kernel_are_found_together),
    ("parts_that_lie_apart_are_named", parts_that_lie_apart_are_named),
    ("modules_that_will_not_do_are_refused", modules_that_will_not_do_are_refused),
    ("an_initrd_of_the_users_own_gets_no_modules", an_initrd_of_the_users_own_gets_no_modules),
    ("packages_of_rpmbuild_are_read", packages_of_rpmbuild_are_read),
];

fn at(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

/// A kernel in three parts, as Debian's from 6.19 on: `[base, binary, modules]`. Its console and
/// KVM are modules.
fn parts(dir: &Path) -> [Vec<u8>; 3] {
    let config = complete(dir)
        .replace("CONFIG_VIRTIO_CONSOLE=y", "CONFIG_VIRTIO_CONSOLE=m")
        .replace("CONFIG_KVM=y", "CONFIG_KVM=m")
        .replace("CONFIG_KVM_AMD=y", "CONFIG_KVM_AMD=m")
        .replace("CONFIG_KVM_INTEL=y", "CONFIG_KVM_INTEL=m");
    let image = kernel_of(&config);
    let builtin = b"kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_mmio.ko\n";
    let order = b"kernel/a/virtio_console.ko\nkernel/b/kvm.ko\nkernel/b/kvm-amd.ko\n\
                  kernel/b/kvm-intel.ko\nkernel/c/seldom.ko\n";
    let base = [
        (at("config"), config.into_bytes()),
        (at("modules.builtin"), builtin.to_vec()),
        (at("modules.order"), order.to_vec()),
    ];
    let modules = [
        (at("kernel/a/virtio_console.ko.xz"), files::xz(&module("virtio,seldom", RELEASE))),
        (at("kernel/b/kvm.ko.xz"), files::xz(&module("", RELEASE))),
        (at("kernel/b/kvm-amd.ko.xz"), files::xz(&module("kvm", RELEASE))),
        (at("kernel/b/kvm-intel.ko.xz"), files::xz(&module("kvm", RELEASE))),
        (at("kernel/c/seldom.ko.xz"), files::xz(&module("", RELEASE))),
    ];
    [&base[..], &[(at("vmlinuz"), image)], &modules].map(|files| {
        let files: Vec<_> = files.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();
        files::deb(&files, Pack::Xz)
    })
}

/// What `check` prints of a kernel, and its status.
fn checked(dir: &Path, words: &[&str]) -> (Option<i32>, Value) {
    let words = [&["check", "--json"], words].concat();
    let output = call(dir, &words);
    let found = serde_json::from_slice(&output.stdout);
    (status(&output), found.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

fn parts_of_a_kernel_are_found_together() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let name = |part: &str| format!("linux-{part}-{RELEASE}_6.12.1-1_amd64.deb");
    for (part, bytes) in ["base", "binary", "modules"].iter().zip(parts(dir)) {
        fs::write(dir.join(name(part)), bytes).expect("written");
    }
    let (status, found) = checked(dir, &[&name("binary")]);
    assert_eq!((status, &found["verdict"]), (Some(0), &"complete".into()), "{found:#}");
    let kernel = &found["kernel"];
    assert_eq!(kernel["config_source"], format!("{}: {}", name("base"), at("config")));
    assert_eq!(kernel["loads"], json!(["seldom", "virtio_console"]));
    let (status, found) = checked(dir, &[&name("binary"), "--nested"]);
    assert_eq!(status, Some(0), "{found:#}");
    let loads = ["seldom", "virtio_console", "kvm", "kvm_intel", "kvm_amd"];
    let mut loaded: Vec<_> = found["kernel"]["loads"].as_array().expect("a list").clone();
    loaded.sort_by_key(|name| loads.iter().position(|load| name == load));
    assert_eq!(loaded, loads);
    // One without a byte in it is no package, and that is told.
    fs::write(dir.join(name("modules")), "").expect("written");
    let (status, found) = checked(dir, &[&name("binary")]);
    assert_eq!(status, Some(125), "{found:#}");
    let note = format!("{} is left out: it is no package", name("modules"));
    assert!(found["notes"].as_array().expect("a list").contains(&note.into()), "{found:#}");
    // Without the modules it cannot run, and says so.
    fs::remove_file(dir.join(name("modules"))).expect("removed");
    let (status, found) = checked(dir, &[&name("binary")]);
    assert_eq!((status, &found["verdict"]), (Some(125), &"cannot-run".into()), "{found:#}");
}

fn parts_that_lie_apart_are_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    for (part, bytes) in ["base", "binary", "modules"].iter().zip(parts(dir)) {
        fs::create_dir(dir.join(part)).expect("made");
        fs::write(dir.join(part).join("it.deb"), bytes).expect("written");
    }
    let image = "binary/it.deb";
    let (both, one) = (["--modules", "base/it.deb"], ["--modules", "modules/it.deb"]);
    let (status, found) = checked(dir, &[&[image], &both[..], &one].concat());
    assert_eq!(status, Some(0), "{found:#}");
    assert_eq!(found["kernel"]["loads"], json!(["seldom", "virtio_console"]));
    // A kernel's file and a package of its modules.
    fs::write(dir.join("vmlinux"), kernel_of(&complete(dir).replace("VIRTIO_CONSOLE=y", "")))
        .expect("written");
    let (status, found) = checked(dir, &[&["vmlinux"], &one[..], &both].concat());
    assert_eq!(status, Some(0), "{found:#}");
    let source = format!("base/it.deb: {}", at("config"));
    assert_eq!(found["kernel"]["config_source"], source);
}

fn modules_that_will_not_do_are_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let [base, binary, modules] = parts(dir);
    let cut = &modules[..modules.len() / 2];
    let theirs = module("", "6.1.0-other");
    let other =
        files::deb(&[("lib/modules/6.1.0-other/kernel/virtio_console.ko", &theirs)], Pack::Zstd);
    let mut damaged = files::xz(&module("", RELEASE));
    damaged.truncate(damaged.len() / 2);
    let damaged = files::deb(&[(&at("kernel/virtio_console.ko.xz"), &damaged)], Pack::Plain);
    for (name, bytes) in [
        ("image.deb", &binary[..]),
        ("lists.deb", &base),
        ("cut.deb", cut),
        ("other.deb", &other),
        ("damaged.deb", &damaged),
        ("text", b"text"),
    ] {
        fs::write(dir.join(name), bytes).expect("written");
    }
    for (named, expected, told) in [
        ("cut.deb", 125, "package cut.deb cannot be read"),
        (
            "other.deb",
            200,
            "package other.deb is of kernel 6.1.0-other, and the kernel to be booted",
        ),
        ("damaged.deb", 125, "virtio_console.ko.xz is damaged: it does not unpack"),
        ("text", 200, "text is neither a folder nor a package"),
        ("none.deb", 200, "the kernel modules in none.deb cannot be read"),
    ] {
        let modules = ["--modules", named, "--modules", "lists.deb"];
        // The main job says the same, on any host.
        for words in [&["check", "image.deb"][..], &["--kernel", "image.deb"]] {
            let output = call(dir, &[words, &modules].concat());
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(status(&output), Some(expected), "{words:?} {named}: {text}");
            assert!(text.contains(told), "{words:?} {named}: {text}");
            assert!(!dir.join("results").exists(), "{words:?} {named}: a result was left behind");
        }
    }
}

fn an_initrd_of_the_users_own_gets_no_modules() {
    let dir = tempfile::tempdir().expect("tempdir");
    let output = call(dir.path(), &["boot", "--kernel", "x", "--modules", "y"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status(&output), Some(200), "{text}");
    assert!(text.contains("--modules goes into the initrd of a measurement"), "{text}");
}

/// Packages that are no work of ours (tests/kernels/data/kernel.spec).
fn packages_of_rpmbuild_are_read() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/data");
    let dir = tempfile::tempdir().expect("tempdir");
    for pack in ["zstd", "xz", "gzip", "bzip2", "rpm6"] {
        let core = data.join(format!("kernel-core.{pack}.rpm"));
        let core = core.to_str().expect("a path of letters");
        let (status, found) = checked(dir.path(), &[core]);
        assert_eq!(status, Some(1), "{pack}: {found:#}");
        let kernel = &found["kernel"];
        assert_eq!(kernel["release"], RELEASE, "{pack}");
        assert_eq!(kernel["inside"][0], "lib/modules/6.12.1-made/vmlinuz", "{pack}");
        assert_eq!(kernel["loads"], json!(["virtio_console"]), "{pack}");
        let config = kernel["config_source"].as_str().expect("its own");
        assert!(config.ends_with(": lib/modules/6.12.1-made/config"), "{pack}: {config}");
    }
    let named = |name: &str| data.join(name).to_str().expect("a path of letters").to_owned();
    // The same kernel twice.
    let (_, found) = checked(dir.path(), &[&named("kernel-two.rpm")]);
    assert_eq!(found["kernel"]["inside"], json!(["lib/modules/6.12.1-made/vmlinuz"]));
    let output = call(dir.path(), &["check", &named("kernel-doc.rpm")]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status(&output), Some(200), "{text}");
    let told = "has no kernel in it: 1 file, and that is no module either";
    assert!(text.contains(told), "{text}");
}
