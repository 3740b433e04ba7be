// SPDX-License-Identifier: Apache-2.0
//! One load of a case, with something done to it meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use gaps::record::{GapKind, GapRecord};
use protocol::job::LoadSpec;
use protocol::message::{ThresholdHit, Tick};
use workload::context::WorkloadContext;
use workload::observer::{Observer, Prepared};
use workload::supervisor;

use crate::verbs::selftest::inject::{self, Policy};

/// What is done to a load that runs: gets the groups' process IDs.
pub type Action<T> = Box<dyn FnOnce(Vec<u32>) -> T + Send>;

/// Measurements, and the return value of the action.
pub struct Measured<T> {
    /// The gaps of each thread.
    pub gaps: Vec<Vec<GapRecord>>,
    /// TSC when the load began.
    pub tsc_start: u64,
    /// What the action made of it.
    pub done: T,
}

/// Runs a load, and the action beside it; the load ends with the action.
///
/// # Errors
/// Reason why the load did not run to its end.
pub fn measure<T: Send + 'static>(
    spec: &LoadSpec,
    context: &WorkloadContext,
    action: Action<T>,
) -> Result<Measured<T>, String> {
    let mut watcher = Watcher {
        gaps: vec![Vec::new(); spec.threads()],
        tsc_start: 0,
        pids: Vec::new(),
        action: Some(action),
        acting: None,
        ended: Arc::new(AtomicBool::new(false)),
        above: None,
    };
    let outcome = supervisor::run(spec, context, &mut watcher);
    let fault = match outcome {
        Ok(outcome) => outcome.fault,
        Err(error) => Some(error),
    };
    // Bounded: every action ends by itself, at the latest when the load is gone.
    let done = watcher.acting.map(JoinHandle::join);
    if let Some(error) = fault {
        return Err(crate::status::chain(error));
    }
    match done {
        Some(Ok(done)) => Ok(Measured { gaps: watcher.gaps, tsc_start: watcher.tsc_start, done }),
        _ => Err("the load never began, or what was done to it panicked".into()),
    }
}

struct Watcher<T> {
    gaps: Vec<Vec<GapRecord>>,
    tsc_start: u64,
    pids: Vec<u32>,
    action: Option<Action<T>>,
    acting: Option<JoinHandle<T>>,
    ended: Arc<AtomicBool>,
    /// Whoever ends the load must not wait behind it.
    above: Option<Policy>,
}

impl<T: Send + 'static> Observer for Watcher<T> {
    fn prepared(&mut self, _prepared: &Prepared) -> io::Result<()> {
        self.above = Policy::fifo(inject::HOG_PRIORITY + 1);
        Ok(())
    }

    fn released(&mut self, tsc_start: u64) -> io::Result<()> {
        self.tsc_start = tsc_start;
        let (Some(action), ended) = (self.action.take(), self.ended.clone()) else {
            return Ok(());
        };
        let pids = self.pids.clone();
        self.acting = Some(thread::Builder::new().name("selftest".into()).spawn(move || {
            let done = action(pids);
            ended.store(true, Ordering::Release);
            done
        })?);
        Ok(())
    }

    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()> {
        if let Some(gaps) = self.gaps.get_mut(thread as usize) {
            // What is made here is made of threads that run.
            gaps.extend(records.iter().filter(|gap| gap.kind == GapKind::Preemption));
        }
        Ok(())
    }

    fn tick(&mut self, _tick: Tick) -> io::Result<()> {
        Ok(())
    }

    fn hit(&mut self, _hit: ThresholdHit) -> io::Result<()> {
        Ok(())
    }

    fn stop_requested(&mut self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn processes(&mut self, pids: &[u32]) {
        self.pids = pids.to_vec();
    }
}
