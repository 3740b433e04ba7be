// SPDX-License-Identifier: Apache-2.0
//! `schedvmm check`: what a kernel has of what measurements need, without booting it.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use vmm::boot_ram::BootRam;
use vmm::config::BootMethod;
use vmm::load;

use crate::kernel::{self, Kernel, Known};
use crate::needs::{self, Finding, Fit, State, Weight};
use crate::status::{ExitStatus, Failure};
use crate::{machine, terminal};

/// More than any kernel needs before it manages memory itself; only what it fills is used.
const MEMORY_MIB: u64 = 1024;

/// What is said of a kernel.
struct Report {
    kernel: Kernel,
    known: Known,
    nested: bool,
    /// Guest memory that the kernel fills before it manages any, initrd not included.
    memory_mib: u64,
    findings: Vec<Finding>,
}

/// Checks the kernel that `named` means, and prints what was found.
///
/// # Errors
/// There is no such kernel, or its file is bad.
pub fn run(named: &Path, nested: bool, json: bool) -> Result<ExitStatus, Failure> {
    let kernel = kernel::open(named)?;
    let mut ram = BootRam::allocate(MEMORY_MIB)?;
    let loaded = load::kernel(&kernel.image, BootMethod::Payload, &mut ram)
        .map_err(|error| machine::build_failure(&kernel.path, error.into()))?;
    let known = kernel.known(loaded.says(&ram), loaded.build_id(&ram));
    let findings = needs::assess(nested, &known, |text| loaded.has(&ram, text.as_bytes()));
    let memory_mib = loaded.range.1.div_ceil(1 << 20);
    let report = Report { kernel, known, nested, memory_mib, findings };
    if json {
        let value = report.json(named);
        terminal::out(&results::json::pretty(&value).map_err(Failure::internal)?);
    } else {
        terminal::out(&report.text());
    }
    Ok(report.status())
}

impl Report {
    fn fit(&self) -> Fit {
        Fit::of(&self.findings)
    }

    fn status(&self) -> ExitStatus {
        match self.fit() {
            Fit::Complete => ExitStatus::Pass,
            Fit::Gaps => ExitStatus::OverThreshold,
            Fit::CannotRun => ExitStatus::Untestable,
        }
    }

    fn lines(&self) -> Vec<String> {
        needs::lines(&self.findings, &self.known)
    }

    fn text(&self) -> String {
        let Self { kernel, known, memory_mib, .. } = self;
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or("not known".into());
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name:<14}{}", terminal::one_line(value));
        };
        row("kernel", &kernel.place());
        row("release", &or_unknown(&known.release));
        row("build ID", &or_unknown(&known.build_id));
        row("configuration", &known.config_place());
        if let Some(modules) = &known.modules {
            row("modules", &modules.place);
        }
        row("memory", &format!("{memory_mib} MiB before it manages its own"));
        known.notes.iter().for_each(|note| row("note", note));
        text.push_str("\nneed            state           without it\n");
        for finding in &self.findings {
            let line = format!(
                "{:<16}{:<16}{}",
                finding.need.name,
                finding.state.name(),
                self.consequence(finding)
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        let lines = self.lines();
        if !lines.is_empty() {
            let _ = write!(text, "\nwhat is missing comes with:\n    {}\n", lines.join("\n    "));
        }
        let kind = if self.nested { "--nested" } else { "the main job" };
        let verdict = match self.fit() {
            Fit::Complete => format!("all is there for {kind}"),
            Fit::Gaps => {
                let is_module = |finding: &Finding| finding.state == State::Module;
                let modules = self.findings.iter().any(is_module);
                let how = if modules { ", with its modules," } else { "," };
                format!("{kind} runs{how} without what is missing or cannot be told")
            }
            Fit::CannotRun => format!("{kind} cannot run"),
        };
        let _ = write!(text, "\nverdict       {verdict}");
        text
    }

    /// What it means that something is not there.
    fn consequence(&self, finding: &Finding) -> String {
        let without = finding.need.without;
        match finding.state {
            State::There => String::new(),
            State::Module => {
                format!("its module is to lie beside it or in --modules, else {without}")
            }
            State::Missing | State::CannotBeTold => match finding.needs_version(self.known.version)
            {
                Some((major, minor)) => format!("{without} (needs Linux {major}.{minor} or later)"),
                None => without.to_owned(),
            },
        }
    }

    fn json(&self, named: &Path) -> serde_json::Value {
        let Self { kernel, known, memory_mib, .. } = self;
        let need = |finding: &Finding| {
            let options = finding.lacking.iter().map(|opt| format!("CONFIG_{}", opt.name));
            json!({
                "name": finding.need.name,
                "required": finding.weight == Weight::Must,
                "state": finding.state,
                "lacking": options.collect::<Vec<_>>(),
                "without": finding.need.without,
            })
        };
        json!({
            "kernel": {
                "named": named.display().to_string(),
                "path": kernel.path.display().to_string(),
                "inside": kernel.inside,
                "release": known.release,
                "banner": known.banner,
                "build_id": known.build_id,
                "config_source": known.config.as_ref().map(|config| config.source.to_string()),
                "modules_source": known.modules.as_ref().map(|modules| &modules.place),
                "memory_mib": memory_mib,
            },
            "nested": self.nested,
            "verdict": self.fit(),
            "exit_status": self.status().code(),
            "needs": self.findings.iter().map(need).collect::<Vec<_>>(),
            "lines": self.lines(),
            "notes": known.notes,
        })
    }
}
