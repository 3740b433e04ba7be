// SPDX-License-Identifier: Apache-2.0
//! Scheduler tunables by intent.
//!
//! Tunables moved twice: from /proc/sys/kernel to debugfs in 5.13 (8a99b6833c88), and CFS's own
//! ones went away with EEVDF in 6.6 (147f3efaa241, 5e963f2bd465). A request says what is
//! meant; the first file of the table that this kernel has gets it, and every request is
//! reported with what became of it.

pub(in crate::kernel) mod table;

use std::path::{Path, PathBuf};
use std::{fs, io};

use protocol::duration;
use protocol::error::Owner;
use protocol::message::TunableReport;
use protocol::tunable::{TunableName, TuneRequest};
use thiserror::Error;

use crate::kernel::files::write_file;
use crate::kernel::obstacle::Obstacle;
use crate::kernel::tunables::table::{
    BASE_SLICE, DURATION, FEATURES, NO_CFS_TUNABLE, NO_FEATURES, ON_OFF, TUNABLES, Unit,
    WHOLE_MICROSECONDS,
};

/// Why a request makes no sense on any kernel.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TunableError {
    /// The value is not of the tunable's kind.
    #[error("`{value}` is no value for tunable `{name}`; it takes {takes}")]
    Value {
        /// The tunable.
        name: TunableName,
        /// What was asked for.
        value: String,
        /// What it takes.
        takes: &'static str,
    },
    /// The user asked for it, and it is not in force.
    #[error("`--tune {request}` is not in force: {why}")]
    NotInForce {
        /// What was asked for.
        request: String,
        /// Why.
        why: String,
        /// Its owner, where that is not the kernel for certain.
        owner: Owner,
    },
}

/// The original's settings, as far as a kernel keeps them, and the kernel's own statistics.
pub fn default_tune() -> Vec<TuneRequest> {
    // Scaling first: setting it recomputes the others.
    [
        (TunableName::Scaling, "0"),
        (TunableName::Latency, "30ms"),
        (TunableName::Slice, "1.875ms"),
        (TunableName::BandwidthSlice, "100us"),
        (TunableName::Hrtick, "on"),
        // Forced idle time is counted only with these.
        (TunableName::Schedstats, "on"),
    ]
    .map(|(name, value)| TuneRequest { name, value: value.into(), required: false })
    .into()
}

/// Whether a request makes sense: so that the launcher can refuse it before it boots.
pub fn check(request: &TuneRequest) -> Result<(), TunableError> {
    Change::of(request).map(|_| ())
}

/// Switches autogroup off, then applies all requests in order.
///
/// Autogroup would give each session the same share, whatever the load's groups are.
///
/// # Errors
/// A request that makes no sense, or one of the user's that is not in force.
pub fn apply_all(
    root: &Path,
    requests: &[TuneRequest],
) -> Result<Vec<TunableReport>, TunableError> {
    let autogroup =
        TuneRequest { name: TunableName::Autogroup, value: "off".into(), required: false };
    let requests = [&autogroup].into_iter().chain(requests);
    requests.map(|request| Change::of(request)?.apply(root, request).report(request)).collect()
}

/// Files, and what to write to them.
pub type Before = Vec<(PathBuf, String)>;

/// Applies requests in order on a machine that others use too: what was there before comes
/// back with the second value, newest first.
///
/// # Errors
/// As [`apply_all`]; then nothing has changed.
pub fn apply_for_a_while(
    root: &Path,
    requests: &[TuneRequest],
) -> Result<(Vec<TunableReport>, Before), TunableError> {
    let (mut reports, mut before) = (Vec::new(), Vec::new());
    for request in requests {
        let change = Change::of(request)?;
        let old = change.files.iter().map(|file| root.join(file)).find(|path| path.exists());
        let old = old.and_then(|path| Some((path.clone(), change.read_back(&path).ok()?)));
        let applied = change.apply(root, request);
        before.extend(old.filter(|(_, old)| applied.report.effective.as_ref() != Some(old)));
        match applied.report(request) {
            Ok(report) => reports.push(report),
            Err(error) => {
                // Best effort: what cannot be written now could not be a moment ago.
                before.iter().rev().for_each(|(path, old)| drop(write_file(path, old)));
                return Err(error);
            }
        }
    }
    before.reverse();
    Ok((reports, before))
}

/// What became of a request.
struct Applied {
    report: TunableReport,
    /// The owner of what keeps it from being in force, where the report says that.
    owner: Owner,
}

impl Applied {
    /// The report, unless the user asked for what is not in force.
    fn report(self, request: &TuneRequest) -> Result<TunableReport, TunableError> {
        let Self { report, owner } = self;
        match &report.note {
            Some(why) if request.required => {
                Err(TunableError::NotInForce { request: report.request, why: why.clone(), owner })
            }
            _ => Ok(report),
        }
    }
}

/// What to write where.
struct Change {
    files: &'static [&'static str],
    absent: &'static str,
    text: String,
    /// The feature that the text switches, if it is one.
    feature: Option<String>,
}

