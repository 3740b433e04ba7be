// SPDX-License-Identifier: Apache-2.0
//! Port and MMIO buses: an address range, a device, nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

/// A device that answers reads and writes at an offset into its range.
///
/// Called on vCPU threads with the guest's own offset and length: an implementation checks
/// both and never panics.
pub trait BusDevice: Send {
    /// Fills `data` from `offset`. The bus has filled it with 0xff beforehand.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data`, written at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device shared between the bus and its other users.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Two devices claim one address.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bus range [{start:#x}, +{len:#x}) is empty or overlaps another")]
pub struct BusError {
    /// First address.
    pub start: u64,
    /// Length.
    pub len: u64,
}

struct Range {
    start: u64,
    len: u64,
    device: SharedDevice,
}

/// An address space of devices. Built once, then only read: no lock but the device's own.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<Range>,
    unclaimed: AtomicU64,
}

impl Bus {
    /// Puts `device` at `[start, start + len)`.
    ///
    /// # Errors
    /// The range is empty or taken.
    pub fn insert(&mut self, start: u64, len: u64, device: SharedDevice) -> Result<(), BusError> {
        let end = start.checked_add(len).filter(|_| len > 0).ok_or(BusError { start, len })?;
        let at = self.ranges.partition_point(|range| range.start < start);
        let free_below = at == 0 || self.ranges[at - 1].start + self.ranges[at - 1].len <= start;
        let free_above = self.ranges.get(at).is_none_or(|next| end <= next.start);
        if !free_below || !free_above {
            return Err(BusError { start, len });
        }
        self.ranges.insert(at, Range { start, len, device });
        Ok(())
    }

    /// Reads from whatever is at `address`; nobody there reads as all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match self.find(address) {
            Some((device, offset)) => lock(device).read(offset, data),
            None => self.count_unclaimed(),
        }
    }

    /// Writes to whatever is at `address`; nobody there drops it.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address) {
            Some((device, offset)) => lock(device).write(offset, data),
            None => self.count_unclaimed(),
        }
    }

    /// Accesses so far to addresses that no device claims.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.load(Ordering::Relaxed)
    }

    fn count_unclaimed(&self) {
        self.unclaimed.fetch_add(1, Ordering::Relaxed);
    }

    fn find(&self, address: u64) -> Option<(&SharedDevice, u64)> {
        let at = self.ranges.partition_point(|range| range.start <= address);
        let range = self.ranges.get(at.checked_sub(1)?)?;
        let offset = address - range.start;
        (offset < range.len).then_some((&range.device, offset))
    }
}

/// A panic in one vCPU's access must not turn every other access into a panic.
fn lock(device: &SharedDevice) -> std::sync::MutexGuard<'_, dyn BusDevice + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The two buses of a PC.
#[derive(Default)]
pub struct Buses {
    /// I/O ports.
    pub pio: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u64, Vec<u8>)>);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = offset.to_le_bytes()[0];
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    #[test]
    fn ranges_do_not_overlap() {
        let mut bus = Bus::default();
        let device = || -> SharedDevice { Arc::new(Mutex::new(Echo(Vec::new()))) };
        assert_eq!(bus.insert(0x10, 0x10, device()), Ok(()));
        for (start, len) in [(0x10, 1), (0x1f, 1), (0x8, 9), (0, 0x100), (5, 0), (u64::MAX, 2)] {
            assert_eq!(bus.insert(start, len, device()), Err(BusError { start, len }));
        }
        assert_eq!(bus.insert(0x20, 1, device()), Ok(()));
        assert_eq!(bus.insert(0x0f, 1, device()), Ok(()));
    }

    #[test]
    fn accesses_reach_their_device_or_nobody() {
        let echo = Arc::new(Mutex::new(Echo(Vec::new())));
        let mut bus = Bus::default();
        bus.insert(0x10, 0x10, echo.clone()).expect("free");
        let mut data = [0; 2];
        bus.read(0x13, &mut data);
        assert_eq!(data, [3, 0xff]);
        for nobody in [0, 0xf, 0x20, u64::MAX] {
            bus.read(nobody, &mut data);
            assert_eq!(data, [0xff, 0xff]);
        }
        bus.write(0x1f, &[7]);
        bus.write(0x20, &[8]);
        assert_eq!(echo.lock().expect("lock").0, [(0xf, vec![7])]);
        assert_eq!(bus.unclaimed(), 5);
    }
}
