// SPDX-License-Identifier: Apache-2.0
//! Outcome of the main job on one kernel: a row of the table.

use std::fmt;
use std::path::Path;

use anyhow::Result;
use results::folder::RESULT;
use results::model::Phase;
use results::saved::Saved;
use serde::Serialize;

use super::entry::Entry;
use testhost::host::accident::Accident;

/// Exit statuses of a kernel that was measured, with a gap over the threshold or without.
const RAN: [u8; 2] = [0, 1];

/// One kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    /// Its name here.
    pub(super) kernel: String,
    /// Its name for itself.
    release: Option<String>,
    transport: Option<String>,
    /// Those that it was given to load, in order.
    modules: Vec<String>,
    /// They as they lie in the initrd.
    modules_packed_bytes: u64,
    /// They as they are loaded.
    modules_bytes: u64,
    memory_mib: Option<u64>,
    /// Start of the machine to PID 1.
    boot_ms: Option<u64>,
    verdict: Option<String>,
    exit_status: Option<u8>,
    /// True if it was measured.
    pub(super) ran: bool,
    /// Why it was not, or what is to be said of how it was.
    pub(super) reason: String,
    /// Fault of the emulation.
    #[serde(skip)]
    pub(super) accident: Option<Accident>,
}

impl Row {
    /// Names of the columns.
    pub(super) const HEADER: &str = "kernel                                        transport modules  \
                                     packed KiB  memory MiB  boot ms  verdict     status";

    /// Of a kernel that was not even started.
    pub(super) fn failed(entry: &Entry, reason: String) -> Self {
        Self {
            kernel: entry.name(),
            release: None,
            transport: None,
            modules: Vec::new(),
            modules_packed_bytes: 0,
            modules_bytes: 0,
            memory_mib: None,
            boot_ms: None,
            verdict: None,
            exit_status: None,
            ran: false,
            reason,
            accident: None,
        }
    }

    /// From the result of a run, and how that ended with what words.
    pub(super) fn of(entry: &Entry, result: &Path, (status, output): (u8, &str)) -> Result<Self> {
        let last = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let without = Self {
            exit_status: Some(status),
            ..Self::failed(entry, last.unwrap_or("it said nothing").to_owned())
        };
        // A kernel that is refused leaves no result.
        if !result.join(RESULT).exists() {
            return Ok(without);
        }
        let result = Saved::open(result)?.result;
        let machine = result.machine.vm.as_ref();
        let modules = machine.map(|machine| machine.modules.clone()).unwrap_or_default();
        Ok(Self {
            accident: Accident::of(&result),
            transport: machine.map(|machine| machine.transport.name().to_owned()),
            modules_packed_bytes: machine.map_or(0, |machine| machine.modules_packed_bytes),
            modules_bytes: machine.map_or(0, |machine| machine.modules_bytes),
            modules,
            memory_mib: machine.map(|machine| machine.memory_mib),
            boot_ms: result.phases_ms.get(&Phase::Boot).copied(),
            verdict: Some(result.verdict.name().to_owned()),
            ran: RAN.contains(&status),
            release: result.kernel.hello.map(|hello| hello.release),
            reason: result.reason,
            ..without
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = match &self.release {
            Some(release) if !self.kernel.starts_with(release) => {
                format!("{} ({release})", self.kernel)
            }
            _ => self.kernel.clone(),
        };
        write!(
            f,
            "{kernel:<46}{:<10}{:>7}{:>12}{:>12}{:>9}  {:<12}{:>6}",
            or_none(self.transport.clone()),
            self.modules.len(),
            self.modules_packed_bytes.div_ceil(1024),
            number(self.memory_mib),
            number(self.boot_ms),
            or_none(self.verdict.clone()),
            number(self.exit_status.map(u64::from)),
        )?;
        if !self.ran {
            write!(f, "\n    did not run: {}", self.reason)?;
        }
        Ok(())
    }
}

fn or_none(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

fn number(value: Option<u64>) -> String {
    or_none(value.map(|value| value.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kernels::entry::Source;
    use protocol::job::Transport;
    use results::model::{Answer, RunResult};
    use testhost::kernel::{Variant, Wanted};
    use testhost::project;

    fn entry() -> Entry {
        let source = Source::Built { wanted: Wanted::Newest, variant: Variant::Redhat };
        Entry { source, nested: false }
    }

    #[test]
    fn a_row_has_what_the_result_says() {
        let dir = tempfile::tempdir().unwrap();
        let packed = fs::read(project::root().join("results/tests/data/user.json.xz")).unwrap();
        let mut result: RunResult =
            serde_json::from_reader(liblzma::read::XzDecoder::new(&packed[..])).unwrap();
        let machine = result.machine.vm.as_mut().unwrap();
        (machine.transport, machine.memory_mib) = (Transport::Pci, 512);
        machine.modules = vec!["virtio_console".into()];
        (machine.modules_bytes, machine.modules_packed_bytes) = (9000, 3000);
        (result.verdict, result.exit_status) = (Answer::Measured, Some(0));
        result.kernel.hello.as_mut().unwrap().release = "7.3.0".into();
        result.phases_ms.insert(Phase::Boot, 1234);
        let result = serde_json::to_string(&result).unwrap();
        fs::write(dir.path().join(RESULT), result).unwrap();
        let row = Row::of(&entry(), dir.path(), (0, "words\n")).unwrap();
        let text = row.to_string();
        let words: Vec<_> = text.split_whitespace().collect();
        let expected =
            ["newest", "redhat", "(7.3.0)", "pci", "1", "3", "512", "1234", "measured", "0"];
        assert_eq!(words, expected);
        assert!(row.ran);
        assert!(!Row::of(&entry(), dir.path(), (125, "")).unwrap().ran);
    }

    #[test]
    fn a_kernel_that_is_refused_has_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let run = (125, "schedvmm: kernel x: no driver\n\n");
        let row = Row::of(&entry(), dir.path(), run).unwrap();
        let text = row.to_string();
        assert!(text.ends_with("did not run: schedvmm: kernel x: no driver"), "{text}");
        assert!(text.contains(" 125\n"), "{text}");
    }
}
