// SPDX-License-Identifier: Apache-2.0
//! The console over virtio-pci: asked for, by itself where the kernel has no driver for
//! virtio-mmio.

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::kernels;
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{Outcome, text};
use crate::threshold;
use crate::trace::explained;

/// Rings so large that they are not set aside in the guest's memory, but sent.
const SENT: &str = "--transport pci --memory 512M --trace-buffer 32M";

/// A kernel that has no driver for virtio-mmio.
const NO_MMIO: &str = "/tmp/no_mmio";

/// One case for each way to virtio-pci; virtual machines over it are in `nested`
/// (asked for) and `stock` (by itself).
pub fn group() -> Group {
    let cases = vec![
        // Control and trace ports carry data both ways, with bells and messages.
        Case::run("pci", SENT, |outcome| {
            let result = threshold::hit(outcome);
            over(outcome, &result, "pci");
            threshold::trace(outcome, &result, "r/trace.dat", "bulk-port");
            explained(outcome, &result);
        }),
        Case::new(
            "pci_by_itself",
            format!("schedvmm --kernel {NO_MMIO} --output r --threshold off --duration 1s"),
            |outcome| over(outcome, &measured(outcome), "pci"),
        ),
        Case::new(
            "mmio_by_itself",
            main_job("--threshold off --duration 1s --trace off"),
            |outcome| over(outcome, &measured(outcome), "mmio"),
        ),
    ];
    Group::new("transport", TestKernel::V612, cases).prepared(|bzimage| {
        let path = kernels::vmlinux(bzimage)?;
        let vmlinux = kernels::read(&path)?;
        let script = kernels::lacking(&vmlinux, "/vmlinux", NO_MMIO, &[kernels::MMIO_DRIVER]);
        Ok(Preparation { files: vec![("/vmlinux".into(), path)], script, ..Preparation::default() })
    })
}

fn measured(outcome: &Outcome) -> Value {
    outcome.assert_status(0);
    outcome.assert_verdict("measured")
}

/// Whether the machine was one of this transport, and said so: the kernel, too.
fn over(outcome: &Outcome, result: &Value, transport: &str) {
    let machine = &result["machine"];
    assert_eq!(text(machine, "transport"), transport);
    let named = format!("virtio-{transport}");
    assert!(text(machine, "summary").contains(&named), "{machine}");
    assert!(outcome.stdout.contains(&named), "{}", outcome.words());
    let words = text(&result["kernel"], "cmdline").split_whitespace();
    let without_pci = words.into_iter().any(|word| word == "pci=off");
    assert_eq!(without_pci, transport == "mmio", "{}", result["kernel"]["cmdline"]);
    println!("     over virtio-{transport}, phases {}", result["phases_ms"]);
}
