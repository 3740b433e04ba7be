// SPDX-License-Identifier: Apache-2.0
//! What the load stands on, and who is to blame for what befalls it from there.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use protocol::cpu_list::CpuSet;
use protocol::error::Owner;

use crate::error::LoadError;

/// Where the load runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// In a machine that boots the kernel under test, where nobody else is.
    Guest {
        /// A word of the user's own on the kernel's command line by which CPUs may be missing.
        limited_by: Option<String>,
    },
    /// On a kernel that runs already, among others.
    Host,
}

impl Ground {
    /// Who is to blame for what the load cannot have, or what ends it from outside.
    pub fn owner(&self) -> Owner {
        match self {
            Self::Guest { .. } => Owner::Kernel,
            Self::Host => Owner::Host,
        }
    }

    /// Who ended a process of ours that gave no reason, and what that means.
    pub(super) fn end_of_process(&self, status: ExitStatus) -> (Owner, String) {
        /// The kernel's answer to what a program does, not somebody's wish to end it.
        const FAULTS: [i32; 7] = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGABRT,
            libc::SIGTRAP,
            libc::SIGSYS,
        ];
        match (status.signal(), self) {
            (Some(libc::SIGKILL), Self::Guest { .. }) => {
                (Owner::Kernel, "nobody but the kernel kills there; is it out of memory?".into())
            }
            (Some(signal), Self::Host) if FAULTS.contains(&signal) => {
                (Owner::Internal, "this is a defect of schedvmm: report it".into())
            }
            (Some(signal), Self::Guest { .. }) if FAULTS.contains(&signal) => (
                Owner::Kernel,
                "the same program runs on other kernels; this one, or its memory, is broken".into(),
            ),
            (Some(_), Self::Guest { .. }) => {
                (Owner::Kernel, "nobody but the kernel sends signals there".into())
            }
            (Some(_), Self::Host) => {
                (Owner::Host, "somebody, or the OOM killer, ended it; measure once more".into())
            }
            // It says on stderr what it cannot put where the supervisor looks.
            (None, _) => (self.owner(), "it gave no reason".into()),
        }
    }
}

/// Whether all of these CPUs are online.
///
/// # Errors
/// Which is not, and who does without it.
pub fn check_cpus(cpus: &[u32], online: &CpuSet, ground: &Ground) -> Result<(), LoadError> {
    let Some(cpu) = cpus.iter().copied().find(|cpu| !online.contains(*cpu)) else { return Ok(()) };
    let (owner, hint) = match ground {
        Ground::Guest { limited_by: Some(word) } => (
            Owner::Request,
            format!("leave `{word}` out of --append, or name other CPUs with --load-cpus"),
        ),
        Ground::Guest { limited_by: None } => (
            Owner::Kernel,
            "this kernel does not bring up all CPUs of its machine: it needs CONFIG_SMP=y, \
             CONFIG_NR_CPUS of at least --cpus, and a command line of its own without nosmt, \
             maxcpus= and nr_cpus="
                .into(),
        ),
        Ground::Host => (
            Owner::Host,
            format!(
                "write 1 to /sys/devices/system/cpu/cpu{cpu}/online, or name other CPUs with \
                 --load-cpus"
            ),
        ),
    };
    Err(LoadError::CpuAbsent { cpu, online: online.to_string(), hint, owner })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ground = Ground::Guest { limited_by: None };

    #[test]
    fn a_cpu_that_is_missing_has_an_owner() {
        let online: CpuSet = "0-1".parse().unwrap();
        let owner = |ground: &Ground| match check_cpus(&[1, 2], &online, ground) {
            Err(error @ LoadError::CpuAbsent { cpu: 2, .. }) => (error.owner(), error.to_string()),
            other => panic!("{other:?}"),
        };
        let (whose, text) = owner(&GUEST);
        assert_eq!(whose, Owner::Kernel);
        assert!(text.contains("CPU 2") && text.contains("online: 0-1"), "{text}");
        let (whose, text) = owner(&Ground::Guest { limited_by: Some("nosmt".into()) });
        assert_eq!(whose, Owner::Request);
        assert!(text.contains("leave `nosmt` out of --append"), "{text}");
        let (whose, text) = owner(&Ground::Host);
        assert_eq!(whose, Owner::Host);
        assert!(text.contains("cpu2/online"), "{text}");
        assert!(check_cpus(&[0, 1], &online, &GUEST).is_ok());
    }

    #[test]
    fn a_process_that_is_killed_is_no_defect_of_ours() {
        let by = |signal: i32| ExitStatus::from_raw(signal);
        for (signal, in_guest, on_host) in [
            (libc::SIGKILL, Owner::Kernel, Owner::Host),
            (libc::SIGTERM, Owner::Kernel, Owner::Host),
            (libc::SIGXCPU, Owner::Kernel, Owner::Host),
            (libc::SIGSEGV, Owner::Kernel, Owner::Internal),
            (libc::SIGABRT, Owner::Kernel, Owner::Internal),
        ] {
            assert_eq!(GUEST.end_of_process(by(signal)).0, in_guest, "{signal}");
            assert_eq!(Ground::Host.end_of_process(by(signal)).0, on_host, "{signal}");
        }
        let exited = ExitStatus::from_raw(1 << 8);
        assert_eq!(GUEST.end_of_process(exited).0, Owner::Kernel);
        assert_eq!(Ground::Host.end_of_process(exited).0, Owner::Host);
    }
}
