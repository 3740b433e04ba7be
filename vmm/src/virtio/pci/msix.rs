// SPDX-License-Identifier: Apache-2.0
//! MSI-X (PCI Local Bus 3.0, 6.8.2): which message tells the driver what, and whether it may be
//! sent.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::super::source::Source;
use crate::msi::Message;

/// Number of messages of a device: one for its configuration, one for all its queues. Linux asks
/// for one a queue first, and then takes two (`vp_find_vqs`, drivers/virtio/virtio_pci_common.c).
/// More would each have to be routed while the kernel boots, and queues that bulk data goes
/// through are served by one CPU all the same.
pub const VECTORS: usize = 2;

/// VIRTIO_MSI_NO_VECTOR: nothing is sent.
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Four words an entry: message address, upper half of it, message data, vector control.
const ENTRY_WORDS: usize = 4;
/// Size of the table.
pub(super) const TABLE_BYTES: usize = VECTORS * ENTRY_WORDS * 4;
/// Size of the array of pending bits: a quadword for each 64 vectors.
pub(super) const PENDING_BYTES: usize = 8;
/// Mask bit of vector control.
const MASKED: u32 = 1;

/// The messages of a device.
///
/// The locked part is small and nobody waits while holding it. Who changes it is the transport,
/// one vCPU at a time; routing a message, which takes KVM a while, is done in between:
///
/// ```text
///  table write ──► unrouted() ──► (KVM learns the message) ──► routed() ──► what is pending goes
/// ```
///
/// What is raised in the meantime is pending.
#[derive(Debug)]
pub struct Messages {
    events: [EventFd; VECTORS],
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    enabled: bool,
    /// The function's own mask, which goes over those of the vectors.
    masked: bool,
    entries: [Entry; VECTORS],
    configuration: u16,
    queues: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: Message,
    /// The message that its eventfd sends.
    routed: Option<Message>,
    masked: bool,
    pending: bool,
}

impl Default for Entry {
    /// Masked, as after power-on.
    fn default() -> Self {
        Self { message: Message::default(), routed: None, masked: true, pending: false }
    }
}

