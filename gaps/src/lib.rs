// SPDX-License-Identifier: Apache-2.0
//! The measurement: the meter loop, gap records and histograms.
//!
//! Nothing here knows of virtual machines, of the kernel under test or of files: a thread
//! calls the meter, the meter fills memory that was allocated beforehand. That memory is made
//! of atomics only, so it may be shared with another process that reads it while the thread
//! writes, and no part of the meter needs `unsafe`.

pub mod accounting;
pub mod bench;
pub mod evidence;
pub mod histogram;
pub mod meter;
pub mod pauses;
pub mod record;
pub mod stats;
pub mod tally;
pub mod tsc;
