// SPDX-License-Identifier: Apache-2.0
//! Whether threads stayed on the CPUs that they were bound to. A cpuset that changes, a CPU that
//! goes offline, and any tool can move them, and then it is something else that was measured.

use protocol::cpu_list::CpuSet;
use protocol::job::LoadSpec;
use results::model::{LostPin, Pins};
use vmm::vcpu::sched::VcpuThread;
use workload::kernel::affinity;

use crate::caller::Meanwhile;
use crate::session::Session;

/// Of all recorded gaps at most this part, in per cent, may have been elsewhere: a move that did
/// not last.
const MAX_ELSEWHERE_PERCENT: u64 = 1;
/// So many are named; the others are counted.
const MAX_NAMED: usize = 4;

/// Findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinCheck {
    /// As in result.json.
    pub found: Pins,
    gaps: u64,
    /// The gap that ended the run was one of them.
    hit_elsewhere: bool,
}

/// vCPU threads of ours that are not on their host CPUs any more.
pub fn lost_vcpus(threads: &[VcpuThread], pins: &[usize]) -> Vec<LostPin> {
    threads.iter().zip(pins).filter_map(lost_pin).collect()
}

fn lost_pin((thread, pin): (&VcpuThread, &usize)) -> Option<LostPin> {
    let bound_to: CpuSet = [u32::try_from(*pin).ok()?].into_iter().collect();
    // One that has ended is nowhere.
    let found = affinity::of_thread(thread.tid.cast_unsigned()).ok()?;
    (found != bound_to).then(|| LostPin {
        who: format!("the thread of vCPU {}", thread.cpu),
        bound_to: bound_to.to_string(),
        found_on: found.to_string(),
    })
}

impl PinCheck {
    /// Of a run that has ended, and of its vCPUs.
    pub fn new(session: &Session, load: &LoadSpec, nested: bool, vcpus: Vec<LostPin>) -> Self {
        let found = Pins { lost: vcpus, ..Pins::default() };
        let mut pins = Self { found, ..Self::default() };
        let bound = session.setup.iter().flat_map(|setup| &setup.affinity);
        let bound: Vec<CpuSet> = bound.map(|list| list.parse().unwrap_or_default()).collect();
        let reports = session.report.iter().flat_map(|report| &report.threads);
        for (thread, (bound_to, report)) in bound.iter().zip(reports).enumerate() {
            let found = report.affinity_end.as_deref().and_then(|list| list.parse::<CpuSet>().ok());
            if let Some(found) = found.filter(|found| found != bound_to) {
                pins.found.lost.push(LostPin {
                    who: load.name_of(thread),
                    bound_to: bound_to.to_string(),
                    found_on: found.to_string(),
                });
            }
        }
        if nested {
            // The records are of CPUs of machines, which nobody binds their threads to.
            return pins;
        }
        let mut cpus = Vec::new();
        for (thread, records) in session.gaps.iter().enumerate() {
            pins.gaps += records.len() as u64;
            for record in records {
                let before = cpus.len();
                cpus.extend(elsewhere(thread, [record.cpu_begin, record.cpu_end], &bound));
                pins.found.gaps_elsewhere += u64::from(cpus.len() > before);
            }
            // As many as there are CPUs, however many records there are.
            cpus.sort_unstable();
            cpus.dedup();
        }
        pins.found.cpus_elsewhere = cpus.into_iter().collect::<CpuSet>().to_string();
        pins.hit_elsewhere = session.hit.is_some_and(|hit| {
            let record = hit.gap.record;
            elsewhere(hit.gap.thread as usize, [record.cpu_begin, record.cpu_end], &bound)
                .next()
                .is_some()
        });
        pins
    }

    /// What a reader must know, and why it is no measurement where it is none.
    pub fn judge(&self) -> Meanwhile {
        let Pins { lost, gaps_elsewhere, cpus_elsewhere } = &self.found;
        let mut told = Vec::new();
        if !lost.is_empty() {
            let named: Vec<_> = lost.iter().take(MAX_NAMED).map(LostPin::to_string).collect();
            let more = match lost.len().saturating_sub(MAX_NAMED) {
                0 => String::new(),
                more => format!(", and {more} others"),
            };
            told.push(format!(
                "threads were moved while they were measured: {}{more} (by another tool, a cpuset \
                 that was changed, or a CPU that went offline)",
                named.join(", ")
            ));
        }
        if *gaps_elsewhere > 0 {
            told.push(format!(
                "{gaps_elsewhere} of {} recorded gaps were on CPUs {cpus_elsewhere}, which their \
                 threads were not bound to",
                self.gaps
            ));
        }
        let most = u128::from(self.gaps) * u128::from(MAX_ELSEWHERE_PERCENT);
        let many = u128::from(*gaps_elsewhere) * 100 > most;
        if !lost.is_empty() || many || self.hit_elsewhere {
            Meanwhile { notes: Vec::new(), faults: told }
        } else {
            Meanwhile { notes: told, faults: Vec::new() }
        }
    }
}

