// SPDX-License-Identifier: Apache-2.0
//! docs/exit-status.md against the source: every error that can end the command has a row there,
//! with the status that its owner gives it.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use source::{Errors, Statuses};

/// Types whose errors end no process: what becomes of each.
const NO_END: [(&str, &str); 7] = [
    ("ActivationError", "the guest's driver is told, and goes without the device"),
    ("CpuListError", "a file of the kernel is read as far as it can be understood"),
    ("DurationError", "is quoted beside the option, the key or the tunable"),
    ("FrameError", "is quoted with a protocol error"),
    ("SendError", "the guest takes no order, and is ended without"),
    ("SessionError", "is quoted with a protocol error"),
    ("UnknownTunable", "is quoted beside --tune, whose options clap refuses"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn of_the_source() -> Errors {
    let crates =
        ["schedvmm", "results", "guest", "protocol", "workload", "vmm", "ftrace", "initrd-builder"];
    source::errors(&crates.map(|name| root().join(name).join("src")))
}

/// Rows of the document: text and statuses.
fn rows() -> BTreeMap<String, Statuses> {
    let text = fs::read_to_string(root().join("docs/exit-status.md")).expect("the document");
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (text, statuses) = (cells.next()?.trim(), cells.next()?);
        let text = text.trim_matches('`').trim();
        let statuses: Statuses =
            statuses.split([',', ' ']).filter_map(|word| word.parse().ok()).collect();
        (!statuses.is_empty()).then(|| (text.to_owned(), statuses))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn every_error_has_a_row_with_its_status() {
    let (errors, rows) = (of_the_source(), rows());
    let mut missing = String::new();
    for (text, (place, statuses)) in &errors.texts {
        let is_right = rows.get(text).is_some_and(|row| {
            // Where the cause decides, the document knows better which may come.
            row == statuses || (statuses.len() > 2 && row.len() > 1 && row.is_subset(statuses))
        });
        if !is_right {
            let statuses: Vec<_> = statuses.iter().map(u8::to_string).collect();
            missing += &format!("| `{text}` | {} |  |   <!-- {place} -->\n", statuses.join(", "));
        }
    }
    assert!(
        missing.is_empty(),
        "docs/exit-status.md lacks, or has with another status:\n{missing}"
    );
}

#[test]
fn every_row_is_an_error() {
    let errors = of_the_source();
    let texts: BTreeSet<_> = errors.texts.keys().cloned().collect();
    // The rows of the first table are about statuses, those of the last about texts that are
    // put together of parts.
    let document = fs::read_to_string(root().join("docs/exit-status.md")).expect("the document");
    let (_, checked) = document.split_once("## Options and folders").expect("a heading");
    let (checked, _) = checked.split_once("## Put together").expect("a heading");
    let is_checked = |text: &str| {
        checked.contains(&format!("`{text}`")) || checked.contains(&format!("`` {text} ``"))
    };
    let rows = rows();
    let stale: Vec<_> =
        rows.keys().filter(|text| is_checked(text) && !texts.contains(*text)).collect();
    assert!(stale.is_empty(), "rows of docs/exit-status.md that no error has: {stale:#?}");
}

#[test]
fn an_error_type_has_an_owner_or_a_reason_for_none() {
    let known: BTreeSet<_> = NO_END.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(of_the_source().without_owner, known);
}

#[test]
fn formats_become_patterns() {
    assert_eq!(source::pattern("a {} b {x:?}{{y}}\n  z {0}"), "a … b …{y} z …");
    assert_eq!(source::pattern("{0}"), "…");
}

/// What docs/security.md says is bounded has a test, by the name that the last column has.
#[test]
fn every_test_that_the_page_on_security_names_is_there() {
    let text = fs::read_to_string(root().join("docs/security.md")).expect("the document");
    let cells = text.lines().filter_map(|line| {
        let row = line.strip_prefix("| ")?.strip_suffix(" |")?;
        (row.matches(" | ").count() == 2).then(|| row.rsplit(" | ").next()).flatten()
    });
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let names: BTreeSet<_> = names.filter(|name| name.chars().all(is_of_a_name)).collect();
    assert!(names.len() > 30, "{names:?}");
    let folders = ["schedvmm/src", "schedvmm/tests", "results/src", "vmm/src", "vmm/tests"];
    let source = folders.map(|folder| source::text_of_all(&root().join(folder))).concat();
    let missing: Vec<_> = names.iter().filter(|name| !is_there(name, &source)).collect();
    assert!(missing.is_empty(), "docs/security.md names tests that are not there: {missing:?}");
}

/// Whether there is a test of this name, or a case on real kernels.
fn is_there(name: &str, source: &str) -> bool {
    source.contains(&format!("fn {name}(")) || source.contains(&format!("\"{name}\""))
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'
}
