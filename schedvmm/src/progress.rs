// SPDX-License-Identifier: Apache-2.0
//! A bar on stderr, where that is a terminal, for what takes long.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// One that is to be seen on a terminal only.
    #[expect(clippy::disallowed_methods, reason = "a question; the bar's words are ours")]
    pub fn new() -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::on(target)
    }

    /// One that is to be seen there.
    pub fn on(terminal: ProgressDrawTarget) -> Self {
        Self { bar: ProgressBar::with_draw_target(None, terminal) }
    }

    /// Starts a phase of so many steps.
    pub fn phase(&self, name: &'static str, steps: u64) {
        // The template is a constant of ours; a fault in it would only cost the bar.
        let style = ProgressStyle::with_template("{msg:>8} [{bar:40}] {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("=> "));
        self.bar.reset();
        self.bar.set_message(name);
        self.bar.set_length(steps.max(1));
        // However short it is: frames are drawn some times a second otherwise.
        self.bar.force_draw();
    }

    /// Moves the bar on by so many steps, if there is one.
    pub fn add(&self, steps: u64) {
        if self.bar.length().is_some() {
            self.bar.inc(steps);
        }
    }

    /// Moves the bar.
    pub fn at(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Takes the bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
        self.bar.unset_length();
    }

    /// Shows the bar now, not only when its time has come.
    #[cfg(test)]
    pub fn force_draw(&self) {
        self.bar.force_draw();
    }

    /// Writes something else, the bar out of its way.
    pub fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }
}
