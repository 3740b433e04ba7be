// SPDX-License-Identifier: Apache-2.0
//! Event formats: what the kernel says about the fields of its events, in
//! `events/SYSTEM/EVENT/format`.

mod field;

pub(crate) use field::MAX_RECORD_BYTES;
pub use field::{Field, FieldKind, IntField};

use rustc_hash::FxHashMap;

use crate::error::FtraceError;

/// Longest format file; the longest of Linux 6.18 has 30 KiB.
pub(crate) const MAX_FORMAT_BYTES: u64 = 1 << 20;
/// All format files together; those of Linux 6.18 have 3 MiB.
pub(crate) const MAX_FORMATS_BYTES: u64 = 12 << 20;
/// Fields of all events together; Linux 6.18 has 20 000. It bounds memory: a field's line may
/// be shorter than what is kept of it.
const MAX_FIELDS: usize = 1 << 16;

/// A format file as the kernel wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormatFile {
    /// The event's system: the directory above the event's, such as `sched`.
    pub system: String,
    /// The file's bytes.
    pub text: Vec<u8>,
}

/// One event's format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFormat {
    /// The event's system, such as `sched`.
    pub system: String,
    /// Its name, such as `sched_switch`.
    pub name: String,
    /// The number that records of this event bear in `common_type`.
    pub id: u16,
    /// All fields in order of the file, the `common_` ones first.
    pub fields: Vec<Field>,
}

impl EventFormat {
    /// Reads a format file.
    ///
    /// # Errors
    /// [`FtraceError::Format`] where name, number or a field cannot be read.
    pub fn parse(file: &FormatFile) -> Result<Self, FtraceError> {
        let text = String::from_utf8_lossy(&file.text);
        let (mut name, mut id, mut fields) = (None, None, Vec::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("name:") {
                name = Some(rest.trim());
            } else if let Some(rest) = line.strip_prefix("ID:") {
                id = rest.trim().parse().ok();
            } else if line.starts_with("print fmt:") {
                break;
            } else if let Some(field) = Field::parse(line) {
                fields.push(field.map_err(|reason| broken_format(name, reason, &file.system))?);
                if fields.len() > MAX_FIELDS {
                    return Err(broken_format(name, "it has too many fields".into(), &file.system));
                }
            }
        }
        let id =
            id.ok_or_else(|| broken_format(name, "it has no ID below 65536".into(), &file.system))?;
        let Some(name) = name else {
            return Err(broken_format(None, "it has no name".into(), &file.system));
        };
        Ok(Self { system: file.system.clone(), name: name.to_owned(), id, fields })
    }

    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// A reader of the number of that name; `None` if there is none.
    pub fn int(&self, name: &str) -> Option<IntField> {
        self.field(name)?.int()
    }
}

fn broken_format(name: Option<&str>, reason: String, system: &str) -> FtraceError {
    let event = format!("{system}:{}", name.unwrap_or("?"));
    FtraceError::Format { event, reason }
}

/// The formats of all events of a trace.
#[derive(Clone, Debug)]
pub struct Formats {
    events: Vec<EventFormat>,
    by_id: FxHashMap<u16, usize>,
    common_type: IntField,
    common_pid: IntField,
}

impl Formats {
    /// Reads format files.
    ///
    /// # Errors
    /// [`FtraceError::Format`] where one cannot be read, where two events have one number, or
    /// where the events do not agree on where `common_type` and `common_pid` are; without
    /// that, records could not be told apart. [`FtraceError::TooLarge`] beyond the limits.
    pub fn parse(files: &[FormatFile]) -> Result<Self, FtraceError> {
        let mut total = 0;
        let mut fields = 0;
        let mut this = None::<Self>;
        for file in files {
            let size = file.text.len() as u64;
            total += size;
            FtraceError::check_size("event format in bytes", size, MAX_FORMAT_BYTES)?;
            FtraceError::check_size("event formats in bytes", total, MAX_FORMATS_BYTES)?;
            let event = EventFormat::parse(file)?;
            fields += event.fields.len();
            FtraceError::check_size("number of fields", fields as u64, MAX_FIELDS as u64)?;
            match &mut this {
                None => this = Some(Self::of_first(event)?),
                Some(this) => this.add(event)?,
            }
        }
        this.ok_or_else(|| FtraceError::Format {
            event: "*:*".into(),
            reason: "the trace has no formats at all".into(),
        })
    }

    fn of_first(event: EventFormat) -> Result<Self, FtraceError> {
        let (common_type, common_pid) = common_fields(&event)?;
        let by_id = std::iter::once((event.id, 0)).collect();
        Ok(Self { events: vec![event], by_id, common_type, common_pid })
    }

