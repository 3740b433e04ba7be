// SPDX-License-Identifier: Apache-2.0
//! The one kernel in a package, with what else tells of that.

use crate::modules::{self, Packed};
use crate::package::{Kernel, Package};

use super::config::{Configuration, Source};
use super::{Found, KernelFileError};

/// Reads the kernel in `package`.
///
/// # Errors
/// There is none, there are several, or the package is damaged.
pub fn kernel(package: Package) -> Result<Found, KernelFileError> {
    let path = package.path().to_owned();
    let mut contents = package.contents(modules::is_likely).map_err(KernelFileError::Package)?;
    if contents.kernels.len() > 1 {
        let names: Vec<_> = contents.kernels.iter().map(|kernel| kernel.path.as_str()).collect();
        let kernels = names.join(", ");
        return Err(KernelFileError::Several { path, kernels });
    }
    let Some(Kernel { releases, path: member, bytes }) = contents.kernels.pop() else {
        return Err(KernelFileError::NoKernel { path, holds: contents.summary() });
    };
    // Of the names of its copies the one that its modules are under.
    let with_modules = releases.iter().find(|name| contents.has_modules(name));
    let release = with_modules.or(releases.first()).cloned().unwrap_or_default();
    let index = contents.releases.remove(&release).unwrap_or_default();
    let mut notes = Vec::new();
    let config = index.config.as_ref().and_then(|(member, text)| {
        let source = Source::Package(path.clone(), member.clone());
        let parsed = Configuration::parse(text, source, Some(&release));
        parsed.map_err(|why| notes.push(why)).ok()
    });
    let package = Some((Packed::read_before(package, &release, index), release));
    Ok(Found { path, member: Some(member), bytes, config, package, notes })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::made::{self, Pack};

    const KERNEL: &[u8] = b"a kernel";
    const CONFIG: &[u8] = b"CONFIG_64BIT=y\nCONFIG_SMP=y\n";

    type Files<'a> = &'a [(&'a str, &'a [u8])];

    /// What is found in packages of each kind with these files.
    fn found(files: Files<'_>) -> [Result<Found, String>; 2] {
        let dir = tempfile::tempdir().expect("tempdir");
        [made::deb(files, Pack::Zstd), made::rpm(files, Pack::Gzip)].map(|bytes| {
            let path = dir.path().join("package");
            fs::write(&path, bytes).expect("written");
            let package = Package::open(&path).expect("readable").expect("a package");
            kernel(package).map_err(|error| error.to_string())
        })
    }

    #[test]
    fn a_kernel_comes_with_its_configuration() {
        let files = [
            ("./usr/lib/modules/7.3/vmlinuz", KERNEL),
            ("./usr/lib/modules/7.3/config", CONFIG),
            ("./boot/vmlinuz-7.3", KERNEL),
        ];
        for found in found(&files) {
            let found = found.expect("a kernel");
            assert_eq!(found.bytes, KERNEL);
            assert_eq!(found.member.as_deref(), Some("usr/lib/modules/7.3/vmlinuz"));
            let config = found.config.expect("its own");
            assert_eq!(config.options["CONFIG_SMP"], "y");
            assert!(config.source.to_string().ends_with(": usr/lib/modules/7.3/config"));
            assert_eq!(found.package.expect("where it was").1, "7.3");
        }
    }

    #[test]
    fn copies_of_a_kernel_under_two_names_are_one() {
        let builtin = &b"kernel/a.ko\n"[..];
        let files = [
            ("boot/vmlinuz-linux", KERNEL),
            ("usr/lib/modules/7.3/vmlinuz", KERNEL),
            ("usr/lib/modules/7.3/modules.builtin", builtin),
        ];
        for found in found(&files) {
            let found = found.expect("one kernel");
            assert_eq!(found.member.as_deref(), Some(files[0].0));
            // Its modules are under the other name.
            assert_eq!(found.package.expect("where it was").1, "7.3");
        }
    }

    #[test]
    fn none_and_several_kernels_are_told() {
        let several = "several kernels: boot/vmlinuz-6.1, boot/vmlinuz-6.12";
        let two_builds = "several kernels: boot/vmlinuz-6.1, lib/modules/6.1/vmlinuz";
        let cases: [(Files<'_>, &str); 5] = [
            (&[("boot/vmlinuz-6.1", KERNEL), ("boot/vmlinuz-6.12", b"other")], several),
            (&[("boot/vmlinuz-6.1", KERNEL), ("lib/modules/6.1/vmlinuz", b"a kernex")], two_builds),
            (&[("lib/modules/6.1/kernel/lib/b.ko", KERNEL)], "no kernel in it: 1 module; give"),
            (&[("usr/share/doc/x", KERNEL)], "1 file, and that is no module"),
            (&[], "it is empty"),
        ];
        for (files, told) in cases {
            for found in found(files) {
                let error = found.expect_err(told);
                assert!(error.contains(told), "{error}");
            }
        }
    }
}
