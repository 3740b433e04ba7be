// SPDX-License-Identifier: Apache-2.0
//! `schedvmm check`: what a kernel has of what measurements need, without booting it.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use vmm::boot_ram::BootRam;
use vmm::config::{BootMethod, Transport};
use vmm::load;

use crate::cli::CheckArgs;
use crate::kernel::{self, Kernel, Known};
use crate::modules::{Drivers, Tree};
use crate::needs::{self, Finding, Fit, State, Weight};
use crate::status::{ExitStatus, Failure};
use crate::verbs::measure::nested::Vendor;
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
    loads: Loads,
    /// What a run takes of what it might.
    transport: Transport,
}

/// Modules that a run would load.
#[derive(Default)]
struct Loads {
    /// For virtual machines once for each vendor's half of KVM.
    drivers: Vec<Drivers>,
    /// The vendor on whose hosts none can be loaded, and why; those of the other one can.
    refused: Option<(Vendor, Failure)>,
}

/// Checks the kernel that `args` name, and prints what was found.
///
/// # Errors
/// There is no such kernel, its file is bad, or a module that a run would load on any host.
pub fn run(args: &CheckArgs) -> Result<ExitStatus, Failure> {
    let CheckArgs { nested, json, .. } = *args;
    let kernel = kernel::open(&args.kernel, &args.modules)?;
    let asked = args.transport.asked();
    let loads = Loads::find(&kernel, asked, nested)?;
    let mut ram = BootRam::allocate(MEMORY_MIB)?;
    let loaded = load::kernel(&kernel.image, BootMethod::Payload, &mut ram)
        .map_err(|error| machine::build_failure(&kernel.path, error.into()))?;
    let mut known = kernel.known(loaded.says(&ram), loaded.build_id(&ram), &loads.names());
    known.asked = asked;
    let has = needs::each_once(|text| loaded.has(&ram, text.as_bytes()));
    let findings = needs::assess(nested, &known, &has);
    let belied = needs::belied(nested, &known, &has);
    let contradicted = needs::contradicted(nested, &known, &has);
    known.notes.extend(loads.notes().into_iter().chain(belied).chain(contradicted));
    let memory_mib = loaded.range.1.div_ceil(1 << 20);
    let transport = loaded.transport(&ram, loads.required(), loads.listed());
    let report = Report { kernel, known, nested, memory_mib, findings, loads, transport };
    if json {
        let answer = report.answer(&args.kernel);
        terminal::product(&results::json::pretty(&answer).map_err(Failure::internal)?)?;
    } else {
        terminal::product(&report.text())?;
    }
    Ok(report.status())
}

impl Loads {
    /// For `kernel`.
    ///
    /// # Errors
    /// What is needed cannot be had for any vendor.
    fn find(kernel: &Kernel, asked: Option<Transport>, nested: bool) -> Result<Self, Failure> {
        let (tree, release) = (kernel.tree.as_ref(), kernel.release.as_deref());
        if !nested {
            let drivers = vec![Drivers::choose(tree, asked, None, release)?];
            return Ok(Self { drivers, refused: None });
        }
        let mut loads = Self::default();
        for vendor in [Vendor::Intel, Vendor::Amd] {
            match Drivers::choose(tree, asked, Some(vendor.module()), release) {
                Ok(drivers) => loads.drivers.push(drivers),
                Err(error) => match loads.refused.take() {
                    Some((_, first)) => return Err(first),
                    None => loads.refused = Some((vendor, error.into())),
                },
            }
        }
        Ok(loads)
    }

