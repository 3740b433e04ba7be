// SPDX-License-Identifier: Apache-2.0
//! Frames of the control port as bytes: encoder, and a decoder for bytes that come in pieces.
//!
//! The decoder trusts nothing: a length is checked before anything is stored for it, so a
//! broken or hostile peer costs at most one payload of memory.

use gaps::record::GapRecord;
use gaps::span::Span;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::message::{Command, Frame, MAX_PAYLOAD_BYTES, Message};

/// Bytes before the payload: `length: u32 LE`, `kind: u8`.
const HEADER_BYTES: usize = 5;

/// Kind of a frame that carries a [`Message`] as JSON.
const KIND_MESSAGE: u8 = 1;

/// Kind of a frame that carries gap records.
const KIND_GAPS: u8 = 2;

/// Kind of a frame that carries a [`Command`] as JSON.
const KIND_COMMAND: u8 = 3;

/// Kind of a frame that carries a virtual machine's console.
const KIND_VM_CONSOLE: u8 = 4;

/// Kind of a frame that carries times in which a thread wanted to run.
const KIND_DEMAND: u8 = 5;

/// One of these: two `u64`.
const SPAN_BYTES: usize = 16;

/// Most of them that go into one frame.
pub const MAX_SPANS_PER_FRAME: usize = (MAX_PAYLOAD_BYTES - 4) / SPAN_BYTES;

/// One gap record: two `u64` and three `u32`.
const RECORD_BYTES: usize = 28;

/// Most records that go into one frame.
pub const MAX_RECORDS_PER_FRAME: usize = (MAX_PAYLOAD_BYTES - 4) / RECORD_BYTES;

/// Why bytes are not a frame, or a value does not go into one.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The length is beyond what a reader accepts.
    #[error(
        "a frame of {bytes} bytes, where at most {MAX_PAYLOAD_BYTES} are allowed: \
         the two ends are of different versions, or the stream is damaged"
    )]
    TooLong {
        /// Length of the payload.
        bytes: usize,
    },
    /// No frame has this kind.
    #[error("a frame of kind {0}, which does not exist in this direction")]
    UnknownKind(u8),
    /// The payload is not the JSON it should be.
    #[error("a frame whose JSON cannot be understood")]
    Json(#[source] serde_json::Error),
    /// The payload is no whole number of records.
    #[error("a frame of gap records of {bytes} bytes, which is no whole number of records")]
    Records {
        /// Length of the payload.
        bytes: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame, {bytes} bytes into it")]
    Truncated {
        /// Bytes of the frame that did come.
        bytes: usize,
    },
}

/// A message as a frame.
pub fn encode_message(message: &Message) -> Result<Vec<u8>, FrameError> {
    encode_json(KIND_MESSAGE, message)
}

/// A command as a frame.
pub fn encode_command(command: Command) -> Result<Vec<u8>, FrameError> {
    encode_json(KIND_COMMAND, &command)
}

/// Gap records of one thread as a frame.
pub fn encode_gaps(thread: u32, records: &[GapRecord]) -> Result<Vec<u8>, FrameError> {
    let mut payload = Vec::with_capacity(4 + records.len().saturating_mul(RECORD_BYTES));
    payload.extend(thread.to_le_bytes());
    for record in records {
        payload.extend(record.tsc_begin.to_le_bytes());
        payload.extend(record.tsc_end.to_le_bytes());
        payload.extend(record.cpu_begin.to_le_bytes());
        payload.extend(record.cpu_end.to_le_bytes());
        payload.extend(record.marks().to_le_bytes());
    }
    frame(KIND_GAPS, &payload)
}

/// Times in which one thread wanted to run as a frame.
pub fn encode_demand(thread: u32, spans: &[Span]) -> Result<Vec<u8>, FrameError> {
    let mut payload = Vec::with_capacity(4 + spans.len().saturating_mul(SPAN_BYTES));
    payload.extend(thread.to_le_bytes());
    for span in spans {
        payload.extend(span.begin.to_le_bytes());
        payload.extend(span.end.to_le_bytes());
    }
    frame(KIND_DEMAND, &payload)
}

/// A piece of a virtual machine's console as a frame.
pub fn encode_vm_console(vm: u32, bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    frame(KIND_VM_CONSOLE, &[&vm.to_le_bytes(), bytes].concat())
}

pub(crate) fn encode_json(kind: u8, value: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    frame(kind, &serde_json::to_vec(value).map_err(FrameError::Json)?)
}

pub(crate) fn frame(kind: u8, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let bytes = payload.len();
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_PAYLOAD_BYTES);
    let length = length.ok_or(FrameError::TooLong { bytes })?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + bytes);
    frame.extend(length.to_le_bytes());
    frame.push(kind);
    frame.extend(payload);
    Ok(frame)
}

