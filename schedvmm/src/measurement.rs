// SPDX-License-Identifier: Apache-2.0
//! A measurement under way, in a machine or on the running kernel: what is known of it so far,
//! where that is told, and where it is kept.

use std::collections::BTreeMap;
use std::slice;
use std::time::{Duration, Instant};

use protocol::job::Job;
use results::clock::Clock;
use results::folder::{Folder, FolderError};
use results::model::{LostPin, Phase, RunResult, Target, Trace};

use crate::analysis::parted::clock_of;
use crate::analysis::threads;
use crate::caller::{Caller, Meanwhile};
use crate::compose::{Account, Origin};
use crate::deliver::{Checkpoints, Delivery, SoFar};
use crate::limits;
use crate::pins::PinCheck;
use crate::session::{Notice, Session};
use crate::show::Show;
use crate::verdict::{End, Verdict, judge};

/// Said where gaps.csv has reached its size.
const GAPS_CUT: &str =
    "gaps.csv is full (--max-gaps-csv): gaps after those in it are in the figures only";

/// What is measured on what, and all that is known of it.
pub struct Measurement {
    pub job: Job,
    pub session: Session,
    pub origin: Origin,
    pub caller: Caller,
    pub show: Show,
    pub folder: Folder,
    pub checkpoints: Checkpoints,
    /// Milliseconds until the load's kernel was entered.
    pub built_ms: u64,
}

impl Measurement {
    /// Tells what came up after the start, and keeps it for the result.
    pub fn note(&mut self, note: String) {
        self.show.notes(slice::from_ref(&note));
        self.origin.notes.push(note);
    }

    /// The same, unless it has been told.
    pub fn note_once(&mut self, note: String) {
        if !self.origin.notes.contains(&note) {
            self.note(note);
        }
    }

    /// From ticks of the load to times.
    pub fn clock(&self) -> Clock<'_> {
        clock_of(&self.session, &self.job.load)
    }

    /// Shows what is worth it, and keeps on the disk what there is.
    pub fn announce(&mut self, notice: &Notice) {
        if let Notice::Started = notice {
            self.caller.load_begins();
            // Now: who wants the trace need not wait for the end of a run without it.
            self.session.notes_at_start().into_iter().for_each(|note| self.note(note));
        }
        self.show.notice(notice, self.clock(), self.job.load.duration);
        if let Notice::Started | Notice::Second(_) = notice {
            self.checkpoint();
        }
    }

    /// What was measured until now outlives this process.
    fn checkpoint(&mut self) {
        let begin = Instant::now();
        let result = self.checkpoints.result_is_due().then(|| self.result_so_far());
        let so_far = SoFar {
            gaps: &self.session.gaps,
            clock: clock_of(&self.session, &self.job.load),
            result: result.as_ref(),
            begin,
        };
        let lost = self.checkpoints.keep(&mut self.folder, &so_far);
        lost.into_iter().for_each(|note| self.note(note));
        if self.folder.gaps_are_cut() {
            self.note_once(GAPS_CUT.to_owned());
        }
    }

    /// The result as it would be if the run ended now.
    fn result_so_far(&self) -> RunResult {
        let verdict = judge(&self.session, &self.job, self.origin.terms, &End::UnderWay, "");
        let phases_ms = threads::phases_ms(&self.session, self.built_ms, Instant::now());
        Account { ended: false, ..self.account(&verdict, phases_ms) }.result()
    }

    /// What others did while the load ran: told, or a reason why the run says nothing of the
    /// kernel.
    pub fn judge_others(&mut self, meanwhile: Meanwhile, vcpus: Vec<LostPin>) {
        let nested = self.origin.target == Target::Nested;
        let check = PinCheck::new(&self.session, &self.job.load, nested, vcpus);
        let Meanwhile { notes, faults } = meanwhile.and(check.judge());
        self.origin.pins = check.found;
        notes.into_iter().for_each(|note| self.note(note));
        self.session.invalid.extend(faults);
    }

    /// The result of a run that has ended, and what it comes to by the limits on its figures.
    pub fn result(&self, verdict: Verdict, trace: Trace, span: Span) -> (RunResult, Verdict) {
        let mut phases_ms = threads::phases_ms(&self.session, self.built_ms, span.decided);
        phases_ms.extend(self.session.vm_phases_ms());
        phases_ms.insert(Phase::Total, millis(span.begin.elapsed()));
        let mut result = Account { trace, ..self.account(&verdict, phases_ms) }.result();
        let Origin { limits, terms, .. } = &self.origin;
        let verdict = limits::judge(limits, *terms, self.session.stage(), &mut result, verdict);
        (result, verdict)
    }

    /// Completes a result, writes and shows it.
    ///
    /// # Errors
    /// It could not be written, which has been told.
    pub fn deliver(&mut self, result: &mut RunResult) -> Result<(), FolderError> {
        // Those of the last second.
        let clock = clock_of(&self.session, &self.job.load);
        let _ = self.folder.add_gaps(&self.session.gaps, clock);
        if self.folder.gaps_are_cut() && !result.notes.iter().any(|note| note == GAPS_CUT) {
            result.notes.push(GAPS_CUT.to_owned());
        }
        Delivery { folder: &mut self.folder, session: &self.session, show: &self.show }
            .deliver(result)
    }

    fn account<'a>(&'a self, verdict: &'a Verdict, phases_ms: BTreeMap<Phase, u64>) -> Account<'a> {
        Account {
            origin: self.origin.clone(),
            session: &self.session,
            job: &self.job,
            caller: Some(self.caller.facts().clone()),
            trace: Trace::default(),
            phases_ms,
            verdict,
            ended: true,
        }
    }
}

/// When a run began, and when its end was known.
#[derive(Clone, Copy)]
pub struct Span {
    pub begin: Instant,
    pub decided: Instant,
}

/// A duration in milliseconds, as results have it.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
