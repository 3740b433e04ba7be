// SPDX-License-Identifier: Apache-2.0
//! From options to a machine: kernel file, initrd, command line.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use guest::job::{JOB_PATH, Job, L2_KERNEL_PATH};
use initrd_builder::Archive;
use vmm::config::{BootMethod, Topology};
use vmm::load::LoadError;
use vmm::virtio::console::ConsoleError;
use vmm::vm::{BuildError, StartError};
use vmm::x86_64::image::{KernelImage, MAX_IMAGE_BYTES};

use crate::cli::{Boot, Idle, MachineArgs};
use crate::mapped_trace::TraceMemory;
use crate::status::{ExitStatus, Failure, OrFail};

/// A kernel file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelFileError {
    /// It cannot be read.
    #[error("cannot read kernel {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Reason.
        #[source]
        source: io::Error,
    },
    /// It is no plain file.
    #[error("kernel {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is larger than any kernel.
    #[error("kernel {} has {len} bytes, more than any kernel", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// It is no kernel for us.
    #[error("kernel {}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Reads and checks the kernel file.
///
/// # Errors
/// A file that is not there is a mistake in the request; one that is bad cannot be tested.
pub fn kernel(path: &Path) -> Result<KernelImage, Failure> {
    let read = |source| {
        let error = KernelFileError::Read { path: path.to_owned(), source };
        Failure::new(ExitStatus::Usage, error)
    };
    let metadata = fs::metadata(path).map_err(read)?;
    if !metadata.is_file() {
        return Err(KernelFileError::NotAFile(path.to_owned())).or_fail(ExitStatus::Usage);
    }
    let len = metadata.len();
    if len > MAX_IMAGE_BYTES {
        let error = KernelFileError::TooLarge { path: path.to_owned(), len };
        return Err(error).or_fail(ExitStatus::Untestable);
    }
    let bytes = fs::read(path).map_err(read)?;
    KernelImage::parse(bytes).map_err(|error| unusable(path, error)).or_fail(ExitStatus::Untestable)
}

/// An error of the kernel file's contents, with the file's name before it.
pub fn unusable(path: &Path, error: impl Error + Send + Sync + 'static) -> KernelFileError {
    KernelFileError::Unusable { path: path.to_owned(), source: Box::new(error) }
}

/// The initrd: this very executable as /init, the job, and the kernel of second-level guests.
///
/// # Errors
/// This executable cannot be read, or its libraries cannot be found.
pub fn initrd(job: &Job, l2_kernel: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
    let executable = std::env::current_exe().or_fail(ExitStatus::Internal)?;
    let mut archive = Archive::new();
    archive.standard_nodes().or_fail(ExitStatus::Internal)?;
    archive.add_executable("/init", &executable).or_fail(ExitStatus::Host)?;
    let job = serde_json::to_vec_pretty(job).or_fail(ExitStatus::Internal)?;
    archive.file(JOB_PATH, 0o644, job).or_fail(ExitStatus::Internal)?;
    if let Some(kernel) = l2_kernel {
        archive.file(L2_KERNEL_PATH, 0o644, kernel).or_fail(ExitStatus::Internal)?;
    }
    Ok(archive.finish())
}

/// The kernel command line. The user's words come last: for a word given twice the kernel
/// takes the later one.
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
        "pci=off".into(),
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
        let early = ["earlyprintk=ttyS0", "console=ttyS0", "loglevel=8", "ignore_loglevel"];
        words.extend(early.map(String::from));
    } else {
        words.push("quiet".into());
    }
    if !args.append.trim().is_empty() {
        words.push(args.append.trim().to_owned());
    }
    words.join(" ")
}

/// Guest CPUs that the load runs on unless told otherwise: the last core.
pub fn default_load_cpus(topology: Topology) -> Vec<u32> {
    let first = topology.cpus.saturating_sub(topology.threads_per_core);
    (first..topology.cpus).collect()
}

impl From<Boot> for BootMethod {
    fn from(boot: Boot) -> Self {
        match boot {
            Boot::Payload => Self::Payload,
            Boot::Stub => Self::Stub,
        }
    }
}

/// Whose fault a machine with the kernel at `path` is that could not be built.
pub fn build_failure(path: &Path, error: BuildError) -> Failure {
    let status = match &error {
        BuildError::Config(_) => ExitStatus::Usage,
        BuildError::Kvm(_) | BuildError::Memory(_) | BuildError::EventFd(_) => ExitStatus::Host,
        BuildError::Load(load) => match load {
            LoadError::Memory { .. }
            | LoadError::CmdlineLength { .. }
            | LoadError::CmdlineCharacter(_)
            | LoadError::Cmdline(_) => ExitStatus::Usage,
            LoadError::Image(_) | LoadError::Payload(_) => ExitStatus::Untestable,
            LoadError::Loader(_) | LoadError::Write(_) => ExitStatus::Internal,
        },
        BuildError::Console(ConsoleError::FileDescriptor { .. }) => ExitStatus::Host,
        // Names of ports are the user's (`boot --port`).
        BuildError::Console(_) => ExitStatus::Usage,
        BuildError::Shared(_) | BuildError::Bus(_) | BuildError::Write(_) => ExitStatus::Internal,
    };
    match status {
        ExitStatus::Untestable => Failure::new(status, unusable(path, error)),
        _ => Failure::new(status, error),
    }
}

/// Whose fault a machine is that did not start.
pub fn start_failure(error: StartError) -> Failure {
    let status = match &error {
        StartError::Sched(_) => ExitStatus::Usage,
        StartError::Thread { .. } | StartError::Silent(_) => ExitStatus::Host,
        StartError::Signal(_) => ExitStatus::Internal,
    };
    Failure::new(status, error)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

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
    fn the_load_takes_the_last_core() {
        let cpus = |cpus, threads_per_core| default_load_cpus(Topology { cpus, threads_per_core });
        assert_eq!(cpus(4, 2), [2, 3]);
        assert_eq!(cpus(4, 1), [3]);
        assert_eq!(cpus(1, 1), [0]);
    }

    #[test]
    fn files_that_are_not_there_are_usage_and_bad_ones_untestable() {
        let dir = tempfile::tempdir().expect("tempdir");
        let status = |path: &Path| kernel(path).expect_err("must fail").status;
        assert_eq!(status(&dir.path().join("none")), ExitStatus::Usage);
        assert_eq!(status(dir.path()), ExitStatus::Usage);
        let empty = dir.path().join("empty");
        fs::write(&empty, b"").expect("write");
        assert_eq!(status(&empty), ExitStatus::Untestable);
        let text = kernel(&empty).expect_err("empty").to_string();
        assert!(text.contains("empty") && text.contains("bzImage"), "{text}");
    }
}