/// Puts frames together from bytes that come in pieces of any size.
///
/// Push what was read, then take frames until there is none. After [`FrameError::TooLong`]
/// the stream has no known frame boundary any more, and every further call fails the same
/// way; after the other errors the next frame can still be read.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Adds bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame from the guest; `None` until more bytes are pushed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((kind, payload)) = self.next_payload()? else { return Ok(None) };
        match kind {
            KIND_MESSAGE => Ok(Some(Frame::Message(decode_json(payload)?))),
            KIND_GAPS => decode_gaps(payload).map(Some),
            KIND_DEMAND => decode_demand(payload).map(Some),
            KIND_VM_CONSOLE => match payload.split_first_chunk::<4>() {
                Some((vm, bytes)) => Ok(Some(Frame::VmConsole {
                    vm: u32::from_le_bytes(*vm),
                    bytes: bytes.to_vec(),
                })),
                None => Err(FrameError::Truncated { bytes: payload.len() }),
            },
            other => Err(FrameError::UnknownKind(other)),
        }
    }

    /// The next command from the host; `None` until more bytes are pushed.
    pub fn next_command(&mut self) -> Result<Option<Command>, FrameError> {
        let Some((kind, payload)) = self.next_payload()? else { return Ok(None) };
        match kind {
            KIND_COMMAND => decode_json(payload).map(Some),
            other => Err(FrameError::UnknownKind(other)),
        }
    }

    /// Called at the end of the stream: an error if it ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        match self.bytes.len() - self.taken {
            0 => Ok(()),
            bytes => Err(FrameError::Truncated { bytes }),
        }
    }

    pub(crate) fn next_payload(&mut self) -> Result<Option<(u8, &[u8])>, FrameError> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((&[l0, l1, l2, l3, kind], rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLong { bytes: length });
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        self.taken += HEADER_BYTES + length;
        Ok(Some((kind, payload)))
    }
}

pub(crate) fn decode_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(FrameError::Json)
}

fn decode_gaps(payload: &[u8]) -> Result<Frame, FrameError> {
    let damaged = FrameError::Records { bytes: payload.len() };
    let Some((thread, records)) = payload.split_first_chunk::<4>() else { return Err(damaged) };
    let (records, []) = records.as_chunks::<RECORD_BYTES>() else { return Err(damaged) };
    Ok(Frame::Gaps {
        thread: u32::from_le_bytes(*thread),
        records: records.iter().map(decode_record).collect(),
    })
}

fn decode_demand(payload: &[u8]) -> Result<Frame, FrameError> {
    let damaged = FrameError::Records { bytes: payload.len() };
    let Some((thread, spans)) = payload.split_first_chunk::<4>() else { return Err(damaged) };
    let (spans, []) = spans.as_chunks::<SPAN_BYTES>() else { return Err(damaged) };
    let spans = spans.iter().map(|bytes| {
        let (words, _) = bytes.as_chunks::<4>();
        Span { begin: long(0, words), end: long(2, words) }
    });
    Ok(Frame::Demand { thread: u32::from_le_bytes(*thread), spans: spans.collect() })
}

fn decode_record(bytes: &[u8; RECORD_BYTES]) -> GapRecord {
    let (words, _) = bytes.as_chunks::<4>();
    let record = GapRecord {
        tsc_begin: long(0, words),
        tsc_end: long(2, words),
        cpu_begin: word(4, words),
        cpu_end: word(5, words),
        ..GapRecord::default()
    };
    record.with_marks(word(6, words))
}

fn word(index: usize, words: &[[u8; 4]]) -> u32 {
    u32::from_le_bytes(words[index])
}

