// SPDX-License-Identifier: Apache-2.0
//! Ends that a run is asked for.

use std::time::Instant;

use crate::disk::Short;
use crate::overrun::Overrun;
use crate::verdict::End;

/// Why a run is ended before its time.
#[derive(Clone)]
pub enum Ending {
    Signal(i32),
    Overrun(Overrun),
    NoRoom(Short),
}

impl Ending {
    /// What an end is that comes after this one was asked for, with its deadline: the run was cut short
    /// by that, whatever came of it.
    pub fn or(asked: Option<&(Self, Instant)>, end: End) -> End {
        asked.map_or(end, |(ending, _)| ending.clone().into())
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Signal(signal) => Self::Signal(signal),
            Ending::Overrun(over) => Self::Overrun(over),
            Ending::NoRoom(short) => Self::NoRoom(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_end_that_was_asked_for_is_that_end() {
        let asked = (Ending::Signal(libc::SIGTERM), Instant::now());
        for end in [End::TraceLost, End::Gone, End::Finished] {
            assert!(matches!(Ending::or(Some(&asked), end), End::Signal(libc::SIGTERM)));
        }
        assert!(matches!(Ending::or(None, End::TraceLost), End::TraceLost));
    }
}
