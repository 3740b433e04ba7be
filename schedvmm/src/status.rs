// SPDX-License-Identifier: Apache-2.0
//! Exit statuses, and the error that carries one.
//!
//! The numbers are a contract with `git bisect run`: 0 is good, 1 to 124 is bad, 125 skips
//! the commit, 128 and above end the bisection.

use std::error::Error;
use std::fmt;

pub use guest::error::chain;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// No gap over the threshold.
    Pass = 0,
    /// A gap over the threshold.
    OverThreshold = 1,
    /// This kernel could not be tested: no boot, panic, hang, something missing.
    Untestable = 125,
    /// Ended by SIGINT; what was measured is kept.
    Interrupted = 130,
    /// Ended by SIGTERM or SIGHUP; what was measured is kept.
    Terminated = 143,
    /// The request makes no sense.
    Usage = 200,
    /// This host cannot.
    Host = 201,
    /// A defect of ours.
    Internal = 202,
}

impl ExitStatus {
    /// Of a run that this signal has ended.
    pub fn of_signal(signal: i32) -> Self {
        if signal == libc::SIGINT { Self::Interrupted } else { Self::Terminated }
    }

    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// An error with the status it ends the process with.
#[derive(Debug)]
pub struct Failure {
    /// The status.
    pub status: ExitStatus,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// `error` ends the process with `status`.
    pub fn new(status: ExitStatus, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { status, error: error.into() }
    }
}

impl fmt::Display for Failure {
    /// The whole chain of causes in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.error))
    }
}

/// Attaches a status to any error.
pub trait OrFail<T> {
    /// The error ends the process with `status`.
    ///
    /// # Errors
    /// The same error, with its status.
    fn or_fail(self, status: ExitStatus) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrFail<T> for Result<T, E> {
    fn or_fail(self, status: ExitStatus) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(status, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        use ExitStatus::*;
        let all = [Pass, OverThreshold, Untestable, Interrupted, Terminated, Usage, Host, Internal];
        assert_eq!(all.map(ExitStatus::code), [0, 1, 125, 130, 143, 200, 201, 202]);
    }

    #[test]
    fn the_chain_of_causes_is_told_once() {
        let error = vmm::vcpu::sched::SchedError::Refused {
            thread: "CPU 0/KVM".into(),
            cpu: 7,
            source: std::io::Error::from_raw_os_error(22),
        };
        let text = Failure::new(ExitStatus::Usage, error).to_string();
        assert!(text.starts_with("cannot pin CPU 0/KVM to host CPU 7"), "{text}");
        assert!(text.ends_with("Invalid argument (os error 22)"), "{text}");
    }
}
