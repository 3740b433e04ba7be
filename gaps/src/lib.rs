// SPDX-License-Identifier: Apache-2.0
//! The measurement: the meter loop, gap records and histograms.
//!
//! Nothing here knows of virtual machines or of messages: a thread calls the meter, the meter fills
//! memory that was allocated beforehand. Of the kernel, [`accounting`] reads what it says of the thread
//! (/proc/thread-self/schedstat), and once what it counts at all (/proc/stat, nohz_full). That memory is made
//! of atomics only, so it may be shared with another process that reads it while the thread
//! writes, and no part of the meter needs `unsafe`.

pub mod accounting;
pub mod bench;
pub mod evidence;
pub mod histogram;
pub mod meter;
pub mod pauses;
pub mod record;
pub mod span;
pub mod stats;
pub mod tally;
pub mod tsc;
