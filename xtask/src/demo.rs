// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: from a bare machine to a measured kernel in one command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use testhost::host::accident::HostLost;
use testhost::host::{Ended, Simulated, TestHost};
use testhost::kernel::{self, Series, Wanted};
use testhost::venue::{MachineOptions, Venue};
use testhost::{artifacts, host, process, project};

/// Where the kernel under test lies in the emulated host. The host's own is always 6.12.
const GUEST_KERNEL: &str = "/target-kernel";
/// Machines in a machine take long to boot in emulation, and have as long as the main job has.
const L2_BOOT_TIMEOUT: &str = "--l2-boot-timeout";

/// What to show.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The kernel under test.
    pub kernel: Wanted,
    /// Its target is a virtual machine in the virtual machine.
    pub nested: bool,
    /// The result folder; `results/demo` of the project without one.
    pub output: Option<PathBuf>,
    /// Print the result as JSON.
    pub json: bool,
    /// Where to run, if that is not left to us.
    pub machine: MachineOptions,
    /// Longest time for the main job in the emulated or simulated host.
    pub timeout: Duration,
    /// Further options of `schedvmm`.
    pub options: Vec<OsString>,
}

impl Demo {
    /// Sets up what is missing, runs the main job, and leaves its result folder.
    pub fn run(&self) -> Result<Ended> {
        let output = self.prepare_output()?;
        let schedvmm = artifacts::schedvmm()?;
        let (venue, why) = self.place(Venue::choose(&self.machine, &schedvmm)?);
        if self.json {
            eprintln!("{venue}{why}");
        } else {
            println!("{venue}{why}");
        }
        let image = kernel::ensure(self.kernel)?;
        let simulated = match venue {
            Venue::Own => return self.run_here(&schedvmm, &image, &output),
            Venue::Emulated(_) => None,
            Venue::Simulated(machine) => Some(machine),
        };
        let mut command = self.command("schedvmm".as_ref(), GUEST_KERNEL.as_ref(), "/out".as_ref());
        self.be_patient(&mut command);
        let mut host = TestHost::builder()
            .xtask(std::env::current_exe()?)
            .schedvmm(schedvmm)
            .file(GUEST_KERNEL, image)
            .out(&output)
            .timeout(self.timeout)
            .forward_signals();
        match simulated {
            Some(machine) => {
                fit(&mut command, &machine);
                host = host.simulated(machine);
            }
            None => self.let_gaps_count(&mut command),
        }
        let run = host.run(&command, host::show).or_else(|error| {
            if !error.is::<HostLost>() {
                return Err(error);
            }
            eprintln!("{error}\nThis is no fault of the kernel under test: once more.");
            host.run(&command, host::show)
        })?;
        eprintln!("result folder: {}", output.display());
        Ok(run.ended)
    }

    /// Where its numbers are worth most: on this machine's own KVM; where that will not do, in the
    /// simulated host, whose clock can be trusted. Machines in a machine take twenty minutes there, and
    /// a kernel that takes no seed from its boot loader has no cookies: these are shown in the emulated
    /// one. With it, why, for behind its name.
    fn place(&self, found: Venue) -> (Venue, String) {
        /// The first that credits the seed of its boot loader.
        const SEEDED: Series = Series::new(6, 2);
        let is_seeded = match self.kernel {
            Wanted::Newest => true,
            Wanted::Oldest => false,
            Wanted::Series(series) => series >= SEEDED,
        };
        match found {
            Venue::Emulated(Some(reason)) if is_seeded && !self.nested => {
                let why = format!("\n  (this machine's own KVM will not do: {reason})");
                (Venue::Simulated(Simulated::default()), why)
            }
            other => (other, String::new()),
        }
    }

    /// The main job on this machine; Ctrl-C reaches it from the terminal.
    fn run_here(&self, schedvmm: &Path, image: &Path, output: &Path) -> Result<Ended> {
        let command = self.command(schedvmm, image, output);
        let (program, arguments) = command.split_first().context("no command")?;
        let mut command = Command::new(program);
        let status = process::end_with_parent(command.args(arguments), libc::SIGTERM)
            .status()
            .with_context(|| format!("cannot start `{}`", program.display()))?;
        Ok(status.into())
    }

    fn command(&self, schedvmm: &Path, image: &Path, output: &Path) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec![
            schedvmm.into(),
            "--kernel".into(),
            image.into(),
            "--output".into(),
            output.into(),
        ];
        command.extend(self.nested.then(|| "--nested".into()));
        command.extend(self.json.then(|| "--json".into()));
        command.extend(self.options.iter().cloned());
        command
    }

    /// Adds what machines in an emulated machine need, unless the user has decided on it.
    fn be_patient(&self, command: &mut Vec<OsString>) {
        let timeout = format!("{}s", self.timeout.as_secs());
        if self.nested {
            decide(command, L2_BOOT_TIMEOUT, &timeout);
        }
    }

    /// An emulated host is beyond every budget, and shows what a gap is all the same.
    fn let_gaps_count(&self, command: &mut Vec<OsString>) {
        let words = || self.options.iter().map(|word| word.to_string_lossy());
        // `--meter-width` and the like shape what machines in the machine measure with by themselves.
        let meters = words().any(|word| word == "--meter" || word.starts_with("--meter="));
        if self.nested || !meters {
            decide(command, "--on-contaminated", "report");
        }
    }

    /// The result folder, new or empty. Only the default one is emptied: it is ours.
    fn prepare_output(&self) -> Result<PathBuf> {
        let output = match &self.output {
            Some(dir) => std::path::absolute(dir).context("no current folder")?,
            None => project::root().join("results/demo"),
        };
        if is_full(&output) && self.output.is_none() {
            std::fs::remove_dir_all(&output)
                .with_context(|| format!("cannot remove the old `{}`", output.display()))?;
        }
        if is_full(&output) {
            bail!("`{}` is not empty; name a new folder with --output", output.display());
        }
        std::fs::create_dir_all(&output)
            .with_context(|| format!("cannot make `{}`", output.display()))?;
        Ok(output)
    }
}