    fn add(&mut self, event: EventFormat) -> Result<(), FtraceError> {
        if common_fields(&event)? != (self.common_type, self.common_pid) {
            let reason = "its common fields lie elsewhere than in the other events".into();
            return Err(broken_event(&event, reason));
        }
        if let Some(&other) = self.by_id.get(&event.id) {
            let other = &self.events[other];
            // The same file twice says the same twice.
            if *other == event {
                return Ok(());
            }
            let reason =
                format!("its ID {} is also that of {}:{}", event.id, other.system, other.name);
            return Err(broken_event(&event, reason));
        }
        self.by_id.insert(event.id, self.events.len());
        self.events.push(event);
        Ok(())
    }

    /// All events, in the order of the files.
    pub fn events(&self) -> &[EventFormat] {
        &self.events
    }

    /// The event of that name.
    pub fn event(&self, system: &str, name: &str) -> Option<&EventFormat> {
        self.events.iter().find(|event| event.name == name && event.system == system)
    }

    /// The event of that number.
    pub fn by_id(&self, id: u16) -> Option<&EventFormat> {
        self.by_id.get(&id).map(|&index| &self.events[index])
    }

    /// Where the number of a record's event is.
    pub(crate) fn common_type(&self) -> IntField {
        self.common_type
    }

    /// The number of the event that a record is of; `None` if it is too short to have one.
    #[inline]
    pub fn event_id(&self, record: &[u8]) -> Option<u16> {
        u16::try_from(self.common_type.get(record)?).ok()
    }

    /// The event that a record is of.
    pub fn event_of(&self, record: &[u8]) -> Option<&EventFormat> {
        self.by_id(self.event_id(record)?)
    }

    /// The thread that was current when the record was written; 0 is a CPU's idle thread.
    #[inline]
    pub fn pid(&self, record: &[u8]) -> Option<i32> {
        self.common_pid.get_i32(record)
    }
}

fn broken_event(event: &EventFormat, reason: String) -> FtraceError {
    FtraceError::Format { event: format!("{}:{}", event.system, event.name), reason }
}

/// Where `common_type` and `common_pid` are.
fn common_fields(event: &EventFormat) -> Result<(IntField, IntField), FtraceError> {
    Ok((number_field("common_type", event)?, number_field("common_pid", event)?))
}

fn number_field(name: &str, event: &EventFormat) -> Result<IntField, FtraceError> {
    event.int(name).ok_or_else(|| FtraceError::Format {
        event: format!("{}:{}", event.system, event.name),
        reason: format!("it has no number `{name}`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(system: &str, name: &str, id: &str, pid_offset: usize) -> FormatFile {
        let text = format!(
            "name: {name}\nID: {id}\nformat:\n\
             \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \tfield:int common_pid;\toffset:{pid_offset};\tsize:4;\tsigned:1;\n\n\
             \tfield:int x;\toffset:8;\tsize:4;\tsigned:1;\n\n\
             print fmt: \"field:int y; %d\", REC->x\n"
        );
        FormatFile { system: system.into(), text: text.into_bytes() }
    }

    #[test]
    fn records_are_told_apart_by_the_formats() -> Result<(), FtraceError> {
        let files =
            [file("a", "one", "7", 4), file("b", "two", "300", 4), file("a", "one", "7", 4)];
        let formats = Formats::parse(&files)?;
        assert_eq!(formats.events().len(), 2);
        let record = [0x2C, 1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 5, 0, 0, 0];
        let event = formats.event_of(&record).expect("an event");
        assert_eq!((event.name.as_str(), formats.pid(&record)), ("two", Some(-1)));
        assert_eq!(event.int("x").and_then(|x| x.get(&record)), Some(5));
        assert!(event.field("y").is_none(), "the print format is no list of fields");
        assert_eq!(formats.event_of(&record[..1]), None);
        assert_eq!(formats.event("a", "two"), None);
        Ok(())
    }

    #[test]
    fn contradictions_are_refused() {
        for (files, word) in [
            (vec![], "no formats at all"),
            (vec![file("a", "one", "7", 4), file("a", "two", "7", 4)], "also that of a:one"),
            (vec![file("a", "one", "7", 4), file("a", "two", "8", 2)], "lie elsewhere"),
            (vec![file("a", "one", "70000", 4)], "no ID"),
            (vec![FormatFile { system: "a".into(), text: b"ID: 1\n".to_vec() }], "no name"),
            (
                vec![FormatFile { system: "a".into(), text: b"name: x\nID: 1\n".to_vec() }],
                "common_type",
            ),
        ] {
            let error = Formats::parse(&files).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
