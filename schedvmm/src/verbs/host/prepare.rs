// SPDX-License-Identifier: Apache-2.0
//! Prepares the running kernel for the load (tunables, cgroups, tracing), and restores afterwards what
//! was there before.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::error::Owner;
use protocol::index::GroupIndex;
use protocol::job::{CoschedRequest, Job, TraceSpec};
use protocol::message::{self, CoschedInterface, Setup};
use workload::context::WorkloadContext;
use workload::kernel::core_sched::{self, CoschedError};
use workload::kernel::obstacle::Obstacle;
use workload::kernel::sched_policy::try_out;
use workload::kernel::{files, tunables};
use workload::setup;
use workload::tracing::Tracing;

use crate::caller::{Demand, Heirs};
use crate::cli::HostArgs;
use crate::job;
use crate::placement;
use crate::signals::{self, OnLeave};
use crate::status::Failure;
use crate::wall;

/// A run before it begins.
pub struct Prepare {
    /// The job, for ourselves.
    pub job: Job,
    /// Remark for the reader.
    pub notes: Vec<String>,
    /// Choice of the CPUs.
    chosen: &'static str,
}

/// Everything is prepared.
pub struct Ready {
    /// What the load needs.
    pub context: WorkloadContext,
    /// What was prepared.
    pub setup: Setup,
    /// Tracing in buffers of our own.
    pub tracing: Option<TraceInstance>,
    /// Values to be put back.
    pub restore: Restore,
}

impl Prepare {
    /// Turns options into a plan.
    ///
    /// # Errors
    /// Options that contradict each other or make no sense here.
    pub fn plan(args: &HostArgs) -> Result<Self, Failure> {
        let (cpus, chosen) = match &args.load.load_cpus {
            Some(list) => (list.0.clone(), "as asked"),
            None => (placement::last_core(), "the last core"),
        };
        if cpus.is_empty() {
            return Err(Failure::host(
                "no core of this machine may be used as a whole; name CPUs with --load-cpus",
            ));
        }
        if args.load.load_cpus.is_some() {
            placement::check("--load-cpus", &cpus)?;
        }
        let cpus = cpus.into_iter().filter_map(|cpu| u32::try_from(cpu).ok()).collect();
        // Nothing of this machine is tuned unless it is asked for.
        let job = job::make(&args.load, &args.trace, cpus, Vec::new())?;
        if !matches!(
            job.cosched,
            CoschedRequest::Auto | CoschedRequest::None | CoschedRequest::Prctl
        ) {
            return Err(Failure::request(
                "--cosched here is auto, none or prctl: cgroup files would change the cgroups of \
                 this machine; the microVM has them all",
            ));
        }
        if job.load.groups.iter().any(|group| group.quota.is_some()) {
            return Err(Failure::request(
                "a quota needs a cgroup, and this machine's are left as they are; the microVM \
                 has its own (--kernel)",
            ));
        }
        for (index, group) in job.load.groups.iter().enumerate() {
            // What the kernel lacks is told by the load, and is no question of rights.
            if let Err(error) = try_out(group.policy)
                && error.owner == Owner::Host
            {
                let group = GroupIndex::new(index);
                return Err(Failure::host(format!(
                    "the threads of {group} cannot run as they are to: {error}"
                )));
            }
        }
        let on: Vec<_> = job.load.cpus.iter().map(|cpu| *cpu as usize).collect();
        let notes = placement::note_on_kinds(&on).into_iter().collect();
        Ok(Self { notes, job, chosen })
    }

    /// When the run is ended, whatever goes on in it.
    pub fn wall_limit(&self) -> Duration {
        let cpus = u32::try_from(self.job.load.cpus.len()).unwrap_or(u32::MAX);
        wall::default_limit(&self.job, Duration::ZERO, cpus, Duration::ZERO)
    }

