// SPDX-License-Identifier: Apache-2.0
//! The keyboard controller's reset line: the last resort of a kernel whose ACPI reset fails.

use std::convert::Infallible;
use std::sync::Arc;

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::devices::power::{PowerEvent, PowerSwitch};

struct ResetLine(Arc<PowerSwitch>);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.press(PowerEvent::Reset);
        Ok(())
    }
}

/// An i8042 that knows the reset command only.
pub struct I8042(I8042Device<ResetLine>);

impl I8042 {
    /// A controller whose reset line presses `switch`.
    pub fn new(switch: Arc<PowerSwitch>) -> Self {
        Self(I8042Device::new(ResetLine(switch)))
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            let Ok(()) = self.0.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let switch = Arc::new(PowerSwitch::default());
        let mut i8042 = I8042::new(switch.clone());
        i8042.write(0, &[0xfe]);
        i8042.write(4, &[0xd1]);
        i8042.write(4, &[0xfe, 0xfe]);
        assert_eq!(switch.pressed(), None);
        i8042.write(4, &[0xfe]);
        assert_eq!(switch.pressed(), Some(PowerEvent::Reset));
    }
}
