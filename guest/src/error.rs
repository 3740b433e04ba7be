// SPDX-License-Identifier: Apache-2.0
//! How errors are told, in the guest and by the launcher.

use std::error::Error;

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
