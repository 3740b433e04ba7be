// SPDX-License-Identifier: Apache-2.0
//! Virtual machines as the load: a table of them, and what became of those that failed.

use maud::{Markup, html};
use protocol::vm::VmThread;
use results::model::{RunResult, VmResult};

use crate::units::show_ns;
use crate::verbs::report::facts::{length, percent};
use crate::verbs::report::timeline::colour;

/// VMs in the table, at most.
const MAX_VMS: usize = 256;

/// The section; nothing where the load was threads.
pub fn section(result: &RunResult) -> Markup {
    if result.vms.is_empty() {
        return html! {};
    }
    html! {
        section aria-labelledby="h-machines" {
            h2 #h-machines { "Virtual machines" }
            (table(result))
            @for vm in result.vms.iter().take(MAX_VMS) { (failure(vm)) }
        }
    }
}

fn table(result: &RunResult) -> Markup {
    let vcpus = result.vms.iter().map(|vm| vm.status.threads.len()).max().unwrap_or(0);
    let left_out = result.vms.len().saturating_sub(MAX_VMS);
    html! {
        div.scroll { table {
            caption { "What each VM's meter found, and what its vCPU threads got" }
            thead { tr {
                th scope="col" { "VM" }
                @for name in ["cookie", "gaps", "longest"] { th.n scope="col" { (name) } }
                @for vcpu in 0..vcpus { th.n scope="col" { "vCPU " (vcpu) } }
                @for name in ["in gaps", "CPU share", "ran", "waited", "memory", "ready after"] {
                    th.n scope="col" { (name) }
                }
                th scope="col" { "meter" }
                th scope="col" { "came to" }
            } }
            tbody { @for vm in result.vms.iter().take(MAX_VMS) { (row(vm, vcpus)) } }
        } }
        @if left_out > 0 { p.small { (left_out) " more VMs are left out." } }
    }
}

fn row(vm: &VmResult, vcpus: usize) -> Markup {
    let cookie =
        vm.status.threads.first().map(|thread| thread.cookie).filter(|cookie| *cookie != 0);
    let memory = vm.status.pss_kib.or(vm.status.rss_kib);
    html! { tr {
        th scope="row" {
            span class={ "dot " (colour(vm.status.vm.saturating_sub(1))) } aria-hidden="true" {}
            "VM " (vm.status.vm)
        }
        td.n.mono { (cookie.map_or_else(|| "–".into(), |cookie| format!("{cookie:x}"))) }
        td.n { (vm.gaps) }
        td.n { (show_ns(vm.longest_gap_ns)) }
        @for vcpu in 0..vcpus { td.n { (length(vm.longest_gap_by_vcpu_ns.get(vcpu).copied())) } }
        td.n { (percent(vm.gap_share)) }
        td.n { (percent(vm.cpu_share)) }
        td.n { (length(sum(vm, |thread| thread.run_ns))) }
        td.n { (length(sum(vm, |thread| thread.wait_ns))) }
        td.n { (memory.map_or_else(|| "–".into(), |kib| format!("{} MiB", kib >> 10))) }
        td.n { (length(vm.status.times.ready_ns)) }
        td { (vm.status.meter.as_ref().map_or("–", |meter| meter.kind.name())) }
        td { @if vm.status.fault.is_some() { "failed" } @else { (vm.status.phase.name()) } }
    } }
}

/// A figure of each vCPU, summed, if all have it.
fn sum(vm: &VmResult, of: fn(&VmThread) -> Option<u64>) -> Option<u64> {
    let each = vm.status.threads.iter().map(of).collect::<Option<Vec<u64>>>();
    each.filter(|each| !each.is_empty())
        .map(|each| each.into_iter().fold(0u64, u64::saturating_add))
}

/// Why a VM did not measure to the end, and its last words.
fn failure(vm: &VmResult) -> Markup {
    html! {
        @if let Some(fault) = &vm.status.fault {
            p { strong { "VM " (vm.status.vm) } " failed: " (fault) }
            @if let Some(tail) = vm.console_tail.as_ref().filter(|tail| !tail.is_empty()) {
                details { summary { "End of its console" } pre { (tail) } }
            }
        }
    }
}
