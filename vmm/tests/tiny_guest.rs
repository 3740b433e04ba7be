// SPDX-License-Identifier: Apache-2.0
//! Guests of a dozen instructions on this machine's real KVM.
//!
//! One test at a time, on the main thread: some count threads and files of the process. A
//! machine without a usable /dev/kvm skips all of them and says so. The executable needs no
//! files: it also runs where there is nothing but /dev and /proc.

mod tiny;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

#[path = "tiny/ends.rs"]
mod ends;
#[path = "tiny/machine.rs"]
mod machine;
#[path = "tiny/threads.rs"]
mod threads;

/// A test, which may find out that it cannot be run here.
type Test = fn() -> Result<Completion, Failed>;

const TESTS: &[(&str, Test)] = &[
    ("port_writes_reach_the_serial_line", machine::port_writes_reach_the_serial_line),
    ("what_is_drawn_on_the_screen_is_read", machine::what_is_drawn_on_the_screen_is_read),
    ("power_port_and_i8042_end_the_machine", ends::power_port_and_i8042_end_the_machine),
    ("virtio_mmio_registers_read_and_write", machine::virtio_mmio_registers_read_and_write),
    ("a_pci_function_is_found_and_set_up", machine::a_pci_function_is_found_and_set_up),
    ("the_seed_is_where_the_zero_page_says", machine::the_seed_is_where_the_zero_page_says),
    ("unclaimed_ports_read_all_ones", machine::unclaimed_ports_read_all_ones),
    ("memory_beyond_ram_goes_on", machine::memory_beyond_ram_goes_on),
    ("cpuid_leaf_b_is_the_configured_topology", machine::cpuid_leaf_b_is_the_topology),
    ("guest_tsc_lies_between_two_of_the_host", machine::guest_tsc_is_the_hosts),
    ("triple_fault_is_reported_with_its_state", ends::triple_fault),
    ("code_outside_memory_is_an_internal_error", ends::code_outside_memory),
    ("waiting_processors_stop_once_each", ends::waiting_processors_stop_once_each),
    ("woken_processors_have_their_apic_ids", ends::woken_processors_have_their_apic_ids),
    ("power_off_leaves_the_others_to_be_stopped", ends::power_off_leaves_the_others),
    ("a_panic_in_a_device_ends_one_vcpu", ends::a_panic_in_a_device_ends_one_vcpu),
    ("a_vcpu_that_does_not_stop_is_named", ends::a_vcpu_that_does_not_stop_is_named),
    ("a_dropped_machine_is_gone", threads::a_dropped_machine_is_gone),
    ("impossible_pin_starts_nothing", threads::impossible_pin_starts_nothing),
    ("threads_are_named_and_pinned", threads::threads_are_named_and_pinned),
    ("spinning_machine_stops_in_time", threads::spinning_machine_stops_in_time),
    ("halted_machine_stops_in_time", threads::halted_machine_stops_in_time),
    ("two_hundred_machines_leave_nothing", threads::two_hundred_machines_leave_nothing),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let missing = tiny::hypervisor().err();
    let trials = TESTS
        .iter()
        .map(|&(name, test)| {
            let reason = missing.clone();
            // Marked as well as skipped: some runners list tests first and run one each.
            Trial::ignorable_test(name, move || match reason {
                Some(reason) => Ok(skip(name, &reason)),
                None => test(),
            })
            .with_ignored_flag(missing.is_some())
        })
        .collect();
    if let Some(reason) = missing.as_ref().filter(|_| !arguments.list) {
        for (name, _) in TESTS {
            eprintln!("SKIP {name}: {reason}");
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test that could not be run, counted as such.
fn skip(name: &str, reason: &str) -> Completion {
    eprintln!("SKIP {name}: {reason}");
    Completion::ignored_with(reason)
}

/// Fails with `what` unless both sides are equal.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), Failed> {
    if got == wanted {
        return Ok(());
    }
    Err(format!("{what}: {got:x?}, not {wanted:x?}").into())
}
