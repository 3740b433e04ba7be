// SPDX-License-Identifier: Apache-2.0
//! What it takes to load a driver: the main job's boot with a kernel that has the console's driver
//! as a module, against one of the same tree that has it built in.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use results::model::Phase;
use results::saved::Saved;
use serde::{Deserialize, Serialize};

use super::peers::{Peer, SCHEDVMM_PATH};
use super::running::Running;
use crate::median;
use testhost::kernel::{self, Variant, Wanted};

/// Where both lie in the emulated host.
const MODULE: &str = "/kernel-with-module";
const BUILT_IN: &str = "/kernel-built-in";
/// Where a run leaves its result.
const RESULT: &str = "/tmp/bench-modules";

/// Both kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Modules {
    /// Modules that the one loads, in order.
    pub names: Vec<String>,
    /// Their length as they are loaded.
    pub bytes: u64,
    /// Their length in the initrd, packed.
    pub packed_bytes: u64,
    /// With them.
    pub module: Boots,
    /// With all of it built in.
    pub built_in: Boots,
    /// Difference of the median boot times, first less second.
    pub difference_ms: f64,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Boots {
    /// Its release.
    pub release: String,
    /// From the first guest instruction to PID 1 with a console, run by run. Emulation.
    pub boot_ms: Vec<f64>,
    /// The median of them.
    pub median_boot_ms: f64,
}

/// Their files, for the emulated host.
///
/// # Errors
/// They do not build.
pub(super) fn files() -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for (place, variant) in [(MODULE, Variant::Redhat), (BUILT_IN, Variant::Pci)] {
        let image = kernel::ensure_variant(Wanted::default(), variant)?;
        let folder = image.parent().context("an image without a folder")?;
        for (inside, file) in kernel::boot_files(folder)? {
            files.push((format!("{place}/{}", inside.display()), file));
        }
    }
    Ok(files)
}

/// Boots them by turns, in the emulated host.
pub(super) fn compare(runs: u32) -> Result<Modules> {
    let mut results = [Vec::new(), Vec::new()];
    // The first run of each is a warm-up.
    for run in 0..=runs {
        for (folder, results) in [MODULE, BUILT_IN].into_iter().zip(&mut results) {
            let result = boot(folder)?;
            eprintln!("run {run} of {runs}: {folder} {} ms", result.boot_ms);
            if run > 0 {
                results.push(result);
            }
        }
    }
    let [with_modules, without] = results;
    let first = with_modules.first().context("no runs")?;
    let (names, bytes) = (first.modules.clone(), first.modules_bytes);
    let packed_bytes = first.modules_packed_bytes;
    if names.is_empty() || without.first().is_none_or(|boot| !boot.modules.is_empty()) {
        bail!("only the first of both kernels has modules to load, and these were {names:?}");
    }
    let (module, built_in) = (Boots::of(&with_modules)?, Boots::of(&without)?);
    Ok(Modules {
        bytes,
        packed_bytes,
        names,
        difference_ms: module.median_boot_ms - built_in.median_boot_ms,
        module,
        built_in,
    })
}

/// Figures of one run.
struct Boot {
    release: String,
    boot_ms: u64,
    modules: Vec<String>,
    modules_bytes: u64,
    modules_packed_bytes: u64,
}

/// The shortest main job there is.
fn boot(folder: &str) -> Result<Boot> {
    // There is none before the first run.
    let _ = fs::remove_dir_all(RESULT);
    let words = [SCHEDVMM_PATH, "--kernel", folder, "--output", RESULT];
    let short = ["--duration", "100ms", "--threshold", "off", "--trace", "off"];
    let command = words.iter().chain(&short).map(ToString::to_string).collect();
    Running::start(&Peer { name: "schedvmm", command })?.wait(|| {})?;
    let result = Saved::open(Path::new(RESULT))?.result;
    let machine = result.machine.vm.context("a result without a machine")?;
    let hello = result.kernel.hello.context("a result without a release")?;
    let boot_ms = result.phases_ms.get(&Phase::Boot).context("a result without a boot")?;
    Ok(Boot {
        release: hello.release,
        boot_ms: *boot_ms,
        modules: machine.modules,
        modules_bytes: machine.modules_bytes,
        modules_packed_bytes: machine.modules_packed_bytes,
    })
}

impl Boots {
    fn of(boots: &[Boot]) -> Result<Self> {
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of a boot")]
        let boot_ms: Vec<f64> = boots.iter().map(|boot| boot.boot_ms as f64).collect();
        Ok(Self {
            release: boots.first().context("no runs")?.release.clone(),
            median_boot_ms: median(boot_ms.iter().copied()).context("no runs")?,
            boot_ms,
        })
    }
}

impl fmt::Display for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, bytes, packed_bytes, module, built_in, difference_ms } = self;
        write!(
            f,
            "{} as a module, {} KiB, {} KiB packed: {:.0} ms to PID 1, built in {:.0} ms, \
             {difference_ms:+.0} ms (Linux {}, medians of {} runs each)",
            names.join(", "),
            bytes.div_ceil(1024),
            packed_bytes.div_ceil(1024),
            module.median_boot_ms,
            built_in.median_boot_ms,
            module.release,
            module.boot_ms.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_in_the_line() {
        let boot = |boot_ms| Boot {
            release: "6.12.9".into(),
            boot_ms,
            modules: Vec::new(),
            modules_bytes: 0,
            modules_packed_bytes: 0,
        };
        let boots = |all: [u64; 3]| Boots::of(&all.map(boot)).unwrap();
        let (module, built_in) = (boots([2100, 2050, 2200]), boots([2090, 2080, 2000]));
        let text = Modules {
            names: vec!["virtio_console".into()],
            bytes: 50_000,
            packed_bytes: 14_000,
            difference_ms: module.median_boot_ms - built_in.median_boot_ms,
            module,
            built_in,
        }
        .to_string();
        let expected = "virtio_console as a module, 49 KiB, 14 KiB packed: 2100 ms to PID 1, \
                        built in 2080 ms, +20 ms (Linux 6.12.9, medians of 3 runs each)";
        assert_eq!(text, expected);
    }
}
