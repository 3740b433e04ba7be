// SPDX-License-Identifier: Apache-2.0
//! The command line that the kernel runs with, against the one that it was given.

use guest::cmdline::Drift;

use crate::cli::Idle;
use crate::verbs::measure::Attempt;

impl Attempt {
    /// Whether the kernel runs with the command line that it was given.
    pub(super) fn compare_cmdlines(&mut self) {
        let Some(hello) = &self.session.hello else { return };
        let drift = Drift::between(&self.kernel.cmdline_given, &hello.cmdline);
        // What is said of the machine is what it does, and not what was asked for.
        let idle = Idle::of(&hello.cmdline);
        self.machine.summary = self.plan.summary(idle, self.transport);
        if let Some(vm) = &mut self.machine.vm {
            vm.idle = idle.into();
        }
        self.cmdline_fault = drift.fault();
        if self.cmdline_fault.is_none() {
            drift.note().into_iter().for_each(|note| self.note_once(note));
        }
    }
}