fn elsewhere(thread: usize, cpus: [u32; 2], bound: &[CpuSet]) -> impl Iterator<Item = u32> {
    let bound = bound.get(thread).filter(|bound| !bound.is_empty());
    cpus.into_iter().filter(move |cpu| bound.is_some_and(|bound| !bound.contains(*cpu)))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use gaps::record::GapRecord;
    use protocol::message::{Gap, Setup, ThresholdHit};
    use protocol::report::{LoadReport, ThreadReport};

    use super::*;
    use crate::testing::{self, load};

    /// Two threads bound to CPUs 2 and 3, found on these in the end, with gaps on those.
    fn session(found: [Option<&str>; 2], gaps: &[(u32, u32)]) -> Session {
        let mut session = Session::new(testing::limits(2), Instant::now());
        let affinity = vec!["2".into(), "3".into()];
        session.setup = Some(Setup { affinity, ..Setup::default() });
        let report = |end: Option<&str>| ThreadReport {
            affinity_end: end.map(str::to_owned),
            ..ThreadReport::default()
        };
        let threads = found.map(report).to_vec();
        session.report = Some(LoadReport { threads, ..LoadReport::default() });
        session.gaps[0] = gaps.iter().map(record).collect();
        session
    }

    fn record(&(cpu_begin, cpu_end): &(u32, u32)) -> GapRecord {
        GapRecord { cpu_begin, cpu_end, ..GapRecord::default() }
    }

    fn judged(session: &Session) -> Meanwhile {
        PinCheck::new(session, &load(1, 2, 4), false, Vec::new()).judge()
    }

    #[test]
    fn threads_that_stayed_are_no_matter() {
        let there = [Some("2"), Some("3")];
        assert_eq!(judged(&session(there, &[(2, 2); 10])), Meanwhile::default());
        // An agent that does not tell, or did not live to.
        assert_eq!(judged(&session([None, None], &[(2, 2)])), Meanwhile::default());
    }

    #[test]
    fn a_thread_that_is_elsewhere_in_the_end_is_no_measurement() {
        let Meanwhile { notes, faults } = judged(&session([Some("2"), Some("0-3")], &[]));
        assert!(notes.is_empty());
        assert!(faults[0].contains("from CPUs 3 to 0-3"), "{faults:?}");
    }

    #[test]
    fn a_few_gaps_elsewhere_are_told_and_many_are_no_measurement() {
        let there = [Some("2"), Some("3")];
        let mut gaps = vec![(2, 2); 199];
        gaps.push((2, 0));
        let few = judged(&session(there, &gaps));
        assert_eq!(few.faults, Vec::<String>::new());
        assert_eq!(
            few.notes,
            ["1 of 200 recorded gaps were on CPUs 0, which their threads were not bound to"]
        );
        gaps.extend([(1, 1), (0, 0)]);
        let many = judged(&session(there, &gaps));
        assert!(many.notes.is_empty() && many.faults[0].contains("3 of 202"), "{many:?}");
        assert!(many.faults[0].contains("CPUs 0-1"), "{many:?}");
        // In machines of the nested target each CPU has a number of its own.
        let session = session(there, &gaps);
        assert_eq!(
            PinCheck::new(&session, &load(1, 2, 4), true, vec![]).judge(),
            Meanwhile::default()
        );
    }

    #[test]
    fn a_verdict_never_stands_on_a_gap_elsewhere() {
        let mut gaps = vec![(2, 2); 400];
        gaps.push((0, 0));
        let mut session = session([Some("2"), Some("3")], &gaps);
        assert!(judged(&session).faults.is_empty());
        let gap = Gap { thread: 0, record: record(&(0, 0)) };
        session.hit = Some(ThresholdHit { tid: 7, gap });
        assert_eq!(judged(&session).faults.len(), 1);
    }

    #[test]
    fn a_vcpu_is_looked_for_where_it_was_put() {
        std::thread::spawn(|| {
            let here = affinity::of_this_thread().expect("affinity");
            let one = here.iter().next().expect("a CPU");
            affinity::confine_this_thread(&CpuSet::from_iter([one])).expect("pinned");
            let tid = affinity::this_thread().cast_signed();
            let thread = VcpuThread { cpu: 3, tid, cookie: 0 };
            let gone = VcpuThread { cpu: 4, tid: i32::MAX, cookie: 0 };
            assert_eq!(lost_vcpus(&[thread.clone(), gone], &[one as usize, 0]), []);
            let lost = lost_vcpus(&[thread], &[one as usize + 1]);
            let found = Pins { lost, ..Pins::default() };
            let faults = PinCheck { found, ..PinCheck::default() }.judge().faults;
            assert!(faults[0].contains("the thread of vCPU 3 from CPUs"), "{faults:?}");
        })
        .join()
        .expect("no panic");
    }
}