    /// Names of all of them, each once.
    fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for name in self.drivers.iter().flat_map(|drivers| drivers.modules.names()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// What they take of an initrd, on a host of the vendor that takes more.
    fn packed_bytes(&self) -> usize {
        let of_vendors = self.drivers.iter().map(|drivers| drivers.modules.packed_bytes());
        of_vendors.map(|modules| modules.map(|(_, bytes)| bytes).sum()).max().unwrap_or(0)
    }

    /// The need that is not met because its module is no good.
    fn refused_need(&self) -> Option<&'static str> {
        let (vendor, _) = self.refused.as_ref()?;
        Some(match vendor {
            Vendor::Intel => needs::ON_INTEL,
            Vendor::Amd => needs::ON_AMD,
        })
    }

    /// What a reader should know of modules that are no good.
    fn notes(&self) -> Vec<String> {
        let refused = self.refused.iter().zip(self.refused_need());
        let refused = refused.map(|((_, failure), need)| format!("{need}: {failure}"));
        // The same of each vendor.
        let passed_over = self.drivers.first().and_then(|drivers| drivers.passed_over.clone());
        refused.chain(passed_over).collect()
    }

    fn required(&self) -> Option<Transport> {
        self.drivers.first().and_then(Drivers::required)
    }

    fn listed(&self) -> Option<Transport> {
        self.drivers.first().and_then(Drivers::listed)
    }
}

impl Report {
    fn fit(&self) -> Fit {
        Fit::of(&self.findings)
    }

    /// The transport of a run; `None` where nothing tells that the kernel has a driver for one.
    fn transport(&self) -> Option<Transport> {
        let has_none = self.findings.iter().any(|finding| {
            finding.need.name == needs::DEVICES
                && (finding.state.is_off()
                    || finding
                        .lacking
                        .iter()
                        .any(|opt| opt.module == Some(self.transport.module())))
        });
        (!has_none).then_some(self.transport)
    }

    /// Where the modules that are loaded come from.
    fn loads_from(&self) -> Option<&str> {
        self.loads.drivers.iter().find_map(|drivers| drivers.modules.from())
    }

    fn status(&self) -> ExitStatus {
        match self.fit() {
            Fit::Complete => ExitStatus::Pass,
            Fit::Gaps | Fit::CannotBeTold => ExitStatus::OverThreshold,
            Fit::CannotRun => ExitStatus::Untestable,
        }
    }

    fn lines(&self) -> Vec<String> {
        needs::lines(&self.findings, &self.known)
    }

