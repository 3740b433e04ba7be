// SPDX-License-Identifier: Apache-2.0
//! The measurement: the meter loop, gap records and histograms.
//!
//! Nothing here knows of virtual machines, of the kernel under test or of files: a thread
//! calls the meter, the meter fills memory that was allocated beforehand.

pub mod record;
