// SPDX-License-Identifier: Apache-2.0
//! `schedvmm host` and this machine: what is asked for is in force, or it is said why not; and all
//! is as it was afterwards.

#[path = "../calls/mod.rs"]
mod calls;
mod in_force;
mod memory;
mod place;
mod signals;
mod waking;

use std::process::ExitCode;

use libtest_mimic::Arguments;

use self::place::Place;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let place = Place::find();
    for missing in place.missing() {
        println!("skipped: {missing}");
    }
    let trials = [signals::trials, in_force::trials, memory::trials, waking::trials];
    let trials = trials.into_iter().flat_map(|of| of(&place)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