impl Messages {
    /// Messages that are sent by writing `events`, for a device with `queues` queues.
    pub(super) fn new(events: [EventFd; VECTORS], queues: usize) -> Self {
        let state = State {
            enabled: false,
            masked: false,
            entries: [Entry::default(); VECTORS],
            configuration: NO_VECTOR,
            queues: vec![NO_VECTOR; queues],
        };
        Self { events, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the message for `source`, or remembers that it is to be sent.
    pub(in crate::virtio) fn raise(&self, source: Source) {
        let mut state = self.state();
        let vector = usize::from(state.vector(source));
        // Without MSI-X the driver has the ISR status to look at: there is no INTx here.
        if state.enabled
            && let Some(entry) = state.entries.get_mut(vector)
        {
            entry.pending = true;
            self.send(&mut state);
        }
    }

    /// Device reset: nothing is mapped to a message, and nothing is pending. The table and the
    /// enable bit are the function's, which no reset of the device touches.
    pub(in crate::virtio) fn reset(&self) {
        let mut state = self.state();
        state.configuration = NO_VECTOR;
        state.queues.fill(NO_VECTOR);
        state.entries.iter_mut().for_each(|entry| entry.pending = false);
    }

    /// The vector of `source`.
    pub(super) fn vector(&self, source: Source) -> u16 {
        self.state().vector(source)
    }

    /// Maps `source` to a vector. One that there is not reads back as none (virtio 1.2,
    /// 4.1.5.1.2.1).
    pub(super) fn set_vector(&self, source: Source, vector: u16) {
        let vector = if usize::from(vector) < VECTORS { vector } else { NO_VECTOR };
        let mut state = self.state();
        match source {
            Source::Configuration => state.configuration = vector,
            Source::Queue(index) => {
                if let Some(queue) = state.queues.get_mut(index) {
                    *queue = vector;
                }
            }
        }
    }

    /// Takes the two bits of message control.
    pub(super) fn set_control(&self, enabled: bool, masked: bool) {
        let mut state = self.state();
        state.enabled = enabled;
        state.masked = masked;
        self.send(&mut state);
    }

    /// Reads the table; false for an access of a width or place that is not allowed.
    pub(super) fn read_table(&self, offset: u64, data: &mut [u8]) -> bool {
        let Some(words) = words(offset, data.len(), TABLE_BYTES) else { return false };
        let state = self.state();
        let (bytes, _) = data.as_chunks_mut::<4>();
        for (word, bytes) in words.zip(bytes) {
            *bytes = state.word(word).to_le_bytes();
        }
        true
    }

    /// Writes the table; false for an access of a width or place that is not allowed.
    pub(super) fn write_table(&self, offset: u64, data: &[u8]) -> bool {
        let Some(words) = words(offset, data.len(), TABLE_BYTES) else { return false };
        let mut state = self.state();
        let (bytes, _) = data.as_chunks::<4>();
        for (word, bytes) in words.zip(bytes) {
            state.set_word(word, u32::from_le_bytes(*bytes));
        }
        self.send(&mut state);
        true
    }

    /// Reads the pending bits; false for an access of a width or place that is not allowed.
    pub(super) fn read_pending(&self, offset: u64, data: &mut [u8]) -> bool {
        let Some(words) = words(offset, data.len(), PENDING_BYTES) else { return false };
        let state = self.state();
        let bits: u64 =
            state.entries.iter().enumerate().map(|(n, entry)| u64::from(entry.pending) << n).sum();
        data.copy_from_slice(&bits.to_le_bytes()[words.start * 4..words.end * 4]);
        true
    }

    /// A vector that may send, and whose eventfd does not send its message yet.
    pub(super) fn unrouted(&self) -> Option<(usize, Message)> {
        let state = self.state();
        let vector = state
            .entries
            .iter()
            .position(|entry| state.may_send(entry) && entry.routed != Some(entry.message))?;
        Some((vector, state.entries[vector].message))
    }

    /// From now on the eventfd of `vector` sends `message`.
    pub(super) fn routed(&self, vector: usize, message: Message) {
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(vector) {
            entry.routed = Some(message);
        }
        self.send(&mut state);
    }

    /// Sends what is pending and may be sent.
    fn send(&self, state: &mut State) {
        for (vector, event) in self.events.iter().enumerate() {
            let entry = state.entries[vector];
            let ready = state.may_send(&entry) && entry.routed == Some(entry.message);
            if entry.pending && ready {
                state.entries[vector].pending = false;
                // Can only fail when the counter is full: then it is being sent.
                let _ = event.write(1);
            }
        }
    }

    /// True if any message has been sent since the last call.
    #[cfg(test)]
    pub(in crate::virtio) fn have_come(&self) -> bool {
        // All of them are read.
        self.events.iter().filter(|event| event.read().is_ok()).count() > 0
    }
}

impl State {
    fn vector(&self, source: Source) -> u16 {
        match source {
            Source::Configuration => self.configuration,
            Source::Queue(index) => self.queues.get(index).copied().unwrap_or(NO_VECTOR),
        }
    }

    fn may_send(&self, entry: &Entry) -> bool {
        self.enabled && !self.masked && !entry.masked
    }

    fn word(&self, word: usize) -> u32 {
        let Some(entry) = self.entries.get(word / ENTRY_WORDS) else { return 0 };
        match word % ENTRY_WORDS {
            0 => entry.message.address_low,
            1 => entry.message.address_high,
            2 => entry.message.data,
            _ => u32::from(entry.masked),
        }
    }

    fn set_word(&mut self, word: usize, value: u32) {
        let Some(entry) = self.entries.get_mut(word / ENTRY_WORDS) else { return };
        match word % ENTRY_WORDS {
            0 => entry.message.address_low = value,
            1 => entry.message.address_high = value,
            2 => entry.message.data = value,
            _ => entry.masked = value & MASKED != 0,
        }
    }
}

/// The words of a structure of `size` bytes that an access means: aligned doublewords and
/// quadwords are allowed, anything else is undefined (PCI Local Bus 3.0, 6.8.2).
fn words(offset: u64, length: usize, size: usize) -> Option<Range<usize>> {
    let offset = usize::try_from(offset).ok()?;
    let aligned = matches!(length, 4 | 8) && offset.is_multiple_of(length);
    let end = offset.checked_add(length)?;
    (aligned && end <= size).then_some(offset / 4..end / 4)
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn messages() -> Messages {
        Messages::new([(); VECTORS].map(|()| EventFd::new(EFD_NONBLOCK).unwrap()), 3)
    }

    /// Writes an entry as a kernel does, and has its message routed.
    fn set_up(messages: &Messages, vector: u64, data: u32) {
        let entry = 16 * vector;
        for (word, value) in [(0, 0xfee0_0000), (1, 0), (2, data), (3, 0)] {
            assert!(messages.write_table(entry + 4 * word, &u32::to_le_bytes(value)));
        }
        while let Some((vector, message)) = messages.unrouted() {
            messages.routed(vector, message);
        }
    }

    fn pending(messages: &Messages) -> u64 {
        let mut bits = [0xff; 8];
        assert!(messages.read_pending(0, &mut bits));
        u64::from_le_bytes(bits)
    }

    #[test]
    fn what_is_masked_is_pending_and_comes_later() {
        let messages = messages();
        messages.set_vector(Source::Queue(2), 1);
        // Not enabled: nobody will ever want to know.
        messages.raise(Source::Queue(2));
        assert_eq!(pending(&messages), 0);
        messages.set_control(true, true);
        messages.raise(Source::Queue(2));
        set_up(&messages, 1, 0x41);
        assert_eq!((pending(&messages), messages.have_come()), (2, false));
        // The function's mask goes, and there is a message that nobody knows yet.
        messages.set_control(true, false);
        assert_eq!((pending(&messages), messages.have_come()), (2, false));
        let (vector, message) = messages.unrouted().expect("not routed");
        assert_eq!((vector, message.data, message.address_low), (1, 0x41, 0xfee0_0000));
        messages.routed(vector, message);
        assert_eq!((pending(&messages), messages.have_come()), (0, true));
        assert_eq!(messages.events[0].read().ok(), None);
        // Once.
        set_up(&messages, 1, 0x41);
        assert!(!messages.have_come());
        messages.raise(Source::Queue(2));
        assert!(messages.have_come());
        // A vector of its own is masked again.
        assert!(messages.write_table(16 + 12, &[1, 0, 0, 0]));
        messages.raise(Source::Queue(2));
        assert_eq!((pending(&messages), messages.have_come()), (2, false));
        messages.reset();
        assert_eq!(pending(&messages), 0);
    }

    #[test]
    fn another_message_is_routed_before_it_is_sent() {
        let messages = messages();
        messages.set_control(true, false);
        messages.set_vector(Source::Configuration, 0);
        set_up(&messages, 0, 0x30);
        messages.raise(Source::Configuration);
        assert!(messages.have_come());
        // The kernel moves it to another CPU without masking it.
        assert!(messages.write_table(0, &0xfee0_1000u32.to_le_bytes()));
        messages.raise(Source::Configuration);
        assert!(!messages.have_come());
        let (vector, message) = messages.unrouted().expect("changed");
        assert_eq!(message.address_low, 0xfee0_1000);
        messages.routed(vector, message);
        assert!(messages.have_come());
    }

    #[test]
    fn vectors_that_there_are_not_read_back_as_none() {
        let messages = messages();
        for source in [Source::Configuration, Source::Queue(0), Source::Queue(2)] {
            assert_eq!(messages.vector(source), NO_VECTOR);
            messages.set_vector(source, 1);
            assert_eq!(messages.vector(source), 1);
            messages.set_vector(source, 2);
            assert_eq!(messages.vector(source), NO_VECTOR);
        }
        messages.set_vector(Source::Queue(3), 1);
        assert_eq!(messages.vector(Source::Queue(3)), NO_VECTOR);
        messages.raise(Source::Queue(usize::MAX));
        messages.set_vector(Source::Queue(1), 1);
        messages.reset();
        assert_eq!(messages.vector(Source::Queue(1)), NO_VECTOR);
    }

    #[test]
    fn only_aligned_doublewords_and_quadwords_reach_the_table() {
        let messages = messages();
        let quad = 0x1122_3344_5566_7788u64.to_le_bytes();
        assert!(messages.write_table(16, &quad));
        let mut read = [0; 8];
        assert!(messages.read_table(16, &mut read) && read == quad);
        // Reserved bits of vector control stay zero.
        assert!(messages.write_table(12, &[0xfe, 0xff, 0xff, 0xff]));
        assert!(messages.read_table(8, &mut read) && read == [0; 8]);
        for (offset, length) in [(0, 1), (0, 2), (2, 4), (4, 8), (0, 16), (0, 0), (32, 4), (28, 8)]
        {
            let mut data = vec![0xee; length];
            assert!(!messages.read_table(offset, &mut data) && data.iter().all(|b| *b == 0xee));
            assert!(!messages.write_table(offset, &data));
        }
        for offset in [8, u64::MAX, u64::MAX - 3] {
            assert!(!messages.read_pending(offset, &mut [0; 4]));
            assert!(offset == 8 || !messages.write_table(offset, &[0; 4]));
        }
    }
}
