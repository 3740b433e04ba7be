// SPDX-License-Identifier: Apache-2.0
//! Ends that a run is asked for.

use crate::disk::Short;
use crate::verdict::End;
use crate::wall::Overrun;

/// Why a run is ended before its time.
#[derive(Clone)]
pub enum Ending {
    Signal(i32),
    Overrun(Overrun),
    NoRoom(Short),
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
