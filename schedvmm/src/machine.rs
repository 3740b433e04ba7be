// SPDX-License-Identifier: Apache-2.0
//! What a machine boots with: initrd, command line, seed; and what it is not built with.

use std::path::{Path, PathBuf};

use initrd_builder::Archive;
use protocol::error::Owner;
use protocol::job::Job;
use protocol::names::{JOB_PATH, L2_KERNEL_PATH, L2_MODULES_PATH, MODULES_PATH};
use rustix::rand::{GetRandomFlags, getrandom};
use vmm::config::{PvProfile, Topology};
use vmm::vm::BuildError;
use vmm::x86_64::setup_data::RNG_SEED_BYTES;

use crate::cli::{Idle, MachineArgs};
use crate::kernel::{KernelFileError, TELLS_TSC, unusable};
use crate::mapped_trace::TraceMemory;
use crate::modules::Modules;
use crate::status::{Failure, OrFail, Owned};

/// The file of this program, to start it again or to put it into a guest.
///
/// # Errors
/// /proc is not mounted.
pub fn own_executable() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::host(format!("this program cannot find its own file: {error}; mount /proc"))
    })
}

/// What second-level guests boot.
#[derive(Clone, Copy)]
pub struct SecondLevel<'a> {
    /// Their kernel's file.
    pub kernel: &'a [u8],
    /// What it needs beside it.
    pub modules: &'a Modules,
}

/// The initrd: this very executable as /init, the job, the kernel's modules, and what second-level
/// guests boot.
///
/// # Errors
/// This executable cannot be read, or its libraries cannot be found.
pub fn initrd(
    job: &Job,
    modules: &Modules,
    second: Option<SecondLevel<'_>>,
) -> Result<Vec<u8>, Failure> {
    let executable = own_executable()?;
    let mut archive = Archive::new();
    archive.standard_nodes()?;
    archive.add_executable("/init", &executable)?;
    let job = serde_json::to_vec_pretty(job).or_fail(Owner::Internal)?;
    archive.file(JOB_PATH, 0o644, job)?;
    modules.add_to(&mut archive, MODULES_PATH)?;
    if let Some(second) = second {
        archive.file(L2_KERNEL_PATH, 0o644, second.kernel)?;
        second.modules.add_to(&mut archive, L2_MODULES_PATH)?;
    }
    Ok(archive.finish())
}

/// Has the kernel talk by its 16550; later consoles on the command line talk, too.
const SERIAL_CONSOLE: &str = "console=ttyS0";
/// Has it draw what it says on a screen in memory, until there is a console.
const DRAWN_CONSOLE: &str = "earlyprintk=vga";

/// How a kernel talks until it has loaded its console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyVoice {
    /// On a screen in memory, which costs no exit.
    Screen,
    /// By a 16550, for which every distribution's kernel has a driver built in.
    Serial,
}

impl EarlyVoice {
    /// For a kernel that can draw, or may not be able to, and would have this command line: a
    /// kernel has one early console, and the user's own is it.
    pub fn choose(draws: bool, cmdline: &str) -> Self {
        let is_taken = cmdline.split(' ').any(|word| word.starts_with("earlyprintk"));
        if draws && !is_taken { Self::Screen } else { Self::Serial }
    }

    /// The one that a command line speaks of.
    pub fn of(cmdline: &str) -> Option<Self> {
        let says = |wanted: &str| cmdline.split(' ').any(|word| word == wanted);
        match (says(DRAWN_CONSOLE), says(SERIAL_CONSOLE)) {
            (true, _) => Some(Self::Screen),
            (false, true) => Some(Self::Serial),
            (false, false) => None,
        }
    }

    /// The command line that has the kernel talk so.
    pub fn before(self, cmdline: &str) -> String {
        let word = match self {
            Self::Screen => DRAWN_CONSOLE,
            Self::Serial => SERIAL_CONSOLE,
        };
        format!("{word} {cmdline}")
    }
}

/// The kernel command line, without what the machine itself puts before it ([`vmm::vm::Vm`]). The
/// user's words come last: for a word given twice the kernel takes the later one.
pub fn cmdline(
    args: &MachineArgs,
    load_cpus: &[u32],
    version: Option<(u32, u32)>,
    trace: Option<TraceMemory>,
) -> String {
    let mut words = vec![
        "console=hvc0".to_owned(),
        // A panic resets at once, which we see; the default waits for ever.
        "panic=-1".into(),
        // Addresses in a dump are those in System.map, and two runs lay memory out alike.
        "nokaslr".into(),
        // One TSC base at all levels: no watchdog may take the clocksource away.
        "tsc=reliable".into(),
        // Without paravirtual spinlocks the kernel would fall back to unfair ones.
        "nopvspin".into(),
        "no_timer_check".into(),
        "random.trust_cpu=1".into(),
    ];
    let housekeeping: Vec<String> =
        (0..args.cpus).filter(|cpu| !load_cpus.contains(cpu)).map(|cpu| cpu.to_string()).collect();
    if !housekeeping.is_empty() {
        // Device interrupts stay off the measured CPUs.
        words.push(format!("irqaffinity={}", housekeeping.join(",")));
    }
    if args.idle == Idle::Poll {
        words.push("idle=poll".into());
    }
    if version.is_some_and(|version| version < (5, 14)) {
        // Core-scheduling patches before the merge are off unless asked for; other kernels
        // hand unknown words to init.
        words.extend(["coresched=on".into(), "cosched_max_level=1".into()]);
    }
    words.extend(trace.into_iter().flat_map(TraceMemory::words));
    if args.debug_boot {
        let early = ["earlyprintk=ttyS0", SERIAL_CONSOLE, "loglevel=8", "ignore_loglevel"];
        words.extend(early.map(String::from));
    } else {
        words.push("quiet".into());
    }
    if !args.append.trim().is_empty() {
        words.push(args.append.trim().to_owned());
    }
    words.join(" ")
}