    /// One line about what is measured.
    pub fn summary(&self) -> String {
        let cpus: Vec<_> = self.job.load.cpus.iter().map(u32::to_string).collect();
        format!("this host, CPUs {} ({})", cpus.join(","), self.chosen)
    }

    /// Demand of the load on the CPUs.
    pub fn demand(&self, allow_quota: bool) -> Demand {
        Demand {
            cpus: self.job.load.cpus.len(),
            allow_quota,
            real_time: self
                .job
                .load
                .groups
                .iter()
                .any(|group| group.policy.class.is_some_and(|class| class.priority().is_some())),
            heirs: Heirs::Load,
        }
    }

    /// Prepares everything.
    ///
    /// # Errors
    /// What was asked for by name and cannot be had.
    pub fn ready(&self) -> Result<Ready, message::Failure> {
        let (cookie, cosched_note) = match (self.job.cosched, core_sched::probe_prctl()) {
            (CoschedRequest::None, _) => (false, None),
            (_, Ok(())) => (true, None),
            (request, Err(source)) => {
                let text = CoschedError::Prctl { source }.to_string();
                if request == CoschedRequest::Prctl {
                    return Err(failure(Owner::Kernel, text));
                }
                (false, Some(text))
            }
        };
        let root = Path::new("/");
        let (tunables, before) = tunables::apply_for_a_while(root, &self.job.tune)
            .map_err(|error| failure(error.owner(), error.to_string()))?;
        let restore = Restore::new(before);
        let mut setup = Setup {
            cosched: if cookie { CoschedInterface::Prctl } else { CoschedInterface::None },
            cosched_note,
            tunables,
            ..Setup::default()
        };
        let mut tracing = None;
        if let Some(spec) = &self.job.trace {
            let made = TraceInstance::make(spec);
            setup::traces(&mut setup, spec, made.as_ref().map(|instance| &instance.tracing))?;
            tracing = made.ok();
        }
        let context = WorkloadContext {
            cookie,
            trace: tracing.as_ref().map(|instance| instance.tracing.stop_files()),
            ..WorkloadContext::plain(None)
        };
        Ok(Ready { context, setup, tracing, restore })
    }
}

fn failure(owner: Owner, text: String) -> message::Failure {
    message::Failure { owner, text }
}

/// Puts tunables back, also if the process leaves at once.
pub struct Restore {
    files: Vec<(PathBuf, String)>,
    _on_leave: OnLeave,
}

impl Restore {
    fn new(files: Vec<(PathBuf, String)>) -> Self {
        let again = files.clone();
        Self { files, _on_leave: OnLeave::new(move || put_back(&again)) }
    }

    /// Does it; says what could not be put back.
    pub fn undo(mut self) -> Vec<String> {
        put_back(&std::mem::take(&mut self.files))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // Only where nobody has asked what came of it.
        let _ = put_back(&self.files);
    }
}

fn put_back(files: &[(PathBuf, String)]) -> Vec<String> {
    files
        .iter()
        .filter_map(|(path, text)| {
            let error = files::write_file(path, text).err()?;
            Some(format!("{} could not be set back to {text}: {error}", path.display()))
        })
        .collect()
}

