// SPDX-License-Identifier: Apache-2.0
//! The end of every run (`--wall-limit`). Each wait of a run has a deadline that what it waits for
//! moves on; this one nothing moves, so that a guest that goes on and on ends all the same.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{io, thread};

use protocol::job::Job;
use results::model::Stage;

use crate::cli::RunArgs;
use crate::overrun::Overrun;
use crate::session::QUIET_STAGES;
use crate::signals;

/// More than the sum of all deadlines: what a slow machine takes between them.
const ROOM: Duration = Duration::from_secs(60);
/// The load takes this many times of what it was asked to, at most: threads that are starved end
/// late.
const DURATION_FACTOR: u32 = 3;
/// A trace that comes more slowly than this is a hang.
const TRACE_KIB_PER_SECOND: u64 = 256;
/// A virtual machine of the load that comes no further for this long is given up by the agent;
/// they boot one after the other in the worst case.
const VM_SILENCE: Duration = Duration::from_secs(300);
/// What is done after the end (a trace is read, a result written) takes at most this time and the
/// limit once more; then the process leaves, whatever holds it.
const CONCLUSION: Duration = Duration::from_secs(600);

/// The limit of a run that nobody gave one: what its phases may take by their own deadlines, and
/// room. `boot` is the boot's deadline, `vms` the time in which virtual machines in it are to boot.
pub fn default_limit(job: &Job, boot: Duration, cpus: u32, vms: Duration) -> Duration {
    let trace = job.trace.as_ref().map_or(0, |trace| u64::from(trace.buffer_kib) * u64::from(cpus));
    let load = job.load.duration.saturating_mul(DURATION_FACTOR);
    let phases = [load, QUIET_STAGES, vms, Duration::from_secs(trace / TRACE_KIB_PER_SECOND), ROOM];
    phases.into_iter().fold(boot, Duration::saturating_add)
}

/// The limit of a run in a machine of so many vCPUs: as asked, else by default.
pub fn limit_of_machine(args: &RunArgs, job: &Job, cpus: u32) -> Duration {
    let nested = &args.nested;
    let vms = if nested.nested {
        vms_limit(nested.l2_boot_timeout, nested.l2_count)
    } else {
        Duration::ZERO
    };
    let boot = args.machine.boot_timeout;
    args.show.caps.wall_limit.unwrap_or_else(|| default_limit(job, boot, cpus, vms))
}

/// For virtual machines: the time that they were given, or what each may take.
fn vms_limit(asked: Option<Duration>, count: u32) -> Duration {
    asked.unwrap_or_else(|| VM_SILENCE.saturating_mul(count))
}

/// A run's limit, from its begin on.
#[derive(Debug)]
pub struct WallLimit {
    limit: Duration,
    begin: Instant,
    /// Ends the watch when it goes away.
    _watch: Option<Sender<()>>,
}

impl WallLimit {
    /// A run that began at `begin` and may take `limit`.
    ///
    /// # Errors
    /// No thread left.
    pub fn start(limit: Duration, begin: Instant) -> io::Result<Self> {
        let (watch, watched) = mpsc::channel::<()>();
        let patience = limit.saturating_mul(2).saturating_add(CONCLUSION);
        thread::Builder::new().name("schedvmm-wall".into()).spawn(move || {
            if watched.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                signals::leave_overrun();
            }
        })?;
        Ok(Self { limit, begin, _watch: Some(watch) })
    }

    /// The run that is over its limit, if it is.
    pub fn overrun(&self, now: Instant, stage: Stage) -> Option<Overrun> {
        (now.duration_since(self.begin) >= self.limit)
            .then_some(Overrun { limit: self.limit, stage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use protocol::job::CoschedRequest;

    #[test]
    fn the_default_is_longer_than_what_phases_may_take() {
        let mut load = testing::load(1, 1, 1);
        load.duration = Duration::from_secs(30);
        let job = Job::new(load, CoschedRequest::None);
        let boot = Duration::from_secs(60);
        let limit = default_limit(&job, boot, 4, Duration::ZERO);
        assert!(limit >= boot + Duration::from_secs(3 * 30) + QUIET_STAGES + ROOM, "{limit:?}");
        let nested = default_limit(&job, boot, 4, vms_limit(None, 8));
        assert_eq!(nested, limit + 8 * VM_SILENCE);
        let asked = vms_limit(Some(Duration::from_secs(7)), 8);
        assert_eq!(asked, Duration::from_secs(7));
        // Absurd ones do not wrap around.
        assert_eq!(default_limit(&job, Duration::MAX, 4, asked), Duration::MAX);
    }

    #[test]
    fn a_limit_is_passed_once_it_is() {
        let begin = Instant::now();
        let wall = WallLimit::start(Duration::from_secs(9), begin).expect("a thread");
        assert_eq!(wall.overrun(begin + Duration::from_secs(8), Stage::Run), None);
        let over = wall.overrun(begin + Duration::from_secs(9), Stage::Run).expect("over");
        assert_eq!(over.stage, Stage::Run);
        let reason = over.reason();
        assert!(reason.contains("(--wall-limit)") && reason.contains("sign of life"), "{reason}");
    }
}
