// SPDX-License-Identifier: Apache-2.0
//! Whose KVM is used: this machine's own where it can run Linux, else the emulated host's; or the
//! one that was asked for.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::host::{Simulated, Smt, Vendor};
use crate::process;

/// `schedvmm probe` needs a second at most.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// Where virtual machines run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Venue {
    /// On this machine's own KVM.
    Own,
    /// In the emulated host: because this machine's own will not do, for this reason, or as was
    /// asked for.
    Emulated(Option<String>),
    /// In the simulated host, as was asked for.
    Simulated(Simulated),
}

/// Where to run something, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    /// On this machine.
    This,
    /// In QEMU: AMD's virtualization, no hyperthreads, and times that say nothing.
    Emulated,
    /// In Bochs: Intel's virtualization, hyperthreads, and times that are those of a slow machine.
    Simulated,
}

/// Options of a command line about the machine to run something in.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct MachineOptions {
    /// Where to run.
    #[arg(long, value_enum, value_name = "VENUE")]
    pub venue: Option<Place>,
    /// Whose virtualization the simulated host's CPUs have: intel without this. The emulated host's
    /// have AMD's.
    #[arg(long, value_enum, value_name = "VENDOR")]
    pub cpu: Option<Vendor>,
    /// Cores and hyperthreads of the simulated host; 2x2 without this.
    #[arg(long, value_name = "CORESxTHREADS")]
    pub smt: Option<Smt>,
    /// Instructions of each CPU of the simulated host in a second of its own time; 50000000
    /// without this. With more of them its latencies are shorter, and its runs longer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10_000_000..=1_000_000_000))]
    pub ips: Option<u32>,
    /// What random numbers in the simulated host begin with, 0 without this: a run with the same
    /// is the same, and with another it differs by chance.
    #[arg(long, value_name = "N")]
    pub host_seed: Option<u64>,
}

impl MachineOptions {
    /// The simulated machine, if the place is that one.
    ///
    /// # Errors
    /// An option shapes a machine that the place has not.
    pub fn simulated(&self, place: Place) -> Result<Option<Simulated>> {
        let Self { venue: _, cpu, smt, ips, host_seed } = *self;
        if place == Place::Simulated {
            let default = Simulated::default();
            return Ok(Some(Simulated {
                vendor: cpu.unwrap_or(default.vendor),
                smt: smt.unwrap_or(default.smt),
                ips: ips.unwrap_or(default.ips),
                seed: host_seed.unwrap_or(default.seed),
                ..default
            }));
        }
        if place == Place::Emulated && cpu == Some(Vendor::Intel) {
            bail!(
                "`--cpu intel` needs the simulated host: QEMU emulates AMD's virtualization only; \
                 use `--venue simulated`"
            );
        }
        if place == Place::This && cpu.is_some() {
            bail!("`--cpu` chooses the CPUs of a simulated host; use `--venue simulated`");
        }
        if smt.is_some() || ips.is_some() || host_seed.is_some() {
            bail!(
                "`--smt`, `--ips` and `--host-seed` shape a simulated host; use `--venue simulated`"
            );
        }
        Ok(None)
    }
}

impl Venue {
    /// What was asked for, or without that what `schedvmm` says of this machine's KVM.
    ///
    /// # Errors
    /// `schedvmm` does not run, or an option does not fit the place.
    pub fn choose(options: &MachineOptions, schedvmm: &Path) -> Result<Self> {
        let venue = match options.venue {
            None => Self::detect(schedvmm)?,
            Some(Place::This) => Self::Own,
            Some(Place::Emulated) => Self::Emulated(None),
            Some(Place::Simulated) => {
                return Ok(Self::Simulated(
                    options.simulated(Place::Simulated)?.unwrap_or_default(),
                ));
            }
        };
        let place = if venue == Self::Own { Place::This } else { Place::Emulated };
        options.simulated(place)?;
        Ok(venue)
    }

    /// Asks `schedvmm` whether this machine's KVM can run Linux.
    pub fn detect(schedvmm: &Path) -> Result<Self> {
        let mut probe = Command::new("sh");
        // Both streams in one, whichever the reason is on.
        probe.args(["-c", "exec \"$0\" probe 2>&1"]).arg(schedvmm);
        let (status, text) = process::capture(&mut probe, PROBE_DEADLINE)?;
        if status.success() {
            return Ok(Self::Own);
        }
        let reason = text.lines().find(|line| !line.trim().is_empty()).map(str::trim);
        Ok(Self::Emulated(Some(reason.map_or_else(|| status.to_string(), String::from))))
    }
}

impl fmt::Display for Venue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("KVM: this machine's own"),
            Self::Emulated(reason) => {
                f.write_str(
                    "KVM: an emulated host's; latencies from emulation are not measurements",
                )?;
                reason.iter().try_for_each(|reason| {
                    write!(f, "\n  (this machine's own KVM will not do: {reason})")
                })
            }
            Self::Simulated(Simulated { vendor, smt, ips, .. }) => write!(
                f,
                "KVM: a simulated host's ({vendor}, {smt} CPUs of {} million instructions a second); \
                 latencies are those of such a machine, whatever this one does meanwhile",
                ips / 1_000_000
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn options(cpu: Option<Vendor>, smt: Option<Smt>, ips: Option<u32>) -> MachineOptions {
        MachineOptions { cpu, smt, ips, ..MachineOptions::default() }
    }

    #[test]
    fn options_that_do_not_fit_the_place_are_refused_with_the_next_step() {
        let smt = "3x2".parse().unwrap();
        let all = options(Some(Vendor::Amd), Some(smt), Some(70_000_000));
        let machine = all.simulated(Place::Simulated).unwrap().unwrap();
        assert_eq!((machine.vendor, machine.smt, machine.ips), (Vendor::Amd, smt, 70_000_000));
        assert_eq!(
            options(Some(Vendor::Amd), None, None).simulated(Place::Emulated).unwrap(),
            None
        );
        for (place, refused) in [
            (Place::Emulated, options(Some(Vendor::Intel), None, None)),
            (Place::Emulated, options(None, Some(smt), None)),
            (Place::This, options(Some(Vendor::Intel), None, None)),
            (Place::This, options(None, None, Some(20_000_000))),
            (Place::This, MachineOptions { host_seed: Some(1), ..MachineOptions::default() }),
        ] {
            let error = refused.simulated(place).unwrap_err().to_string();
            assert!(error.contains("--venue simulated"), "{error}");
        }
        for nonsense in ["2", "2x3", "0x2", "5x2", "x", "2x2x2"] {
            nonsense.parse::<Smt>().unwrap_err();
        }
    }

    #[test]
    fn the_probe_decides_and_its_reason_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let probe = dir.path().join("schedvmm");
        write(&probe, "#!/bin/sh\n[ $1 = probe ] && echo 'no SVM' >&2 && exit 201\n").unwrap();
        set_permissions(&probe, Permissions::from_mode(0o755)).unwrap();
        let venue = Venue::detect(&probe).unwrap();
        assert_eq!(venue, Venue::Emulated(Some("no SVM".into())));
        let line = venue.to_string();
        assert!(line.contains("not measurements") && line.contains("no SVM"), "{line}");

        assert_eq!(Venue::detect(Path::new("/bin/true")).unwrap(), Venue::Own);
        // Nothing is said of this machine's where it has not been asked.
        assert!(!Venue::Emulated(None).to_string().contains("this machine"));
    }
}
