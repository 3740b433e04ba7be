// SPDX-License-Identifier: Apache-2.0
//! Names for kernels and `schedvmm check`, as a user calls it: on kernels that are made here, which
//! do nothing, and on the test kernels where there are any.

#[path = "../calls/mod.rs"]
mod calls;
/// What unit tests are made of, too.
#[path = "../../src/testing/made.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod files;
mod made;
mod odd;
mod packages;
mod real;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let made = made::CASES.iter().chain(&packages::CASES).chain(&odd::CASES).map(|(name, case)| {
        Trial::test(*name, || {
            case();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, made.chain(real::trials()).collect()).exit_code()
}
