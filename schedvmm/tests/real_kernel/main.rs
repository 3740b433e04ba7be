// SPDX-License-Identifier: Apache-2.0
//! `schedvmm` with real kernels, as a user meets it: exit status, words, files.
//!
//! Everything runs in the emulated host of xtask, the same machine everywhere; figures from
//! there are printed, not judged, unless they count events. A boot of that host takes several
//! seconds, so that cases come in groups that share one ([`lab::Group`]); what a case left
//! behind is judged here, case by case, after its group has run. What becomes of a case whose
//! guest the emulation let down is told in [`testhost::host::accident`].
//!
//! One group, [`intel`], runs in the simulated host: Intel's virtualization, hyperthreads, and
//! times that are numbers.
//!
//! The test kernels are named by environment variables (`cargo xtask test` sets them);
//! without them the cases are skipped, and say so. Their `vmlinux` is expected beside them.
//!
//! | variable | meaning |
//! |---|---|
//! | `SCHEDVMM_TEST_KERNEL_612`, `SCHEDVMM_TEST_KERNEL_61`, `SCHEDVMM_TEST_KERNEL_NEWEST` | the kernels' bzImages |
//! | `SCHEDVMM_TEST_KERNEL_REDHAT`, `SCHEDVMM_TEST_KERNEL_PCI` | bzImages of kernels without virtio-mmio, the first with its modules in `lib/modules` beside it |
//! | `SCHEDVMM_TEST_STOCK_OLDEST`, `SCHEDVMM_TEST_STOCK_NEWEST` | folders of a distribution's unpacked kernels |
//! | `SCHEDVMM_TEST_EXECUTABLE` | tests this `schedvmm` instead of a fresh release build |
//! | `SCHEDVMM_TEST_KEEP` | a folder where all that the cases wrote stays |

mod bad_input;
mod broken_guest;
mod case;
mod disturbed;
mod early_end;
/// What unit tests are made of, too.
#[path = "../../src/testing/made.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod files;
mod frozen;
mod host_fault;
mod intel;
mod kernels;
mod lab;
mod machine;
mod meter;
mod nested;
mod newest;
mod outcome;
mod stall;
mod stock;
mod threshold;
mod trace;
mod transport;
mod trials;
mod user;
mod variants;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::Arguments;
use testhost::host::accident::Retries;

use crate::lab::Group;

fn main() -> ExitCode {
    let mut args = Arguments::from_args();
    // One emulated host at a time: it needs all the CPUs a small machine has.
    args.test_threads = Some(1);
    let groups: Vec<Group> = vec![
        bad_input::group(),
        host_fault::group(),
        user::group(),
        threshold::group(),
        early_end::group(),
        machine::group(),
        transport::group(),
        meter::group(),
        broken_guest::group(),
        stall::group(),
        trials::group(),
        user::group_of_cfs(),
        newest::group(),
        variants::group(),
        stock::group(),
        nested::group(),
        intel::group(),
    ];
    let retries = Arc::new(Mutex::new(Retries::default()));
    let mut trials: Vec<_> =
        groups.into_iter().flat_map(|group| group.trials(&args, &retries)).collect();
    trials.push(host_fault::own_machine());
    let conclusion = libtest_mimic::run(&args, trials);
    let retries = *retries.lock().unwrap_or_else(PoisonError::into_inner);
    if retries.cases > 0 {
        println!("{retries}");
    }
    if retries.are_too_many() { ExitCode::FAILURE } else { conclusion.exit_code() }
}