impl Change {
    fn of(request: &TuneRequest) -> Result<Self, TunableError> {
        let TuneRequest { name, value, .. } = request;
        if let TunableName::Feature(feature) = name {
            return Self::feature(request, feature, FEATURES, NO_FEATURES);
        }
        // The table has all of them, as a test says.
        let tunable = TUNABLES.iter().find(|tunable| tunable.name == *name);
        let tunable = tunable.ok_or_else(|| bad_value(request, "nothing"))?;
        let (text, takes) = match tunable.unit {
            Unit::Feature(feature) => {
                return Self::feature(request, feature, tunable.files, tunable.absent);
            }
            Unit::Nanoseconds => (time_ns(value).map(|ns| ns.to_string()), DURATION),
            Unit::Microseconds => (whole_us(value), WHOLE_MICROSECONDS),
            Unit::Number => (value.parse::<u32>().ok().map(|n| n.to_string()), "a number"),
            Unit::Words(takes, words) => (lookup(words, value), takes),
            Unit::Text => {
                let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric());
                (plain.then(|| value.clone()), "a word the kernel knows")
            }
        };
        let text = text.ok_or_else(|| bad_value(request, takes))?;
        Ok(Self { files: tunable.files, absent: tunable.absent, text, feature: None })
    }

    fn feature(
        request: &TuneRequest,
        feature: &str,
        files: &'static [&'static str],
        absent: &'static str,
    ) -> Result<Self, TunableError> {
        let state =
            lookup(ON_OFF, &request.value).ok_or_else(|| bad_value(request, "on or off"))?;
        let text = if state == "1" { feature.to_owned() } else { format!("NO_{feature}") };
        Ok(Self { files, absent, text, feature: Some(feature.to_owned()) })
    }

    fn apply(&self, root: &Path, request: &TuneRequest) -> Applied {
        let mut report = TunableReport {
            request: format!("{}={}", request.name, request.value),
            ..Default::default()
        };
        let mut obstacles = Vec::new();
        for file in self.files {
            match fs::metadata(root.join(file)) {
                Ok(_) => return self.write(root, file, report),
                Err(error) => obstacles.push(Obstacle::below(root, Path::new(file), &error)),
            }
        }
        // One that could be there is no evidence of a kernel that has none.
        let hidden = obstacles.iter().find(|obstacle| !obstacle.is_absence());
        let (why, owner) = match hidden.or_else(|| {
            obstacles.iter().find(|obstacle| matches!(obstacle, Obstacle::NoFileSystem { .. }))
        }) {
            Some(obstacle) => (format!("not set: {obstacle}"), obstacle.owner()),
            None if self.absent == NO_CFS_TUNABLE && root.join(BASE_SLICE).exists() => {
                ("absent: CFS only, and this kernel has EEVDF".into(), Owner::Kernel)
            }
            None => (format!("absent: {}", self.absent), Owner::Kernel),
        };
        report.note = Some(why);
        Applied { report, owner }
    }

    /// Writes the file of this kernel, and reads it back.
    fn write(&self, root: &Path, file: &str, mut report: TunableReport) -> Applied {
        let path = root.join(file);
        let written = write_file(&path, &self.text);
        report.file = Some(PathBuf::from("/").join(file).display().to_string());
        let read = self.read_back(&path);
        report.effective = read.as_ref().ok().cloned();
        let (note, owner) = match (written, read) {
            (Err(error), _) => {
                let obstacle = Obstacle::below(root, Path::new(file), &error);
                (Some(self.refused(&error, &obstacle)), obstacle.owner())
            }
            (Ok(()), Err(error)) => {
                let obstacle = Obstacle::below(root, Path::new(file), &error);
                (Some(format!("its effect cannot be read back: {obstacle}")), obstacle.owner())
            }
            (Ok(()), Ok(effective)) => {
                let differs = effective != self.text;
                (
                    differs.then(|| format!("the kernel made {effective} of {}", self.text)),
                    Owner::Kernel,
                )
            }
        };
        report.note = note;
        Applied { report, owner }
    }

    fn refused(&self, error: &io::Error, obstacle: &Obstacle) -> String {
        match (&self.feature, error.raw_os_error()) {
            (Some(feature), Some(libc::EINVAL)) => {
                format!("absent: this kernel has no scheduler feature {feature}")
            }
            _ => format!("not set to {}: {obstacle}", self.text),
        }
    }

    fn read_back(&self, path: &Path) -> io::Result<String> {
        let text = fs::read_to_string(path)?;
        let mut words = text.split_ascii_whitespace();
        let word = if let Some(feature) = &self.feature {
            words.find(|word| word.strip_prefix("NO_").unwrap_or(word) == feature)
        } else {
            // A choice of several marks the one in use: `none voluntary (full) lazy`.
            let marked = words.clone().find_map(|word| word.strip_prefix('(')?.strip_suffix(')'));
            marked.or_else(|| words.next())
        };
        word.map(str::to_owned).ok_or_else(|| io::Error::other("it does not say"))
    }
}

fn bad_value(request: &TuneRequest, takes: &'static str) -> TunableError {
    TunableError::Value { name: request.name.clone(), value: request.value.clone(), takes }
}

fn lookup(words: &[(&str, &str)], value: &str) -> Option<String> {
    words.iter().find(|(word, _)| *word == value).map(|(_, number)| (*number).to_owned())
}

fn whole_us(value: &str) -> Option<String> {
    let ns = time_ns(value)?;
    ns.is_multiple_of(1000).then(|| (ns / 1000).to_string())
}

/// A time with its unit, exactly.
fn time_ns(text: &str) -> Option<u64> {
    u64::try_from(duration::parse(text).ok()?.as_nanos()).ok()
}

#[cfg(test)]
mod tests;
