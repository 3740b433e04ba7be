// SPDX-License-Identifier: Apache-2.0
//! Kernels that have no driver for virtio-mmio, of one build tree: one with the console's driver as
//! a module, as those of the Red Hat family, and one with virtio-pci alone and all of it built in.

use std::env;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testhost::kernel::boot_files;

use crate::case::Case;
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::text;
use crate::user::measured;

/// Where they are, and what their folders are called in the host.
const KERNELS: [(&str, &str); 2] =
    [("SCHEDVMM_TEST_KERNEL_REDHAT", "/redhat"), ("SCHEDVMM_TEST_KERNEL_PCI", "/pci")];

/// The main job on both as a user names them, and what one of them lacks on its own.
pub fn group() -> Group {
    let run = |kernel: &str, options: &str| {
        format!("schedvmm --kernel {kernel} --threshold off --output r {options}")
    };
    let module = Case::new("module", run("/redhat", "--duration 2s"), |outcome| {
        over_pci(&measured(outcome), &["virtio_console"]);
    });
    let built_in = Case::new("pci_alone", run("/pci", "--duration 2s"), |outcome| {
        over_pci(&measured(outcome), &[]);
    });
    let insisting = run("/pci", "--transport mmio");
    let insisting = Case::new("pci_alone_over_mmio", insisting, |outcome| {
        outcome.assert_status(125);
        outcome.assert_says(&["CONFIG_VIRTIO_MMIO"]);
    });
    // A file without its neighbours.
    let alone = format!("cp /redhat/bzImage . && {}", run("bzImage", "--duration 1s"));
    let alone = Case::new("without_its_module", alone, |outcome| {
        outcome.assert_status(125);
        outcome.assert_says(&["CONFIG_VIRTIO_CONSOLE"]);
    });
    let checked = "schedvmm check /pci > pci && schedvmm check /redhat > redhat";
    let checked = Case::new("checked", checked, |outcome| {
        // What lies beside it is loaded, and all is there.
        outcome.assert_status(0);
        let told = |file: &str| outcome.file(file).unwrap_or_default();
        let row = |text: &str, state: &str| {
            text.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some("results") && words.next() == Some(state)
            })
        };
        assert!(row(&told("pci"), "there") && row(&told("redhat"), "loaded"), "{}", told("redhat"));
    });
    let cases = vec![module, built_in, insisting, alone, checked];
    Group::new("variants", TestKernel::V612, cases).prepared(|_| {
        let mut files = Vec::new();
        for (variable, place) in KERNELS {
            let image = env::var_os(variable)
                .ok_or_else(|| format!("{variable} is not set; run `cargo xtask test`"))?;
            files.extend(folder(Path::new(&image), place)?);
        }
        Ok(Preparation { files, ..Preparation::default() })
    })
}

/// All that lies beside an image, for the host.
fn folder(image: &Path, place: &str) -> Result<Vec<(String, PathBuf)>, String> {
    let folder = image.parent().ok_or_else(|| format!("{} has no folder", image.display()))?;
    let files = boot_files(folder).map_err(|error| format!("{error:#}"))?;
    Ok(files.into_iter().map(|(at, file)| (format!("{place}/{}", at.display()), file)).collect())
}

/// These were loaded, and the machine had virtio-pci.
fn over_pci(result: &Value, modules: &[&str]) {
    let machine = &result["machine"];
    println!("     Linux {}", text(&result["kernel"], "release"));
    println!("     {} bytes of modules, boot {} ms", machine["modules_bytes"], boot(result));
    assert_eq!(text(machine, "transport"), "pci");
    assert_eq!(machine["modules"], serde_json::json!(modules));
}

fn boot(result: &Value) -> &Value {
    &result["phases_ms"]["boot"]
}
