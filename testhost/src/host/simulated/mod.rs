// SPDX-License-Identifier: Apache-2.0
//! The simulated machine: Bochs, which executes one instruction after another, all CPUs in turn,
//! and whose clocks count those instructions. What else this machine does makes it slower, and
//! changes no time in it: latencies there are those of a slow machine, not noise.
//!
//! It has hyperthreads and Intel's virtualization, so the half of KVM runs in it that the emulated
//! machine has not. Its kernel and initrd come from a raw disk by a boot ROM of ours ([`rom`],
//! [`image`]), what it sends goes back to that disk ([`outbox`], [`ata`]), and its console is a
//! serial line. Disk, options and log are files without a name, and its display is one that listens
//! on no port: nothing is left behind, whichever way it ends.

mod ata;
pub(super) mod bochs;
mod bridge;
mod image;
mod inner;
mod outbox;
mod rom;

pub(super) use inner::Channels;
pub(super) use outbox::Channel;

/// The first sector of the disk that the machine writes; what it boots from is before that.
const OUTBOX_SECTOR: u64 = 1 << 20;
/// Where the disk ends: 1 GiB behind that.
const DISK_SECTORS: u64 = OUTBOX_SECTOR + (2 << 20);