    fn text(&self) -> String {
        let Self { kernel, known, memory_mib, .. } = self;
        let mut text = String::new();
        row("kernel", &kernel.place(), &mut text);
        row("release", &or_unknown(&known.release), &mut text);
        row("build ID", &or_unknown(&known.build_id), &mut text);
        row("configuration", &known.config_place(), &mut text);
        if let Some(modules) = known.modules.as_ref().filter(|modules| !modules.is_empty()) {
            row("modules", &modules.place, &mut text);
        }
        if let Some(from) = self.loads_from() {
            row("loads", &format!("{}, from {from}", known.loaded.join(", ")), &mut text);
            let kib = self.loads.packed_bytes().div_ceil(1024);
            let halves = if self.loads.drivers.len() > 1 { ", one half of KVM" } else { "" };
            row("packed", &format!("{kib} KiB of them in the initrd{halves}"), &mut text);
        }
        let transport = self.transport().map_or("not known".to_owned(), |one| one.to_string());
        row("transport", &transport, &mut text);
        row("memory", &format!("{memory_mib} MiB before it manages its own"), &mut text);
        known.notes.iter().for_each(|note| row("note", note, &mut text));
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
                let how = if self.known.loaded.is_empty() { "," } else { ", with its modules," };
                format!("{kind} runs{how} without what is missing or cannot be told")
            }
            Fit::CannotBeTold => {
                let open = self.findings.iter().filter(|finding| finding.is_open());
                let open: Vec<_> = open.map(|finding| finding.need.name).collect();
                format!("nothing says that {kind} cannot run; {} cannot be told", open.join(", "))
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
            State::Loaded => "its module is loaded first".to_owned(),
            State::Module if self.loads.refused_need() == Some(finding.need.name) => {
                format!("its module is no good (see the note): {without}")
            }
            State::Module if finding.lacking.iter().all(|opt| opt.module.is_none()) => {
                format!("a module only, which a run does not load: {without}")
            }
            State::Module | State::NotBuiltIn => match (self.named_modules(), finding.state) {
                (Some(place), _) => format!("its module is not in {place}: {without}"),
                (None, State::Module) => {
                    format!("its module is not found: give --modules, else {without}")
                }
                (None, _) => format!("give --modules if it is a module, else {without}"),
            },
            State::Missing | State::CannotBeTold => {
                let told = if finding.state == State::Missing { "" } else { "if it is missing: " };
                let later = finding
                    .needs_version(self.known.version)
                    .map(|(major, minor)| format!(" (needs Linux {major}.{minor} or later)"));
                format!("{told}{without}{}", later.unwrap_or_default())
            }
        }
    }

    /// Where the user has named modules.
    fn named_modules(&self) -> Option<String> {
        self.kernel.tree.as_ref().and_then(Tree::named_place)
    }

    fn answer<'a>(&'a self, named: &Path) -> Answer<'a> {
        let Self { kernel, known, memory_mib, .. } = self;
        Answer {
            schema: SCHEMA,
            kernel: Looked {
                named: named.display().to_string(),
                path: kernel.path.display().to_string(),
                inside: &kernel.inside,
                release: known.release.as_deref(),
                banner: known.banner.as_deref(),
                build_id: known.build_id.as_deref(),
                config_source: known.config.as_ref().map(|config| config.source.to_string()),
                modules_source: known.modules.as_ref().map(|modules| modules.place.as_str()),
                loads: &known.loaded,
                loads_from: self.loads_from(),
                loads_packed_bytes: self.loads.packed_bytes(),
                transport: self.transport().map(Transport::name),
                memory_mib: *memory_mib,
            },
            nested: self.nested,
            verdict: self.fit(),
            exit_status: self.status().code(),
            needs: self.findings.iter().map(Answered::of).collect(),
            lines: self.lines(),
            notes: &known.notes,
        }
    }
}

/// Version of what `--json` prints.
const SCHEMA: &str = "schedvmm-check/1";

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    schema: &'static str,
    kernel: Looked<'a>,
    nested: bool,
    verdict: Fit,
    exit_status: u8,
    needs: Vec<Answered>,
    /// Of a configuration that has what is missing.
    lines: Vec<String>,
    notes: &'a [String],
}

/// The kernel that was looked at.
#[derive(Serialize)]
struct Looked<'a> {
    named: String,
    path: String,
    inside: &'a [String],
    release: Option<&'a str>,
    banner: Option<&'a str>,
    build_id: Option<&'a str>,
    config_source: Option<String>,
    modules_source: Option<&'a str>,
    loads: &'a [String],
    loads_from: Option<&'a str>,
    /// What they take of an initrd.
    loads_packed_bytes: usize,
    transport: Option<&'static str>,
    memory_mib: u64,
}

/// What is needed, and whether it is there.
#[derive(Serialize)]
struct Answered {
    name: &'static str,
    required: bool,
    state: State,
    /// Lines of the configuration that it has not.
    lacking: Vec<String>,
    /// What it means where it is missing.
    without: &'static str,
}

impl Answered {
    fn of(finding: &Finding) -> Self {
        let lacking = finding.lacking.iter().map(|opt| format!("CONFIG_{}", opt.name));
        Self {
            name: finding.need.name,
            required: finding.weight == Weight::Must,
            state: finding.state,
            lacking: lacking.collect(),
            without: finding.need.without,
        }
    }
}

fn or_unknown(text: &Option<String>) -> String {
    text.clone().unwrap_or("not known".into())
}

fn row(name: &str, value: &str, text: &mut String) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{name:<14}{}", terminal::one_line(value));
}
