// SPDX-License-Identifier: Apache-2.0
//! The test kernels: they have all that measurements need, whatever they are named by.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Completion, Trial};
use object::Object;
use serde_json::Value;

use crate::calls::call;

/// What names the bzImages of test kernels.
const KERNELS: [&str; 3] =
    ["SCHEDVMM_TEST_KERNEL_612", "SCHEDVMM_TEST_KERNEL_61", "SCHEDVMM_TEST_KERNEL_NEWEST"];

/// What names the folders of a distribution's unpacked kernels.
const STOCK: [&str; 2] = ["SCHEDVMM_TEST_STOCK_OLDEST", "SCHEDVMM_TEST_STOCK_NEWEST"];
/// Modules take no more of an initrd.
const MAX_PACKED_BYTES: u64 = 1 << 20;

/// A case for each test kernel.
pub fn trials() -> impl Iterator<Item = Trial> {
    let complete = KERNELS.into_iter().map(|variable| trial(variable, "has_all", has_all));
    let packed = STOCK.into_iter().map(|variable| trial(variable, "is_small", loads_little));
    complete.chain(packed)
}

/// A case with what a variable names; skipped where it names nothing.
fn trial(variable: &'static str, name: &str, case: fn(&Path)) -> Trial {
    let kernel = env::var_os(variable).map(PathBuf::from);
    let missing = kernel.is_none();
    let trial = Trial::ignorable_test(format!("{variable}_{name}"), move || {
        let Some(kernel) = kernel else {
            println!("skipped: {variable} names no kernel");
            return Ok(Completion::ignored_with(format!("{variable} names no kernel")));
        };
        case(&kernel);
        Ok(Completion::Completed)
    });
    trial.with_ignored_flag(missing)
}

/// Both halves of KVM, of which a run takes one.
fn loads_little(folder: &Path) {
    let dir = tempfile::tempdir().expect("tempdir");
    let named = folder.to_str().expect("a path of letters");
    let output = call(dir.path(), &["check", named, "--nested", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{named}: {error}: {output:?}"));
    let kernel = &found["kernel"];
    let loads = kernel["loads"].as_array().expect("modules");
    assert!(["kvm", "kvm_intel", "kvm_amd"].iter().all(|it| loads.contains(&(*it).into())));
    let packed = kernel["loads_packed_bytes"].as_u64().expect("a length");
    println!("{}: {} KiB: {loads:?}", kernel["release"], packed.div_ceil(1024));
    assert!((1..=MAX_PACKED_BYTES).contains(&packed), "{packed}");
}

/// What is found of a kernel, which must have all that is needed.
fn checked(dir: &Path, named: &Path) -> Value {
    let named = named.to_str().expect("a path of letters");
    let output = call(dir, &["check", named, "--nested", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{named}: {error}: {output:?}"));
    assert_eq!(output.status.code(), Some(0), "{named}: {found:#}");
    assert_eq!((&found["verdict"], &found["lines"]), (&"complete".into(), &serde_json::json!([])));
    found["kernel"].clone()
}

fn has_all(bzimage: &Path) {
    let dir = tempfile::tempdir().expect("tempdir");
    let dir = dir.path();
    let home = bzimage.parent().expect("a folder");
    let vmlinux = fs::read(home.join("vmlinux")).expect("the vmlinux beside it");
    let elf = object::File::parse(&*vmlinux).expect("an ELF file");
    let id = elf.build_id().expect("notes").expect("a build ID");
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let beside = checked(dir, home);
    assert_eq!(beside["path"], bzimage.display().to_string());
    assert_eq!(beside["config_source"], home.join("config").display().to_string());
    assert_eq!(beside["build_id"], id);
    // Alone it carries its configuration itself.
    let alone = dir.join("bzImage");
    fs::copy(bzimage, &alone).expect("copied");
    let alone = checked(dir, &alone);
    assert_eq!(alone["config_source"], "image (IKCONFIG)");
    // Packed, and without its boot header, it is the same kernel.
    let packed = dir.join("vmlinux.zst");
    fs::write(&packed, zstd::bulk::compress(&vmlinux, 1).expect("zstd")).expect("written");
    let packed = checked(dir, &packed);
    assert_eq!(packed["inside"], serde_json::json!(["unpacked (zstd)"]));
    for key in ["release", "build_id", "banner"] {
        assert!(beside[key].is_string(), "{beside:#}");
        assert_eq!(beside[key], alone[key], "{key}");
        assert_eq!(beside[key], packed[key], "{key}");
    }
    let release = beside["release"].as_str().expect("a release");
    let banner = beside["banner"].as_str().expect("a banner");
    assert!(banner.starts_with(&format!("Linux version {release} ")), "{banner}");
}
