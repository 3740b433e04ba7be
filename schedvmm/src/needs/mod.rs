// SPDX-License-Identifier: Apache-2.0
//! Requirements of measurements on a kernel: one table, by which kernels are checked, and from
//! which the fragment is made that brings all of it.

mod table;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use vmm::config::Transport;

pub use self::table::{DEVICES, NEEDS, Need, ON_AMD, ON_INTEL, Opt, Version, Wanted, Weight};
use crate::kernel::Known;
use crate::modules::{self, Driver};

/// Whether a kernel has what is needed; in order of how good that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has not.
    Missing,
    /// Not built in; whether it is a module, nothing tells.
    NotBuiltIn,
    /// As a module only, which a run does not load.
    Module,
    /// Nothing tells.
    CannotBeTold,
    /// As a module, which a run loads first.
    Loaded,
    /// It has.
    There,
}

impl State {
    /// For a reader.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotBuiltIn => "not built in",
            Self::CannotBeTold => "cannot be told",
            Self::Module => "module",
            Self::Loaded => "loaded",
            Self::There => "there",
        }
    }

    /// True if a run does not have it.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Missing | Self::NotBuiltIn | Self::Module)
    }

    /// True if a run has it.
    pub fn is_met(self) -> bool {
        matches!(self, Self::Loaded | Self::There)
    }
}

/// A need, and what a kernel has of it.
#[derive(Debug)]
pub struct Finding {
    /// The need.
    pub need: &'static Need,
    /// Degree of need.
    pub weight: Weight,
    /// Whether it is met.
    pub state: State,
    /// Options that are missing, modules, or that nothing tells of.
    pub lacking: Vec<&'static Opt>,
}

impl Finding {
    /// True if a run is impossible without.
    fn is_fatal(&self) -> bool {
        self.weight == Weight::Must && self.state.is_off()
    }

    /// True if a run is impossible without, and nothing tells whether it is there.
    pub fn is_open(&self) -> bool {
        self.weight == Weight::Must && self.state == State::CannotBeTold
    }

    /// True if a figure of a run depends on it, and it is not there.
    fn is_told(&self) -> bool {
        // The run is on one vendor's host, and needs no other.
        let is_of_a_vendor = [table::ON_INTEL, table::ON_AMD].contains(&self.need.name);
        self.state.is_off() && !is_of_a_vendor && !table::ON_REQUEST.contains(&self.need.name)
    }

    /// The version that a kernel must have for it, where this one is older.
    pub fn needs_version(&self, version: Option<Version>) -> Option<Version> {
        let newer = self.lacking.iter().filter_map(|opt| opt.from);
        newer.filter(|from| version.is_some_and(|version| version < *from)).max()
    }
}

/// Summary of all findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// All is there.
    Complete,
    /// It runs, and something is missing or cannot be told.
    Gaps,
    /// Whether it has all that it cannot run without, nothing tells; nothing says that it has not.
    CannotBeTold,
    /// It cannot run.
    CannotRun,
}

impl Fit {
    /// Of these.
    pub fn of(findings: &[Finding]) -> Self {
        if findings.iter().any(Finding::is_fatal) {
            Self::CannotRun
        } else if findings.iter().any(Finding::is_open) {
            Self::CannotBeTold
        } else if findings.iter().all(|finding| finding.state.is_met()) {
            Self::Complete
        } else {
            Self::Gaps
        }
    }
}

/// The same answers, each text looked for once: that is a search through all of an image.
pub fn each_once(has: impl Fn(&str) -> Option<bool>) -> impl Fn(&str) -> Option<bool> {
    let known = RefCell::new(BTreeMap::new());
    move |text| *known.borrow_mut().entry(text.to_owned()).or_insert_with(|| has(text))
}

/// What a kernel has of all that a run needs; `has` tells whether a text is in its image, if it
/// can be looked into.
pub fn assess(nested: bool, known: &Known, has: impl Fn(&str) -> Option<bool>) -> Vec<Finding> {
    let needed = NEEDS.iter().filter(|need| weight(need, nested) != Weight::No);
    needed.map(|need| finding(need, &has, nested, known)).collect()
}

fn weight(need: &Need, nested: bool) -> Weight {
    if nested { need.nested } else { need.main }
}

