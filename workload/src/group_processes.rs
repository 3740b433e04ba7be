// SPDX-License-Identifier: Apache-2.0
//! The groups' processes, as their supervisor has them.

use std::io;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use protocol::cpu_list::CpuSet;
use protocol::group_process::{GROUP_COMMAND, GroupPlan, Size};
use protocol::index::GroupIndex;
use protocol::job::LoadSpec;

use crate::context::WorkloadContext;
use crate::error::LoadError;
use crate::ground::Ground;
use crate::shared_memory::Shared;
use crate::slots::{GroupSlot, State};

/// For all threads to end once they are told to. A thread that the kernel under test starves
/// for longer than this while nobody competes with it will not run again.
pub const ENDED: Duration = Duration::from_secs(10);

/// How often the supervisor looks for a request to stop and for dead processes. It is woken
/// for everything else.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What the CPU's counter and its readings are like.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) tsc_khz: u64,
    pub(crate) iteration_ticks: u64,
}

/// The groups' processes; killed when dropped.
pub(crate) struct Groups {
    processes: Vec<Child>,
    ground: Ground,
}

impl Groups {
    pub(crate) fn start(
        spec: &LoadSpec,
        places: &[CpuSet],
        context: &WorkloadContext,
        shared: &Path,
        cost: Cost,
    ) -> Result<Self, LoadError> {
        let mut groups = Self { processes: Vec::new(), ground: context.ground.clone() };
        for ((index, own), members) in spec.groups.iter().enumerate().zip(spec.members()) {
            let group = GroupIndex::new(index);
            let plan = GroupPlan {
                spec: LoadSpec { groups: vec![own.clone()], ..spec.clone() },
                group,
                first_thread: u32::try_from(members.start).unwrap_or(u32::MAX),
                places: places[members].iter().map(CpuSet::to_string).collect(),
                size: Size::of(spec),
                parent: process::id(),
                shared: shared.to_owned(),
                tsc_khz: cost.tsc_khz,
                iteration_ticks: cost.iteration_ticks,
                cookie: context.cookie && own.cookie,
                cgroups: context.cgroups.get(index).cloned().unwrap_or_default(),
                trace: context.trace.clone(),
                owner: context.ground.owner(),
            };
            let executable = &context.executable;
            let plan = serde_json::to_string(&plan)
                .map_err(|error| cannot_spawn(error.into(), group, executable, &context.ground))?;
            let mut command = Command::new(executable);
            command.arg(GROUP_COMMAND).arg(plan).stdin(Stdio::null());
            groups.processes.push(
                command
                    .spawn()
                    .map_err(|source| cannot_spawn(source, group, executable, &context.ground))?,
            );
        }
        Ok(groups)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Child::id).collect()
    }

    /// Those that have ended, for whatever reason.
    pub fn gone(&mut self) -> Vec<GroupIndex> {
        let gone = self.processes.iter_mut().enumerate().filter_map(|(index, child)| {
            matches!(child.try_wait(), Ok(Some(_))).then(|| GroupIndex::new(index))
        });
        gone.collect()
    }

    /// An error when one has ended while some of its threads had not.
    pub fn check(&mut self, spec: &LoadSpec, shared: &Shared) -> Result<(), LoadError> {
        let processes = self.processes.iter_mut().enumerate();
        for ((index, child), members) in processes.zip(spec.members()) {
            let Some(status) = child.try_wait().map_err(LoadError::Wait)? else { continue };
            let threads = shared.threads().get(members).unwrap_or_default();
            if threads.iter().all(|thread| thread.state() == State::Done) {
                continue;
            }
            let group = GroupIndex::new(index);
            let told = shared.groups().get(index).and_then(GroupSlot::failure);
            let (owner, reason) = told.unwrap_or_else(|| self.ground.end_of_process(status));
            let (pid, status) = (child.id(), status.to_string());
            return Err(LoadError::GroupDied { group, pid, status, reason, owner });
        }
        Ok(())
    }
}

fn cannot_spawn(
    source: io::Error,
    group: GroupIndex,
    executable: &Path,
    ground: &Ground,
) -> LoadError {
    LoadError::Spawn { group, executable: executable.to_owned(), owner: ground.owner(), source }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for child in &mut self.processes {
            // It may have ended by itself, as it should.
            let _ = child.kill();
        }
        let deadline = Instant::now() + ENDED;
        for child in &mut self.processes {
            // Bounded: a process stuck in the kernel must not keep us from reporting it.
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Names of the threads that are not in this state, but for those of the groups that are gone.
pub fn those_not(
    state: State,
    spec: &LoadSpec,
    shared: &Shared,
    gone: &[GroupIndex],
) -> Vec<String> {
    let threads = spec.all_members().zip(shared.threads());
    threads
        .filter(|(member, thread)| thread.state() != state && !gone.contains(&member.group))
        .map(|(member, _)| member.to_string())
        .collect()
}
