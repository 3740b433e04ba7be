// SPDX-License-Identifier: Apache-2.0
//! The command line that the kernel runs with, against the one that it was given.

use protocol::cmdline::Drift;

use super::Attempt;
use crate::cli::Idle;
use crate::measurement::Measurement;

impl Attempt {
    /// Whether the kernel runs with the command line that it was given.
    pub(super) fn compare_cmdlines(&mut self) {
        let Measurement { session, origin, .. } = &mut self.measurement;
        let Some(hello) = &session.hello else { return };
        let drift = Drift::between(&origin.kernel.cmdline_given, &hello.cmdline);
        // What is said of the machine is what it does, and not what was asked for.
        let idle = Idle::of(&hello.cmdline);
        origin.machine.summary = self.plan.summary(idle, self.transport);
        if let Some(vm) = &mut origin.machine.vm {
            vm.idle = idle.into();
        }
        self.cmdline_fault = drift.fault();
        if self.cmdline_fault.is_none() {
            drift.note().into_iter().for_each(|note| self.measurement.note_once(note));
        }
    }
}