fn finding(
    need: &'static Need,
    has: &impl Fn(&str) -> Option<bool>,
    nested: bool,
    known: &Known,
) -> Finding {
    let ways = need.ways.iter().filter(|way| is_asked_for(way, known.asked)).map(|way| {
        let states = way.iter().map(|opt| (opt, state(opt, known, has)));
        let states: Vec<_> = states.collect();
        let worst = states.iter().map(|(_, state)| *state).min().unwrap_or(State::There);
        let lacking = states.into_iter().filter(|(_, state)| !state.is_met());
        (worst, lacking.map(|(opt, _)| opt).collect::<Vec<_>>())
    });
    // Of ways that are as good, the first.
    let best = ways.reduce(|best, way| if way.0 > best.0 { way } else { best });
    // Wherever its configuration was found, it is known.
    let best = best.filter(|_| need.name != table::CONFIGURATION || known.config.is_none());
    let (state, lacking) = best.unwrap_or((State::There, Vec::new()));
    Finding { need, weight: weight(need, nested), state, lacking }
}

/// Whether this way is one of the transport that is asked for, or of none.
fn is_asked_for(way: &[Opt], asked: Option<Transport>) -> bool {
    let other = Transport::ALL.into_iter().find(|one| asked.is_some_and(|asked| asked != *one));
    other.is_none_or(|other| way.iter().all(|opt| opt.module != Some(other.module())))
}

/// What is to be said of lists that have drivers built in which are not in the image, if no
/// configuration knows better.
pub fn belied(nested: bool, known: &Known, has: impl Fn(&str) -> Option<bool>) -> Option<String> {
    let lists = known.modules.as_ref().filter(|_| known.config.is_none())?;
    let needed = NEEDS.iter().filter(|need| weight(need, nested) != Weight::No);
    let mut drivers = Vec::new();
    for opt in needed.flat_map(|need| need.ways).copied().flatten() {
        let is_listed = opt.module.is_some_and(|name| lists.driver(name) == Driver::BuiltIn);
        if is_listed && opt.text.and_then(&has) == Some(false) {
            drivers.extend(opt.module.filter(|name| !drivers.contains(name)));
        }
    }
    (!drivers.is_empty()).then(|| modules::belied(&lists.place, &drivers.join(", ")))
}

/// Whether an option is on: by the configuration if it is known, else by the kernel's version, by
/// what lists the modules, or by texts in the image. A kernel may have what came later than its
/// version: its configuration goes before that. Texts that every image has prove nothing, and are not
/// looked for.
fn state(opt: &Opt, known: &Known, has: impl Fn(&str) -> Option<bool>) -> State {
    if is_since(opt.always_from, known.version) {
        return State::There;
    }
    if opt.module.is_some_and(|module| known.loaded.iter().any(|loaded| loaded == module)) {
        return State::Loaded;
    }
    match (opt.name, &known.banner) {
        // What has no 64-bit entry point is no kernel for us.
        ("64BIT", _) => return State::There,
        ("SMP", Some(banner)) if banner.contains(" SMP") => return State::There,
        ("SMP", Some(_)) => return State::Missing,
        _ => {}
    }
    if let Some(config) = &known.config {
        return by_config(opt, config.value(opt.name), known.version, opt.text.and_then(has));
    }
    if opt.wanted != Wanted::On {
        return State::CannotBeTold;
    }
    if opt.from.is_some() && known.version.is_some() && !is_since(opt.from, known.version) {
        return State::Missing;
    }
    let driver = opt.module.and_then(|name| Some(known.modules.as_ref()?.driver(name)));
    let in_image = opt.text.and_then(has);
    match (driver, in_image) {
        // The list may be of another build; the image is what runs.
        (Some(Driver::BuiltIn), Some(false)) => State::NotBuiltIn,
        (Some(Driver::BuiltIn), _) | (_, Some(true)) => State::There,
        (Some(Driver::Module), _) => State::Module,
        (Some(Driver::Absent), _) => State::Missing,
        (_, Some(false)) if opt.module.is_some() => State::NotBuiltIn,
        (_, Some(false)) => State::Missing,
        (Some(Driver::NotBuiltIn | Driver::NotTold) | None, None) => State::CannotBeTold,
    }
}

/// The same by what the configuration has it as, and whether its text is in the image: the file may be
/// of another build, and the image is what runs.
fn by_config(
    opt: &Opt,
    value: Option<&str>,
    version: Option<Version>,
    in_image: Option<bool>,
) -> State {
    let met = |is_met| if is_met { State::There } else { State::Missing };
    match (opt.wanted, value) {
        (Wanted::Off, value) => met(value != Some("y")),
        (Wanted::AtLeast(least), value) => {
            met(value.is_none_or(|number| number.parse().is_ok_and(|is: u32| is >= least)))
        }
        (Wanted::On, _) if in_image == Some(true) => State::There,
        (Wanted::On, Some("y")) if in_image == Some(false) => State::CannotBeTold,
        (Wanted::On, Some("y")) => State::There,
        (Wanted::On, Some("m")) => State::Module,
        // An older one has it always on, perhaps.
        (Wanted::On, None) if opt.always_from.is_some() && version.is_none() => State::CannotBeTold,
        (Wanted::On, _) => State::Missing,
    }
}

