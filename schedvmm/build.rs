// SPDX-License-Identifier: Apache-2.0
//! Packs the executable's relocations. It is position independent and static, and relocates itself
//! by a table: as plain entries that is 400 KB, as DT_RELR 10.

use std::process::Command;

/// Since 2.36 (elf/dl-relocate-ld.h) a static executable of glibc applies DT_RELR to itself; one of
/// an earlier glibc would start with none of it done.
const GLIBC: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if glibc_version().is_some_and(|version| version >= GLIBC) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of the glibc that is linked in: that of this machine.
fn glibc_version() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
