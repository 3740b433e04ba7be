// SPDX-License-Identifier: Apache-2.0
//! Exit statuses, and the error that decides one by its owner.
//!
//! The numbers are a contract with `git bisect run`: 0 is good, 1 to 124 is bad, 125 skips
//! the commit, 128 and above end the bisection.

use std::error::Error;
use std::fmt;

use protocol::error::Owner;

pub use protocol::error::chain;

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

impl From<Owner> for ExitStatus {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Kernel => Self::Untestable,
            Owner::Request => Self::Usage,
            Owner::Host => Self::Host,
            Owner::Internal => Self::Internal,
        }
    }
}

/// Something that has an owner.
pub trait Owned {
    /// Whose limit or fault it is.
    fn owner(&self) -> Owner;
}

/// An error that ends the process, and whose it is.
#[derive(Debug)]
pub struct Failure {
    owner: Owner,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// `error` is this owner's.
    pub fn new(owner: Owner, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { owner, error: error.into() }
    }

    /// The request cannot be met.
    pub fn request(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Owner::Request, error)
    }

    /// The kernel under test lacks what the run needs.
    pub fn kernel(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Owner::Kernel, error)
    }

    /// This host cannot.
    pub fn host(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Owner::Host, error)
    }

    /// What cannot happen has happened.
    pub fn internal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Owner::Internal, error)
    }

    /// How it ends the process.
    pub fn status(&self) -> ExitStatus {
        self.owner.into()
    }
}

impl<E: Owned + Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.owner(), error)
    }
}

impl fmt::Display for Failure {
    /// The whole chain of causes in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.error))
    }
}

/// Gives an owner to an error that has none of its own.
pub trait OrFail<T> {
    /// The error is this owner's.
    ///
    /// # Errors
    /// The same error, with its owner.
    fn or_fail(self, owner: Owner) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrFail<T> for Result<T, E> {
    fn or_fail(self, owner: Owner) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(owner, error))
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
        let text = Failure::from(error).to_string();
        assert!(text.starts_with("cannot pin CPU 0/KVM to host CPU 7"), "{text}");
        assert!(text.ends_with("Invalid argument (os error 22)"), "{text}");
    }
}