fn long(index: usize, words: &[[u8; 4]]) -> u64 {
    u64::from(word(index + 1, words)) << 32 | u64::from(word(index, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Owner;
    use crate::message::{Failure, Tick, TraceProgress};
    use crate::report::LoadReport;
    use gaps::evidence::Class;
    use gaps::record::GapKind;

    fn samples() -> Vec<Message> {
        vec![
            Message::Hello(Default::default()),
            Message::Ready(Default::default()),
            Message::Tick(Tick { second: 3, online: 16, longest: Some(Default::default()) }),
            Message::ThresholdHit(Default::default()),
            Message::Finished(LoadReport {
                threads: vec![Default::default(); 16],
                ..Default::default()
            }),
            Message::Trace(TraceProgress::End { bytes: u64::MAX }),
            Message::Failed(Failure { owner: Owner::Kernel, text: "ä\n\"".into() }),
            Message::Bye,
        ]
    }

    fn records(count: u64) -> Vec<GapRecord> {
        (0..count)
            .map(|n| GapRecord {
                tsc_begin: n << 40 | 7,
                tsc_end: u64::MAX - n,
                cpu_begin: 2,
                cpu_end: u32::MAX,
                class: Class::from_number(u32::try_from(n % 4).unwrap()),
                kind: GapKind::ALL[usize::try_from(n % 2).unwrap()],
                unfinished: n % 3 == 0,
                warmup: n % 5 == 0,
            })
            .collect()
    }

    fn stream() -> (Vec<u8>, Vec<Frame>) {
        let mut bytes = Vec::new();
        let mut frames = Vec::new();
        for message in samples() {
            bytes.extend(encode_message(&message).unwrap());
            frames.push(Frame::Message(message));
        }
        for count in [0, 1, 100] {
            bytes.extend(encode_gaps(5, &records(count)).unwrap());
            frames.push(Frame::Gaps { thread: 5, records: records(count) });
            let spans: Vec<_> =
                (0..count).map(|n| Span { begin: n << 40, end: u64::MAX }).collect();
            bytes.extend(encode_demand(7, &spans).unwrap());
            frames.push(Frame::Demand { thread: 7, spans });
        }
        (bytes, frames)
    }

    #[test]
    fn every_frame_comes_back_whatever_the_pieces() {
        let (bytes, frames) = stream();
        for size in [1, 2, 7, 4096, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            decoder.finish().unwrap();
            assert_eq!(seen, frames, "in pieces of {size}");
        }
    }

    #[test]
    fn commands_come_back_and_keep_to_their_direction() {
        let mut decoder = Decoder::default();
        decoder.push(&encode_command(Command::Stop).unwrap());
        decoder.push(&encode_message(&Message::Bye).unwrap());
        assert_eq!(decoder.next_command().unwrap(), Some(Command::Stop));
        assert!(matches!(decoder.next_command(), Err(FrameError::UnknownKind(KIND_MESSAGE))));
        assert_eq!(decoder.next_command().unwrap(), None);
        decoder.push(&encode_command(Command::Stop).unwrap());
        assert!(matches!(decoder.next_frame(), Err(FrameError::UnknownKind(KIND_COMMAND))));
    }

    #[test]
    fn a_stream_cut_anywhere_is_truncated_and_never_a_frame_too_many() {
        let message = encode_message(&Message::Bye).unwrap();
        for cut in 1..message.len() {
            let mut decoder = Decoder::default();
            decoder.push(&message[..cut]);
            assert_eq!(decoder.next_frame().unwrap(), None);
            assert!(
                matches!(decoder.finish(), Err(FrameError::Truncated { bytes }) if bytes == cut)
            );
        }
    }

    #[test]
    fn a_frame_too_long_is_refused_before_it_comes() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(decoder.next_frame().unwrap(), None);
        decoder.push(&[KIND_GAPS]);
        for _ in 0..2 {
            assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
        }
        let longest = records(MAX_RECORDS_PER_FRAME as u64 + 1);
        encode_gaps(0, &longest[1..]).unwrap();
        assert!(matches!(encode_gaps(0, &longest), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn damaged_payloads_are_errors_and_the_next_frame_is_read() {
        for (kind, payload) in [
            (KIND_MESSAGE, &b"{\"type\":\"nonsense\"}"[..]),
            (KIND_MESSAGE, b"\xff\xfe"),
            (KIND_MESSAGE, b""),
            (KIND_GAPS, b"abc"),
            (KIND_GAPS, b"0123456789"),
            (99, b"{}"),
        ] {
            let mut decoder = Decoder::default();
            decoder.push(&frame(kind, payload).unwrap());
            decoder.push(&encode_message(&Message::Bye).unwrap());
            decoder.next_frame().expect_err("damaged");
            assert_eq!(decoder.next_frame().unwrap(), Some(Frame::Message(Message::Bye)));
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 1u64;
        for _ in 0..2000 {
            let mut decoder = Decoder::default();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let [.., kind] = state.to_le_bytes();
                decoder.push(&[kind % 40, 0, 0, 0, kind % 5]);
                decoder.push(&state.to_be_bytes());
                let _ = decoder.next_frame();
            }
        }
    }
}
