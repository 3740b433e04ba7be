// SPDX-License-Identifier: Apache-2.0
//! The configuration space of a function (PCI Local Bus 3.0, 6.1 and 6.7): 256 bytes, of which the
//! guest may write some bits.

/// Size of a configuration space without the extended part.
const BYTES: usize = 256;

const VENDOR_ID: u8 = 0x00;
const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const REVISION: u8 = 0x08;
const BAR0: u8 = 0x10;
const SUBSYSTEM_VENDOR_ID: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;
/// Where capabilities begin: behind the header.
const FIRST_CAPABILITY: usize = 0x40;

/// Memory space: the function answers at its BAR.
const COMMAND_MEMORY: u16 = 1 << 1;
/// Bits of the command register that can be written: memory space, bus master, interrupt disable.
/// Bus master is kept and has no other effect: what a device may reach is the guest's RAM.
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 10;
/// Status register: there are capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Who a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor ID, also the subsystem's.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem device ID.
    pub subsystem: u16,
    /// Revision.
    pub revision: u8,
    /// Base class and subclass.
    pub class: u16,
}

/// Header and capabilities of a function that has no interrupt pin and one memory BAR at most.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; BYTES],
    writable: [u8; BYTES],
    /// Where the next capability goes, and which byte points to it.
    next: usize,
    link: usize,
}

impl ConfigSpace {
    /// A header of type 0 without BARs and capabilities.
    #[must_use]
    pub fn new(id: Identity) -> Self {
        let mut config = Self {
            bytes: [0; BYTES],
            writable: [0; BYTES],
            next: FIRST_CAPABILITY,
            link: CAPABILITIES.into(),
        };
        config.set(VENDOR_ID, &id.vendor.to_le_bytes());
        config.set(VENDOR_ID + 2, &id.device.to_le_bytes());
        let [subclass, base] = id.class.to_le_bytes();
        config.set(REVISION, &[id.revision, 0, subclass, base]);
        config.set(SUBSYSTEM_VENDOR_ID, &id.vendor.to_le_bytes());
        config.set(SUBSYSTEM_VENDOR_ID + 2, &id.subsystem.to_le_bytes());
        config.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        config
    }

    /// Gives it a 32-bit memory BAR of `size` bytes, a power of two, that lies at `base`.
    pub fn add_bar(&mut self, base: u32, size: u32) {
        self.set(BAR0, &base.to_le_bytes());
        // Bits below the size stay zero: that is how software finds the size (6.2.5.1).
        self.allow(BAR0, &(!(size - 1)).to_le_bytes());
    }

    /// Adds a capability and returns where it lies. `body` follows its ID and the link.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        // At the end of the space nothing is written: the link stays 0.
        let at = u8::try_from(self.next).unwrap_or(u8::MAX);
        self.bytes[self.link] = at;
        self.link = self.next + 1;
        self.set(at, &[id, 0]);
        self.set(at.saturating_add(2), body);
        self.next = (self.next + 2 + body.len()).next_multiple_of(4);
        self.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        at
    }

    /// Writes what the guest reads at `offset`.
    pub fn set(&mut self, offset: u8, data: &[u8]) {
        self.bytes[usize::from(offset)..].iter_mut().zip(data).for_each(|(byte, new)| *byte = *new);
    }

    /// Lets the guest write the bits that are set in `mask`, from `offset` on.
    pub fn allow(&mut self, offset: u8, mask: &[u8]) {
        let writable = self.writable[usize::from(offset)..].iter_mut();
        writable.zip(mask).for_each(|(bits, more)| *bits |= *more);
    }

    /// `N` bytes from `offset`; zeros past the end.
    #[must_use]
    pub fn get<const N: usize>(&self, offset: u8) -> [u8; N] {
        let mut data = [0; N];
        self.read(offset, &mut data);
        data
    }

    /// What the guest reads.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        data.iter_mut().zip(&self.bytes[usize::from(offset)..]).for_each(|(to, from)| *to = *from);
    }

    /// What the guest writes: bits that are not its own stay.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        let at = usize::from(offset);
        let bytes = self.bytes[at..].iter_mut().zip(&self.writable[at..]);
        bytes.zip(data).for_each(|((byte, mask), new)| *byte = *byte & !mask | new & mask);
    }

    /// Where its BAR lies, if it answers there.
    #[must_use]
    pub fn decoded_bar(&self) -> Option<u32> {
        let command = u16::from_le_bytes(self.get(COMMAND));
        (command & COMMAND_MEMORY != 0).then(|| u32::from_le_bytes(self.get(BAR0)))
    }
}
