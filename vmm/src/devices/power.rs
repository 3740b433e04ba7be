// SPDX-License-Identifier: Apache-2.0
//! Power: ACPI reset register and sleep control register on one port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::BusDevice;
use crate::x86_64::acpi::{RESET_VALUE, S5_SLEEP_TYPE};

/// SLP_EN in the sleep control register (ACPI 6.5 table 4.20).
const SLEEP_ENABLE: u8 = 1 << 5;

/// What the guest did to its power switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// ACPI S5.
    Off,
    /// ACPI reset register, or the keyboard controller's reset line.
    Reset,
}

/// The machine's power switch: pressed by devices, looked at by vCPU threads.
#[derive(Debug, Default)]
pub struct PowerSwitch(AtomicU8);

impl PowerSwitch {
    const ON: u8 = 0;
    const OFF: u8 = 1;
    const RESET: u8 = 2;

    /// Records `event`; the first one counts.
    pub fn press(&self, event: PowerEvent) {
        let value = match event {
            PowerEvent::Off => Self::OFF,
            PowerEvent::Reset => Self::RESET,
        };
        let _ = self.0.compare_exchange(Self::ON, value, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// What was pressed, if anything.
    pub fn pressed(&self) -> Option<PowerEvent> {
        match self.0.load(Ordering::Acquire) {
            Self::OFF => Some(PowerEvent::Off),
            Self::RESET => Some(PowerEvent::Reset),
            _ => None,
        }
    }
}

/// The port behind the FADT's reset and sleep registers.
pub struct Power {
    switch: Arc<PowerSwitch>,
}

impl Power {
    /// A power device that presses `switch`.
    pub fn new(switch: Arc<PowerSwitch>) -> Self {
        Self { switch }
    }
}

impl BusDevice for Power {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        match data {
            [RESET_VALUE] => self.switch.press(PowerEvent::Reset),
            [value] if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == S5_SLEEP_TYPE => {
                self.switch.press(PowerEvent::Off);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: &[&[u8]]) -> Option<PowerEvent> {
        let switch = Arc::new(PowerSwitch::default());
        let mut power = Power::new(switch.clone());
        for data in writes {
            power.write(0, data);
        }
        switch.pressed()
    }

    #[test]
    fn s5_and_reset_are_told_apart() {
        assert_eq!(after(&[&[0x34]]), Some(PowerEvent::Off));
        assert_eq!(after(&[&[1]]), Some(PowerEvent::Reset));
        assert_eq!(after(&[&[0x34], &[1]]), Some(PowerEvent::Off));
        assert_eq!(after(&[&[0], &[0x14], &[0x2c], &[0x34, 0], &[]]), None);
    }
}