/// What is to be said of a configuration that has drivers built in which are not in the image, or the
/// other way round.
pub fn contradicted(
    nested: bool,
    known: &Known,
    has: impl Fn(&str) -> Option<bool>,
) -> Option<String> {
    let config = known.config.as_ref()?;
    // Where the image has a configuration of its own, that is the one.
    let needed = NEEDS
        .iter()
        .filter(|need| weight(need, nested) != Weight::No && need.name != table::CONFIGURATION);
    let mut names = Vec::new();
    for opt in needed.flat_map(|need| need.ways).copied().flatten() {
        let is_on = config.value(opt.name) == Some("y");
        if opt.text.and_then(&has).is_some_and(|is| is != is_on) && !names.contains(&opt.name) {
            names.push(opt.name);
        }
    }
    (!names.is_empty()).then(|| {
        format!(
            "{} is of another build than the kernel: of {} the image tells otherwise",
            config.source,
            names.iter().map(|name| format!("CONFIG_{name}")).collect::<Vec<_>>().join(", ")
        )
    })
}

fn is_since(from: Option<Version>, version: Option<Version>) -> bool {
    from.is_some_and(|from| version.is_some_and(|version| version >= from))
}

/// What a run is done without that its figures depend on, for its result; nothing where all of that
/// is there that can be told.
pub fn note(findings: &[Finding]) -> Option<String> {
    let missing: Vec<_> =
        findings.iter().filter(|it| it.is_told()).map(|it| it.need.name).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "this kernel is measured without: {} (`schedvmm check` says what that means)",
            missing.join(", ")
        )
    })
}

/// Lines for a .config that would bring what is missing, or only a module; each once.
pub fn lines(findings: &[Finding], known: &Known) -> Vec<String> {
    let missing = findings.iter().filter(|finding| finding.state.is_off());
    let mut lines = Vec::new();
    for opt in missing.flat_map(|finding| &finding.lacking) {
        // No line brings what came later.
        if opt.from.is_none_or(|from| known.version.is_none_or(|version| version >= from)) {
            add_lines(opt, &mut lines);
        }
    }
    if let Some(config) = known.options() {
        lines.retain(|line| {
            line.split_once('=')
                .is_none_or(|(name, value)| config.get(name).is_none_or(|is| is != value))
        });
    }
    lines
}

fn add_lines(opt: &Opt, lines: &mut Vec<String>) {
    for name in opt.to_set() {
        let line = match opt.wanted {
            Wanted::On => format!("CONFIG_{name}=y"),
            Wanted::Off => format!("# CONFIG_{name} is not set"),
            Wanted::AtLeast(number) => format!("CONFIG_{name}={number}"),
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
}

/// What to merge into a configuration, so that the kernel has all that a run needs.
pub fn fragment(nested: bool) -> String {
    let kind = if nested { " --nested" } else { "" };
    let mut text = format!(
        "# What schedvmm needs of a kernel. In a kernel's source tree:\n\
         #     make defconfig\n\
         #     schedvmm config{kind} > schedvmm.config\n\
         #     scripts/kconfig/merge_config.sh .config schedvmm.config\n"
    );
    let mut seen = Vec::new();
    for need in NEEDS.iter() {
        if need.main == Weight::No && !nested {
            continue;
        }
        // With several ways, each has a need of its own, too.
        let mut lines = seen.clone();
        let opts = need.ways.first().into_iter().copied().flatten();
        // A configuration that has more than enough of something keeps it.
        let opts = opts.filter(|opt| !matches!(opt.wanted, Wanted::AtLeast(_)));
        let mut versions = String::new();
        for opt in opts {
            add_lines(opt, &mut lines);
            // Writing to a String does not fail.
            let _ = match (opt.from, opt.always_from) {
                (Some((major, minor)), _) => {
                    writeln!(versions, "# {}: Linux {major}.{minor} and later", opt.name)
                }
                (_, Some((major, minor))) => {
                    writeln!(versions, "# {}: always on from Linux {major}.{minor} on", opt.name)
                }
                _ => Ok(()),
            };
        }
        let new = lines.split_off(seen.len());
        if new.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "\n# {}; without: {}\n{versions}{}\n",
            need.name,
            need.without,
            new.join("\n")
        );
        seen.extend(new);
    }
    text
}

#[cfg(test)]
mod tests;
