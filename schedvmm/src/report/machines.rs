// SPDX-License-Identifier: Apache-2.0
//! Virtual machines as the load: a table of them, and what became of those that failed.

use maud::{Markup, html};

use super::facts::{length, percent};
use super::saved::{Saved, Vm};
use super::timeline::colour;
use crate::units::show_ns;

/// Machines in the table, at most.
const MAX_MACHINES: usize = 256;

/// The section; nothing where the load was threads.
pub fn section(saved: &Saved) -> Markup {
    if saved.vms.is_empty() {
        return html! {};
    }
    html! {
        section aria-labelledby="h-machines" {
            h2 #h-machines { "Virtual machines" }
            (table(saved))
            @for vm in saved.vms.iter().take(MAX_MACHINES) { (failure(vm)) }
        }
    }
}

fn table(saved: &Saved) -> Markup {
    let vcpus = saved.vms.iter().map(|vm| vm.threads.len()).max().unwrap_or(0);
    let left_out = saved.vms.len().saturating_sub(MAX_MACHINES);
    html! {
        div.scroll { table {
            caption { "What each machine's meter found, and what its vCPU threads got" }
            thead { tr {
                th scope="col" { "machine" }
                @for name in ["cookie", "gaps", "longest"] { th.n scope="col" { (name) } }
                @for vcpu in 0..vcpus { th.n scope="col" { "vCPU " (vcpu) } }
                @for name in ["in gaps", "CPU share", "ran", "waited", "memory", "ready after"] {
                    th.n scope="col" { (name) }
                }
                th scope="col" { "meter" }
                th scope="col" { "came to" }
            } }
            tbody { @for vm in saved.vms.iter().take(MAX_MACHINES) { (row(vm, vcpus)) } }
        } }
        @if left_out > 0 { p.small { (left_out) " more machines are left out." } }
    }
}

fn row(vm: &Vm, vcpus: usize) -> Markup {
    let cookie = vm.threads.first().map(|thread| thread.cookie).filter(|cookie| *cookie != 0);
    let sum = |of: fn(&super::saved::VmThread) -> Option<u64>| {
        let each = vm.threads.iter().map(of).collect::<Option<Vec<u64>>>();
        each.filter(|each| !each.is_empty())
            .map(|each| each.into_iter().fold(0u64, u64::saturating_add))
    };
    let memory = vm.pss_kib.or(vm.rss_kib);
    html! { tr {
        th scope="row" {
            span class={ "dot " (colour(vm.vm.saturating_sub(1))) } aria-hidden="true" {}
            "VM " (vm.vm)
        }
        td.n.mono { (cookie.map_or_else(|| "–".into(), |cookie| format!("{cookie:x}"))) }
        td.n { (vm.gaps) }
        td.n { (show_ns(vm.longest_gap_ns)) }
        @for vcpu in 0..vcpus { td.n { (length(vm.longest_gap_by_vcpu_ns.get(vcpu).copied())) } }
        td.n { (percent(vm.gap_share)) }
        td.n { (percent(vm.cpu_share)) }
        td.n { (length(sum(|thread| thread.run_ns))) }
        td.n { (length(sum(|thread| thread.wait_ns))) }
        td.n { (memory.map_or_else(|| "–".into(), |kib| format!("{} MiB", kib >> 10))) }
        td.n { (length(vm.times.standing_ns)) }
        td { (vm.meter.as_ref().map_or("–", |meter| meter.kind.as_str())) }
        td { @if vm.fault.is_some() { "failed" } @else { (vm.phase) } }
    } }
}

/// Why a machine did not measure to the end, and its last words.
fn failure(vm: &Vm) -> Markup {
    html! {
        @if let Some(fault) = &vm.fault {
            p { strong { "VM " (vm.vm) } " failed: " (fault) }
            @if let Some(tail) = vm.console_tail.as_ref().filter(|tail| !tail.is_empty()) {
                details { summary { "End of its console" } pre { (tail) } }
            }
        }
    }
}
