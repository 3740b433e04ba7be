// SPDX-License-Identifier: Apache-2.0
//! How errors are told, in the guest and by the launcher.

use std::error::Error;

use serde::{Deserialize, Serialize};

/// Whose limit or fault an error is: this alone decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum Owner {
    /// The kernel under test: it lacks what the run needs, or broke down.
    Kernel = 1,
    /// The request: it cannot be met by any kernel or host as it is put.
    Request = 2,
    /// This host: it lacks something, or something else on it ended the run.
    Host = 3,
    /// Nobody else: what cannot happen has happened.
    Internal = 4,
}

impl Owner {
    /// The owner with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        let all = [Self::Kernel, Self::Request, Self::Host, Self::Internal];
        all.into_iter().find(|owner| *owner as u32 == number)
    }
}

/// An error with all its causes in one line.
pub fn chain(error: impl Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