/// Name of a process's buffers, before its number.
const INSTANCE: &str = "schedvmm-";
/// The PID namespace that a kernel begins with (`PROC_PID_INIT_INO` of include/linux/proc_ns.h):
/// in it all processes can be seen.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// Removes the buffers of runs that were killed: they hold memory, and go on tracing, which costs
/// time in what is measured.
fn sweep(instances: &Path, proc: &Path) {
    let namespace = fs::read_link(proc.join("self/ns/pid"));
    if !namespace.is_ok_and(|namespace| namespace == Path::new(FIRST_NAMESPACE)) {
        // Whoever cannot be seen may be alive.
        return;
    }
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(INSTANCE)?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !proc.join(pid.to_string()).exists()) {
            // Best effort, as in `drop`.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Ring buffers of our own beside those of this machine, which others may be using.
pub struct TraceInstance {
    path: PathBuf,
    tracing: Tracing,
    _on_leave: OnLeave,
}

impl TraceInstance {
    /// Makes the buffers and sets them up.
    ///
    /// # Errors
    /// Why there is no trace.
    fn make(spec: &TraceSpec) -> Result<Self, Obstacle> {
        let root = Tracing::root()?;
        let instances = root.join("instances");
        sweep(&instances, Path::new("/proc"));
        let path = instances.join(format!("{INSTANCE}{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| Obstacle::of(&path, &error))?;
        let again = path.clone();
        let gone = path.clone();
        let _on_leave = OnLeave::new(move || {
            signals::remove_dir_soon(&gone)
                .err()
                .map(move |error| {
                    format!(
                        "the trace buffers {} stay, rmdir removes them: {error}",
                        again.display()
                    )
                })
                .into_iter()
                .collect()
        });
        Ok(Self { tracing: Tracing::prepare(&path, spec), path, _on_leave })
    }

    /// Traced events.
    pub fn tracing(&self) -> &Tracing {
        &self.tracing
    }
}

impl Drop for TraceInstance {
    fn drop(&mut self) {
        // A directory of tracefs goes with all its files. Best effort: one that somebody
        // reads stays, and does nothing.
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};
    use crate::status::ExitStatus;

    fn plan(words: &[&str]) -> Result<Prepare, Failure> {
        let words = ["schedvmm", "host"].iter().chain(words);
        match Cli::try_parse_from(words).expect("parses").verb {
            Some(Verb::Host(args)) => Prepare::plan(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_tuned_unless_asked_for() {
        let plain = plan(&[]).map_err(|failure| failure.to_string()).expect("a plan");
        assert!(plain.job.tune.is_empty() && !plain.job.load.cpus.is_empty());
        assert!(plain.summary().contains("the last core"), "{}", plain.summary());
        let tuned = plan(&["--tune", "slice=3ms", "--load-cpus", "0"]);
        let tuned = tuned.map_err(|failure| failure.to_string()).expect("a plan");
        assert_eq!((tuned.job.tune.len(), &tuned.job.load.cpus), (1, &vec![0]));
    }

    #[test]
    fn what_cannot_be_here_is_a_usage_error() {
        for words in [["--cosched", "tag"], ["--groups", "0"], ["--tune", "slice=fast"]] {
            let failure = plan(&words).err().expect("refused");
            assert_eq!(failure.status(), ExitStatus::Usage, "{words:?}");
        }
    }

    #[test]
    fn buffers_of_the_dead_are_removed_and_nobody_elses() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (instances, proc) = (dir.path().join("instances"), dir.path().join("proc"));
        let left = |namespace: &str| {
            let _ = fs::remove_dir_all(dir.path().join("proc"));
            let made = ["proc/self/ns", "proc/7", "instances/schedvmm-7", "instances/schedvmm-8"];
            for path in made.into_iter().chain(["instances/other-8", "instances/schedvmm-x"]) {
                fs::create_dir_all(dir.path().join(path)).expect("made");
            }
            std::os::unix::fs::symlink(namespace, proc.join("self/ns/pid")).expect("a link");
            sweep(&instances, &proc);
            fs::read_dir(&instances).expect("a folder").count()
        };
        assert_eq!(left("pid:[4026532000]"), 4, "others may live beside what can be seen");
        assert_eq!(left(FIRST_NAMESPACE), 3);
        assert!(!instances.join("schedvmm-8").exists());
    }

    #[test]
    fn tunables_come_back_even_if_nobody_asks() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("tunable");
        fs::write(&file, "new").expect("write");
        drop(Restore::new(vec![(file.clone(), "old".into())]));
        assert_eq!(fs::read_to_string(&file).expect("read"), "old");
        let gone = Restore::new(vec![(dir.path().join("none"), "old".into())]).undo();
        assert!(gone[0].contains("could not be set back to old"), "{gone:?}");
    }
}
