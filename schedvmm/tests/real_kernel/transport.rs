// SPDX-License-Identifier: Apache-2.0
//! The console over virtio-pci: asked for, by itself where the kernel has no driver for
//! virtio-mmio, and in both levels of the nested target.

use std::time::Duration;

use serde_json::Value;

use crate::case::{Case, main_job};
use crate::kernels;
use crate::lab::{Group, Preparation, TestKernel};
use crate::outcome::{Outcome, list, number, text};
use crate::threshold;
use crate::trace::explained;

/// Rings so large that they are not set aside in the guest's memory, but sent.
const SENT: &str = "--transport pci --memory 512M --trace-buffer 32M";

/// A kernel that has no driver for virtio-mmio.
const NO_MMIO: &str = "/tmp/no_mmio";

/// Two machines in a machine, all over virtio-pci.
const NESTED: &str = "--transport pci --nested --l2-count 2 --l2-boot-timeout 300s \
                      --threshold off --duration 2s --trace off";

/// Two machines boot in emulated virtualization.
const NESTED_LIMIT: Duration = Duration::from_secs(400);

/// One case for each way to virtio-pci.
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
        Case::run("pci_nested", NESTED, |outcome| {
            outcome.assert_status(0);
            let result = outcome.result_of("nested");
            over(outcome, &result, "pci");
            let vms = list(&result, "vms");
            assert_eq!(vms.len(), 2);
            for vm in vms {
                assert_eq!((&vm["fault"], text(vm, "transport")), (&Value::Null, "pci"));
                assert!(number(vm, "gaps") > 0, "{vm}");
            }
        })
        .within(NESTED_LIMIT),
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