/// A seed for a guest's random number generator: this kernel's own random bytes, or none if it has
/// no generator that answers at once. A guest on a CPU without RDRAND has no entropy until late,
/// and meanwhile shows each core-scheduling cookie as 0, which is a hash under a random key.
pub fn rng_seed() -> Option<[u8; RNG_SEED_BYTES]> {
    let mut seed = [0; RNG_SEED_BYTES];
    // A machine that measures has no secrets: bytes from before this kernel's own generator is
    // ready will do, where it gives them (5.6).
    let len = getrandom(&mut seed, GetRandomFlags::INSECURE)
        .or_else(|_| getrandom(&mut seed, GetRandomFlags::NONBLOCK));
    (len == Ok(RNG_SEED_BYTES)).then_some(seed)
}

/// Refuses a kernel that would not find out how fast time passes in this machine.
///
/// # Errors
/// Without KVM's clock there is nothing that it could measure its TSC with.
pub fn check_pv(path: &Path, pv: PvProfile, version: Option<(u32, u32)>) -> Result<(), Failure> {
    match version {
        Some(version) if pv == PvProfile::Off && version < TELLS_TSC => {
            Err(KernelFileError::NoClock { path: path.to_owned(), version }.into())
        }
        _ => Ok(()),
    }
}

/// Guest CPUs that the load runs on unless told otherwise: the last core.
pub fn default_load_cpus(topology: Topology) -> Vec<u32> {
    let first = topology.cpus.saturating_sub(topology.threads_per_core);
    (first..topology.cpus).collect()
}

/// A machine with the kernel at `path` that could not be built: where that is the kernel's fault,
/// with the file's name.
pub fn build_failure(path: &Path, error: BuildError) -> Failure {
    match error.owner() {
        Owner::Kernel => unusable(path, error).into(),
        owner => Failure::new(owner, error),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::status::ExitStatus;

    fn machine(words: &[&str]) -> MachineArgs {
        let args = ["schedvmm", "--kernel", "x"].iter().chain(words);
        Cli::try_parse_from(args).expect("parses").run.machine
    }

    #[test]
    fn the_users_words_come_last() {
        let line = cmdline(&machine(&["--append", "panic=5 quiet"]), &[2, 3], None, None);
        assert!(line.ends_with("quiet panic=5 quiet"), "{line}");
        assert!(line.contains("irqaffinity=0,1 "), "{line}");
        assert!(!line.contains("idle=poll"));
        assert!(cmdline(&machine(&["--idle", "poll"]), &[2, 3], None, None).contains("idle=poll"));
    }

    #[test]
    fn words_of_unmerged_patches_reach_old_kernels_only() {
        let line = |version| cmdline(&machine(&[]), &[2, 3], version, None);
        assert!(line(Some((5, 13))).contains("cosched_max_level=1"));
        assert!(!line(Some((5, 14))).contains("cosched"));
        assert!(!line(None).contains("cosched"));
    }

    #[test]
    fn a_kernel_draws_if_it_can_and_may() {
        for (draws, line, voice) in [
            (true, "console=hvc0 quiet", EarlyVoice::Screen),
            (false, "console=hvc0 quiet", EarlyVoice::Serial),
            (true, "console=hvc0 earlyprintk=ttyS0", EarlyVoice::Serial),
        ] {
            assert_eq!(EarlyVoice::of(line), None);
            assert_eq!(EarlyVoice::choose(draws, line), voice, "{line}");
            let line = voice.before(line);
            assert_eq!(EarlyVoice::of(&line), Some(voice), "{line}");
            assert!(line.ends_with(" quiet") || line.ends_with("=ttyS0"), "{line}");
        }
    }

    #[test]
    fn old_kernels_need_a_clock() {
        let check = |pv, version| check_pv(Path::new("k"), pv, version);
        assert!(check(PvProfile::Clock, Some((5, 7))).is_ok());
        for version in [None, Some((5, 8)), Some((7, 3))] {
            assert!(check(PvProfile::Off, version).is_ok(), "{version:?}");
        }
        let error = check(PvProfile::Off, Some((5, 7))).expect_err("too old");
        assert_eq!(error.status(), ExitStatus::Untestable);
        assert!(error.to_string().contains("Linux 5.7, and --pv off needs 5.8"), "{error}");
    }

    #[test]
    fn no_two_guests_begin_with_the_same_seed() {
        let (one, other) = (rng_seed().expect("a seed"), rng_seed().expect("a seed"));
        assert_ne!(one, other);
    }

    #[test]
    fn idling_is_what_the_command_line_says() {
        let idle = |words: &[&str]| Idle::of(&cmdline(&machine(words), &[2, 3], None, None));
        assert_eq!(idle(&[]), Idle::Halt);
        assert_eq!(idle(&["--idle", "poll"]), Idle::Poll);
        assert_eq!(idle(&["--append", "idle=poll"]), Idle::Poll);
        assert_eq!(idle(&["--idle", "poll", "--append", "idle=halt"]), Idle::Poll);
    }

    #[test]
    fn the_load_takes_the_last_core() {
        let cpus = |cpus, threads_per_core| default_load_cpus(Topology { cpus, threads_per_core });
        assert_eq!(cpus(4, 2), [2, 3]);
        assert_eq!(cpus(4, 1), [3]);
        assert_eq!(cpus(1, 1), [0]);
    }
}