fn is_full(output: &Path) -> bool {
    std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_some())
}

/// Adds what the main job needs in the simulated machine, unless the user has decided on it: it has
/// little memory and is slow, and its cores are there to be measured, all of them.
fn fit(command: &mut Vec<OsString>, machine: &Simulated) {
    let cpus: Vec<String> =
        (0..machine.smt.cores * machine.smt.threads).map(|cpu| cpu.to_string()).collect();
    if let Some(vcpus) = cpus.get(..4) {
        decide(command, "--pin", &vcpus.join(","));
    }
    decide(command, "--memory", "512M");
    decide(command, "--boot-timeout", "300s");
    // So much that each thread has a whole burst behind the warm-up.
    decide(command, "--duration", "3s");
}

/// Adds an option, unless it is there.
fn decide(command: &mut Vec<OsString>, option: &str, value: &str) {
    if !command.iter().any(|word| word.to_string_lossy().starts_with(option)) {
        command.extend([option.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo(output: Option<PathBuf>) -> Demo {
        Demo {
            kernel: Wanted::Oldest,
            nested: true,
            output,
            json: false,
            machine: MachineOptions::default(),
            timeout: Duration::from_secs(1),
            options: vec!["--duration".into(), "5s".into()],
        }
    }

    #[test]
    fn what_is_shown_without_our_own_kvm_is_shown_where_the_clock_counts() {
        let no_svm = || Venue::Emulated(Some("no SVM".into()));
        let newest = Demo { nested: false, kernel: Wanted::Newest, ..demo(None) };
        let (venue, why) = newest.place(no_svm());
        assert_eq!(venue, Venue::Simulated(Simulated::default()));
        assert!(why.contains("own KVM will not do: no SVM"), "{why}");
        // What was asked for, and our own, stay.
        for venue in [Venue::Emulated(None), Venue::Own] {
            assert_eq!(newest.place(venue.clone()), (venue, String::new()));
        }
        for other in [
            Demo { nested: true, ..newest.clone() },
            Demo { kernel: Wanted::Oldest, ..newest.clone() },
            Demo { kernel: Wanted::Series(Series::CFS), ..newest.clone() },
        ] {
            assert_eq!(other.place(no_svm()).0, no_svm());
        }
    }

    #[test]
    fn options_are_passed_on_in_order() {
        let words = demo(None).command("s".as_ref(), "k".as_ref(), "o".as_ref());
        let expected = ["s", "--kernel", "k", "--output", "o", "--nested", "--duration", "5s"];
        assert_eq!(words, expected.map(OsString::from));
    }

    #[test]
    fn what_emulation_needs_is_added_unless_it_was_decided() {
        let mut command: Vec<OsString> = vec!["schedvmm".into(), "--l2-boot-timeout=3s".into()];
        demo(None).be_patient(&mut command);
        let expected = ["schedvmm", "--l2-boot-timeout=3s"];
        assert_eq!(command, expected.map(OsString::from));
        let mut command = Vec::new();
        demo(None).be_patient(&mut command);
        let expected = ["--l2-boot-timeout", "1s"];
        assert_eq!(command, expected.map(OsString::from));
    }

    #[test]
    fn a_gap_counts_in_an_emulated_machine_where_a_load_measures() {
        let added = |nested: bool, options: &[&str]| {
            let options: Vec<OsString> = options.iter().map(OsString::from).collect();
            let mut command = options.clone();
            Demo { nested, options, ..demo(None) }.let_gaps_count(&mut command);
            command.iter().any(|word| word == "report")
        };
        assert!(added(false, &["--duration", "5s"]));
        assert!(added(true, &[]) && added(true, &["--meter", "hwlat"]));
        assert!(!added(false, &["--meter", "hwlat"]) && !added(false, &["--meter=hwlat"]));
        assert!(!added(false, &["--on-contaminated=untestable"]));
    }

    #[test]
    fn the_simulated_machine_is_used_whole_unless_it_was_decided() {
        let mut command: Vec<OsString> = vec!["schedvmm".into(), "--duration=9s".into()];
        fit(&mut command, &Simulated::default());
        let expected = ["schedvmm", "--duration=9s", "--pin", "0,1,2,3", "--memory", "512M"];
        assert_eq!(command[..6], expected.map(OsString::from));
        assert!(!command.contains(&"3s".into()), "{command:?}");
        // Two CPUs are no place for four vCPUs of their own.
        let mut command = Vec::new();
        fit(&mut command, &Simulated { smt: "1x2".parse().unwrap(), ..Simulated::default() });
        assert!(!command.contains(&"--pin".into()), "{command:?}");
    }

    #[test]
    fn somebody_elses_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        assert_eq!(demo(Some(new.clone())).prepare_output().unwrap(), new);
        std::fs::write(new.join("precious"), "").unwrap();
        let error = demo(Some(new.clone())).prepare_output().unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert!(new.join("precious").exists());
    }
}
