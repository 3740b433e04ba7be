// SPDX-License-Identifier: Apache-2.0
//! JSON that may be shown. Guests, traces and files name threads, kernels and reasons as they like;
//! no character of what is written commands a terminal or turns the direction of a line.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Whether a letter does something to a terminal, or to how others are read, in place of being
/// shown: control characters (C0, DEL, C1), and those that Unicode has for formatting (category
/// Cf: directions, joiners, tags) and for separating lines (U+2028, U+2029).
pub fn commands(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

/// A value as JSON for people, of which no character commands a terminal that shows it: what
/// would is escaped as JSON has it.
///
/// # Errors
/// Those of the value, or of the writer.
pub fn write(out: impl Write, value: &impl Serialize) -> serde_json::Result<()> {
    let formatter = Escaping(PrettyFormatter::new());
    value.serialize(&mut Serializer::with_formatter(out, formatter))
}

/// The same with an end to its last line, as files have it.
///
/// # Errors
/// Those of the value, or of the writer.
pub fn write_line(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    write(&mut out, value)?;
    writeln!(out)
}

/// The same as a text.
///
/// # Errors
/// Those of the value.
pub fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    write(&mut bytes, value)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Escaping(PrettyFormatter<'static>);

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(commands) {
            out.write_all(&rest.as_bytes()[..at])?;
            let mut letters = rest[at..].chars();
            let mut units = [0; 2];
            for unit in letters.next().map_or(&[][..], |letter| letter.encode_utf16(&mut units)) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = letters.as_str();
        }
        out.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

/// Every plain value in it by its name, from the outside in, as JSON.
///
/// # Errors
/// It cannot be written as JSON.
pub fn leaves(value: &impl Serialize) -> serde_json::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    // By way of a text, as files have it: the code for that is there.
    let value = serde_json::from_str(&pretty(value)?)?;
    add_leaves(value, String::new(), &mut found);
    Ok(found)
}

fn add_leaves(value: Value, name: String, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                add_leaves(value, name, found);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (at, item) in items.into_iter().enumerate() {
                add_leaves(item, format!("{name}[{at}]"), found);
            }
        }
        plain => drop(found.insert(name, plain.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{7}a\u{7f}\0\u{202e}b\u{200b}\u{e0041}\u{2028}c\rd";

    #[test]
    fn json_says_the_same_and_commands_nothing() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, 1, null, { "a": [] }], "b": {} });
        let text = pretty(&value).expect("JSON");
        assert!(!text.replace('\n', "").contains(commands), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
        let harmless = serde_json::json!({ "a": [1, { "ä": "\n" }], "b": [] });
        assert_eq!(
            pretty(&harmless).expect("JSON"),
            serde_json::to_string_pretty(&harmless).expect("JSON")
        );
    }
}
