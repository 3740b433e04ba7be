// SPDX-License-Identifier: Apache-2.0
//! One group's process: prepares itself as its plan says, then starts the threads.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::{fmt, io, panic, process, thread};

use protocol::cpu_list::CpuListError;
use protocol::error::Owner;
use protocol::group_process::{GroupPlan, TraceStop};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::hit::TraceFiles;
use crate::kernel::{core_sched, files};
use crate::kernel::{memory, sched_policy};
use crate::shared_memory::Shared;
use crate::slots::GroupSlot;
use crate::thread::{Common, run};
use crate::thread_accounting;

/// Enough for the measuring loop, and little to lock into memory.
const STACK_BYTES: usize = 256 << 10;

/// The whole life of a group's process. `arguments` are those after `GROUP_COMMAND`.
pub fn group_main(mut arguments: impl Iterator<Item = OsString>) -> ! {
    let plan = arguments.next().unwrap_or_default();
    let result = serde_json::from_slice(plan.as_encoded_bytes())
        .map_err(|error| format!("the plan of a load group cannot be understood: {error}"))
        .and_then(|plan| obey(&plan));
    match result {
        Ok(()) => process::exit(0),
        Err(text) => {
            eprintln!("schedvmm: {text}");
            process::exit(1)
        }
    }
}

fn obey(plan: &GroupPlan) -> Result<(), String> {
    let shared = Shared::open(&plan.shared, plan.size)
        .map_err(|error| format!("{}: {error}", plan.group))?;
    // The mapping lives as long as the process, whichever thread ends it.
    let shared: &'static Shared = Box::leak(Box::new(shared));
    let slot = shared.groups().get(plan.group.index());
    let slot = slot.ok_or_else(|| format!("there is no {}", plan.group))?;
    panic::set_hook(Box::new(|info| {
        give_up(slot, Owner::Internal, &format!("a defect of schedvmm: {info}"))
    }));
    let common =
        prepare(plan, shared, slot).unwrap_or_else(|(owner, text)| give_up(slot, owner, &text));
    run_threads(&common, slot, plan);
    Ok(())
}

/// Ends the process with the reason where the supervisor looks for it. At once, from any
/// thread: the others may be waiting at the barrier for a load that will not begin.
fn give_up(slot: &GroupSlot, owner: Owner, text: &str) -> ! {
    slot.fail(owner, text);
    process::exit(1)
}

/// Lets the process have two files open for each thread, its records of switches and its
/// accounting, and some more. Without them evidence is missing, which the classes of gaps say; so
/// whoever may not raise the limit that far goes on with what he may have.
fn allow_files(threads: u64) {
    const OTHERS: u64 = 64;
    let wanted = threads * 2 + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum: maximum.map(|most| most.max(wanted)) };
    let most = Rlimit { current: maximum, maximum };
    // Only root may raise the maximum.
    let _ = setrlimit(Resource::Nofile, raised).or_else(|_| setrlimit(Resource::Nofile, most));
}

fn prepare<'a>(
    plan: &'a GroupPlan,
    shared: &'a Shared,
    slot: &GroupSlot,
) -> Result<Common<'a>, (Owner, String)> {
    let owner = plan.owner;
    allow_files(plan.spec.threads() as u64);
    die_with(plan.parent)
        .map_err(failed("the supervisor cannot be followed"))
        .map_err(|text| blame(text, owner))?;
    for procs in &plan.cgroups {
        // "0" is the process that writes.
        let entered = files::write_file(procs, "0");
        let text = format!("{} cannot be entered", procs.display());
        entered.map_err(failed(text)).map_err(|text| blame(text, owner))?;
    }
    if plan.cookie {
        // Whoever has no right to one cannot have been shown one by the probe.
        let made = core_sched::create_cookie().map_err(failed("no cookie could be made"));
        made.map_err(|text| (Owner::Kernel, text))?;
    }
    let trace =
        plan.trace.as_ref().map(open_trace).transpose().map_err(|text| blame(text, owner))?;
    let group = plan
        .spec
        .groups
        .first()
        .ok_or_else(|| (Owner::Internal, "its plan has no group".into()))?;
    let first = plan.first_thread as usize;
    let locked = memory::lock(shared, first..first + group.threads as usize);
    if let Some(note) = &locked.note {
        slot.note.set(note);
    }
    let places: Result<_, _> = plan.places.iter().map(|cpus| cpus.parse()).collect();
    let places = places.map_err(|error: CpuListError| (Owner::Internal, error.to_string()))?;
    // Its threads inherit this. Last of all: a real-time thread must not wait for the disk.
    sched_policy::apply(group.policy).map_err(|error| (error.owner, error.to_string()))?;
    let &GroupPlan { ref spec, group: index, first_thread, tsc_khz, iteration_ticks, .. } = plan;
    let stacks_locked = locked.stacks;
    Ok(Common {
        spec,
        index,
        first_thread,
        places,
        group,
        shared,
        tsc_khz,
        iteration_ticks,
        facts: thread_accounting::facts(),
        trace,
        stacks_locked,
    })
}

fn blame(text: String, owner: Owner) -> (Owner, String) {
    (owner, text)
}

/// Starts the threads and waits for their end; the process's first thread measures nothing.
fn run_threads(common: &Common<'_>, slot: &GroupSlot, plan: &GroupPlan) {
    thread::scope(|scope| {
        for index in (plan.first_thread..).take(common.group.threads as usize) {
            let member = common.member(index);
            // What the trace shows as the task's name; at most 15 bytes.
            let builder = thread::Builder::new().name(format!("load-{}", member.short()));
            let started = builder.stack_size(STACK_BYTES).spawn_scoped(scope, move || {
                let result = run(common, index);
                result.unwrap_or_else(|error| {
                    give_up(slot, plan.owner, &format!("{} {error}", member.thread))
                });
            });
            if let Err(error) = started {
                let text = format!("{} cannot be started: {error}", member.thread);
                give_up(slot, plan.owner, &text);
            }
        }
    });
}

/// Turns an error into a text with what it means.
fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn open_trace(stop: &TraceStop) -> Result<TraceFiles, String> {
    Ok(TraceFiles { marker: open_file(&stop.marker)?, switch: open_file(&stop.switch)? })
}

fn open_file(path: &Path) -> Result<File, String> {
    let file = files::open_for_writing(path);
    file.map_err(failed(format_args!("{} cannot be opened", path.display())))
}

/// Asks to be killed when the supervisor dies, which may have happened already.
fn die_with(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::other(format!("process {parent} is gone")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_files_for_every_thread() {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(512), ..before }).unwrap();
        allow_files(1000);
        let now = getrlimit(Resource::Nofile).current;
        setrlimit(Resource::Nofile, before).unwrap();
        // As many as there may be, for who is not root.
        let most =
            before.maximum.filter(|_| !crate::kernel::obstacle::is_root()).unwrap_or(u64::MAX);
        assert!(now.is_none_or(|now| now >= 2064.min(most)), "{now:?} of {before:?}");
    }
}
