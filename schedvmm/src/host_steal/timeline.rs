// SPDX-License-Identifier: Apache-2.0
//! When one vCPU's thread was off the host's CPUs. Times are TSC readings.

use std::collections::VecDeque;

/// So many times off the CPU are kept, the latest: gaps are judged once a second.
const MAX_OFF_CPU: usize = 32_768;
/// So many readings of the host's accounts: some minutes.
const MAX_ACCOUNTS: usize = 4096;

/// From a switch to something else until the switch back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OffCpu {
    begin: u64,
    end: u64,
    /// It was still ready to run.
    preempted: bool,
}

/// How much of an interval the thread was away, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// It was ready to run all the time: the host ran something else.
    pub preempted: u64,
    /// Away for whatever reason: that, or it had halted, or was stopped.
    pub absent: u64,
    /// Upper bound of the time it waited for a CPU after a wake-up.
    pub late: u64,
    /// Upper bound of the time it halted, where that is known.
    pub halted: Option<u64>,
}

/// The host's accounts of a thread since some moment, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Time in which it was ready and did not run.
    pub waited: u64,
    /// Time in halts that have ended.
    pub halted: Option<u64>,
}

/// Absences of some time, in ticks.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    /// In which it was not ready to run: as far as they are in an interval.
    away: u64,
    /// The same, whole.
    all_away: u64,
    /// In which it was ready to run, whole.
    all_preempted: u64,
}

impl Taken {
    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            preempted: self.preempted.max(other.preempted),
            absent: self.absent.max(other.absent),
            late: self.late.max(other.late),
            halted: self.halted.zip(other.halted).map(|(one, other)| one.max(other)),
        }
    }
}

/// When one vCPU was off its CPU.
#[derive(Debug)]
pub struct VcpuTimeline {
    off_cpu: VecDeque<OffCpu>,
    /// Readings of the host's accounts, and when.
    accounts: VecDeque<(u64, Account)>,
    /// All times off the CPU that ended after this are here.
    complete_since: u64,
    /// When it left, if it has not come back: and whether it was ready to run.
    left: Option<(u64, bool)>,
}

impl VcpuTimeline {
    /// Of a thread that is watched from now on.
    pub fn new(now: u64) -> Self {
        Self {
            off_cpu: VecDeque::new(),
            accounts: VecDeque::new(),
            complete_since: now,
            left: None,
        }
    }

    /// It was switched out.
    pub fn leaves(&mut self, at: u64, preempted: bool) {
        self.left = Some((at, preempted));
    }

    /// It was switched in.
    pub fn returns(&mut self, at: u64) {
        let Some((begin, preempted)) = self.left.take().filter(|(begin, _)| *begin < at) else {
            return;
        };
        if self.off_cpu.len() == MAX_OFF_CPU
            && let Some(oldest) = self.off_cpu.pop_front()
        {
            self.complete_since = self.complete_since.max(oldest.end);
        }
        self.off_cpu.push_back(OffCpu { begin, end: at, preempted });
    }

    /// Switches until this moment are not known.
    pub fn lost(&mut self, until: u64) {
        self.left = None;
        self.complete_since = self.complete_since.max(until);
    }

    /// What the host has counted by now.
    pub fn counted(&mut self, at: u64, account: Account) {
        if self.accounts.len() == MAX_ACCOUNTS {
            self.accounts.pop_front();
        }
        self.accounts.push_back((at, account));
    }

    /// What was taken from this interval; `None` where not all of it is known.
    pub fn taken(&self, begin: u64, end: u64) -> Option<Taken> {
        if begin < self.complete_since {
            return None;
        }
        let (preempted, absent) = self.sums(begin, end);
        let around = self.around(begin, end);
        // What is known to have been waiting with work in hand is in the account, too.
        let late = around.as_ref().map_or(0, |(from, to, counted)| {
            counted.waited.saturating_sub(self.sums(*from, *to).0)
        });
        let halted = around.and_then(|(_, _, counted)| counted.halted);
        Some(Taken { preempted, absent, late, halted })
    }

    /// What the host took of this interval for certain: the time for which it ran something else while
    /// the vCPU was ready to run, as far as its records are here.
    pub fn surely_taken(&self, begin: u64, end: u64) -> u64 {
        let away = self.left.filter(|(_, preempted)| *preempted);
        let away = away.map_or(0, |(left, _)| end.saturating_sub(left.max(begin)));
        self.sums(begin, end).0 + away
    }

    /// For how long the host ran something else from where this interval begins, give or take so many
    /// ticks, while the vCPU was ready to run: whoever ran there was charged for it.
    pub fn preempted_at(&self, begin: u64, end: u64, slack: u64) -> u64 {
        let first = self.off_cpu.partition_point(|off| off.end <= begin);
        let mut reached = begin;
        for off in self.off_cpu.range(first..) {
            if !off.preempted || off.begin > reached.saturating_add(slack) || off.begin >= end {
                return reached - begin;
            }
            reached = off.end.min(end);
        }
        match self.left {
            Some((left, true)) if left <= reached.saturating_add(slack) => end - begin.min(end),
            _ => reached - begin,
        }
    }

    /// The most that the host can have taken of this interval: the time for which it ran something
    /// else, and that for which the vCPU was neither there nor, for certain, halted. `None` where
    /// not all of it is known.
    pub fn most_taken(&self, begin: u64, end: u64) -> Option<u64> {
        if begin < self.complete_since {
            return None;
        }
        let (mut preempted, absent) = self.sums(begin, end);
        let away = absent - preempted;
        if let Some((left, _)) = self.left {
            // It is away and not back, and a halt is counted when it has ended: whether it halts
            // nobody knows.
            preempted += end.saturating_sub(left.max(begin));
        }
        if away == 0 {
            return Some(preempted);
        }
        let (from, to, counted) = self.around(begin, self.last_return(begin, end).max(end))?;
        if from < self.complete_since {
            return None;
        }
        let found = self.ended_within(begin, end, (from, to));
        let others = found.all_away - found.away;
        let halted = counted.halted?.saturating_sub(others).min(found.away);
        // What it waited after a halt is in the account of waiting, as all else is.
        let late = counted.waited.saturating_sub(found.all_preempted);
        Some(preempted + (found.away - halted).saturating_add(late).min(found.away))
    }

    /// Whether it is away and not back, as far as is known.
    pub fn is_away(&self) -> bool {
        self.left.is_some()
    }

    /// When it was back for good of what it was away for in this interval; 0 if it was there.
    fn last_return(&self, begin: u64, end: u64) -> u64 {
        let first = self.off_cpu.partition_point(|off| off.end <= begin);
        let within = self.off_cpu.range(first..).take_while(|off| off.begin < end);
        within.map(|off| off.end).max().unwrap_or(0)
    }

    /// Absences that ended after `from`, and by `to`: as far as they are in the interval, and whole.
    fn ended_within(&self, begin: u64, end: u64, (from, to): (u64, u64)) -> Ended {
        let first = self.off_cpu.partition_point(|off| off.end <= from);
        let within = self.off_cpu.range(first..).take_while(|off| off.end <= to);
        within.fold(Ended::default(), |mut found, off| {
            let whole = off.end - off.begin;
            if off.preempted {
                found.all_preempted += whole;
            } else {
                found.all_away += whole;
                found.away += off.end.min(end).saturating_sub(off.begin.max(begin));
            }
            found
        })
    }

    fn sums(&self, begin: u64, end: u64) -> (u64, u64) {
        let first = self.off_cpu.partition_point(|off| off.end <= begin);
        let within = self.off_cpu.range(first..).take_while(|off| off.begin < end);
        within.fold((0, 0), |(preempted, absent), off| {
            let ticks = off.end.min(end).saturating_sub(off.begin.max(begin));
            (if off.preempted { preempted + ticks } else { preempted }, absent + ticks)
        })
    }

    /// The shortest interval around this one whose ends the accounts were read at, and what was
    /// counted in it.
    fn around(&self, begin: u64, end: u64) -> Option<(u64, u64, Account)> {
        let after_begin = self.accounts.partition_point(|(at, _)| *at <= begin);
        let (from, before) = *self.accounts.get(after_begin.checked_sub(1)?)?;
        let (to, after) = *self.accounts.get(self.accounts.partition_point(|(at, _)| *at < end))?;
        let halted = after.halted.zip(before.halted);
        let counted = Account {
            waited: after.waited.saturating_sub(before.waited),
            halted: halted.map(|(after, before)| after.saturating_sub(before)),
        };
        Some((from, to, counted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> VcpuTimeline {
        let mut timeline = VcpuTimeline::new(100);
        for (begin, end, preempted) in [(200, 300, true), (400, 500, false), (500, 600, true)] {
            timeline.leaves(begin, preempted);
            timeline.returns(end);
        }
        timeline
    }

    fn taken(preempted: u64, absent: u64, late: u64) -> Option<Taken> {
        Some(Taken { preempted, absent, late, halted: None })
    }

    #[test]
    fn absences_count_as_far_as_they_are_in_the_interval() {
        let timeline = timeline();
        assert_eq!(timeline.taken(100, 200), taken(0, 0, 0));
        assert_eq!(timeline.taken(250, 420), taken(50, 70, 0));
        assert_eq!(timeline.taken(150, 900), taken(200, 300, 0));
        assert_eq!(timeline.taken(550, 560), taken(10, 10, 0));
        // Nobody watched before.
        assert_eq!(timeline.taken(99, 900), None);
    }

    #[test]
    fn who_runs_where_the_host_takes_the_cpu_is_charged() {
        let mut timeline = timeline();
        // Ready to run, it is away from 200 to 300, and from 500 to 600.
        assert_eq!(timeline.preempted_at(150, 900, 10), 0);
        assert_eq!(timeline.preempted_at(195, 900, 10), 105);
        assert_eq!(timeline.preempted_at(195, 250, 10), 55);
        // From 400 to 500 it halts, as a hyperthread does that is forced to idle.
        assert_eq!(timeline.preempted_at(395, 900, 10), 0);
        assert_eq!(timeline.preempted_at(495, 900, 10), 0);
        assert_eq!(timeline.preempted_at(700, 900, 10), 0);
        timeline.leaves(705, true);
        assert_eq!(timeline.preempted_at(700, 900, 10), 200);
        assert_eq!(timeline.preempted_at(650, 900, 10), 0);
    }

    #[test]
    fn what_is_known_is_known_whatever_was_lost() {
        let mut timeline = timeline();
        assert_eq!(timeline.surely_taken(0, 900), 200);
        assert_eq!(timeline.surely_taken(250, 550), 100);
        timeline.lost(550);
        assert_eq!(timeline.most_taken(250, 900), None);
        assert_eq!(timeline.surely_taken(250, 900), 150);
        // It is away, and was ready to run; or was not.
        timeline.leaves(700, true);
        assert_eq!(timeline.surely_taken(250, 900), 350);
        timeline.returns(750);
        timeline.leaves(800, false);
        assert_eq!(timeline.surely_taken(250, 900), 200);
    }

    #[test]
    fn what_was_lost_is_not_known() {
        let mut timeline = timeline();
        timeline.leaves(700, true);
        timeline.lost(750);
        timeline.returns(800);
        assert_eq!(timeline.taken(650, 900), None);
        assert_eq!(timeline.taken(750, 900), taken(0, 0, 0));
        // A return without a departure, or into the past.
        timeline.returns(850);
        timeline.leaves(900, true);
        timeline.returns(900);
        assert_eq!(timeline.taken(750, 1000), taken(0, 0, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut timeline = VcpuTimeline::new(0);
        for n in 0..MAX_OFF_CPU as u64 + 10 {
            timeline.leaves(10 * n, true);
            timeline.returns(10 * n + 5);
            timeline.counted(10 * n, Account::default());
        }
        assert_eq!((timeline.off_cpu.len(), timeline.accounts.len()), (MAX_OFF_CPU, MAX_ACCOUNTS));
        // The ten that were given up, and the last of them.
        assert_eq!(timeline.taken(94, 200), None);
        assert_eq!(timeline.taken(95, 200).map(|taken| taken.preempted), Some(50));
    }

    /// A vCPU that leaves for 100 ticks at 400, ready to run or not, of which the host says that it
    /// halted and waited for so long between its readings at 300 and 700.
    fn most(preempted: bool, halted: Option<u64>, waited: u64) -> Option<u64> {
        let mut timeline = VcpuTimeline::new(100);
        timeline.counted(300, Account { waited: 50, halted: halted.map(|_| 10) });
        timeline.leaves(400, preempted);
        timeline.returns(500);
        // Outside of what is asked for, and in both accounts.
        timeline.leaves(600, false);
        timeline.returns(630);
        timeline.counted(700, Account { waited: 50 + waited, halted: halted.map(|it| it + 10) });
        timeline.most_taken(380, 520)
    }

    #[test]
    fn the_host_took_at_most_what_was_no_halt() {
        // It ran something else.
        assert_eq!(most(true, Some(30), 100), Some(100));
        assert_eq!(most(true, None, 100), Some(100));
        // It halted all the time; it halted for less; it was stopped.
        assert_eq!(most(false, Some(130), 0), Some(0));
        assert_eq!(most(false, Some(100), 0), Some(30));
        assert_eq!(most(false, Some(30), 0), Some(100));
        // It halted, and was late afterwards: here or at the other halt.
        assert_eq!(most(false, Some(130), 40), Some(40));
        assert_eq!(most(false, Some(130), 400), Some(100));
        assert_eq!(most(false, Some(100), 90), Some(100));
        // Nobody counts its halts.
        assert_eq!(most(false, None, 0), None);
    }

    #[test]
    fn what_is_not_known_bounds_nothing() {
        let mut timeline = timeline();
        assert_eq!(timeline.most_taken(99, 900), None, "nobody watched before");
        assert_eq!(timeline.most_taken(210, 390), Some(90), "it was there, or ready to run");
        assert_eq!(timeline.most_taken(410, 900), None, "no account");
        timeline.counted(350, Account { waited: 0, halted: Some(0) });
        timeline.counted(950, Account { waited: 100, halted: Some(100) });
        assert_eq!(timeline.most_taken(410, 900), Some(100));
        // Away, and not back: nobody knows that it halts.
        for preempted in [true, false] {
            timeline.leaves(1000, preempted);
            assert_eq!(timeline.most_taken(960, 1020), Some(20));
        }
        timeline.lost(1100);
        assert_eq!(timeline.most_taken(960, 1200), None);
        timeline.leaves(1150, false);
        timeline.returns(1160);
        timeline.counted(1200, Account { waited: 100, halted: Some(110) });
        assert_eq!(timeline.most_taken(1120, 1180), None, "its account begins before the loss");
    }

    /// One that was kicked out of a halt, and that the host did not run for long.
    #[test]
    fn an_absence_is_judged_when_it_has_ended() {
        let mut timeline = VcpuTimeline::new(100);
        timeline.counted(200, Account { waited: 0, halted: Some(0) });
        timeline.leaves(300, false);
        timeline.counted(450, Account { waited: 0, halted: Some(0) });
        timeline.returns(500);
        assert_eq!(timeline.most_taken(320, 420), None, "no reading after its return");
        // It halted for 10, and waited for 190.
        timeline.counted(600, Account { waited: 190, halted: Some(10) });
        assert_eq!(timeline.most_taken(320, 420), Some(100));
        let mut halted = VcpuTimeline::new(100);
        halted.counted(200, Account { waited: 0, halted: Some(0) });
        halted.leaves(300, false);
        halted.returns(500);
        halted.counted(600, Account { waited: 0, halted: Some(200) });
        assert_eq!(halted.most_taken(320, 420), Some(0));
    }

    #[test]
    fn accounts_are_of_the_time_between_their_readings() {
        let mut timeline = timeline();
        assert_eq!(timeline.taken(450, 480), taken(0, 30, 0));
        timeline.counted(350, Account { waited: 1000, halted: Some(50) });
        timeline.counted(620, Account { waited: 1170, halted: Some(150) });
        // 170 in all, of which 100 between 500 and 600.
        assert_eq!(
            timeline.taken(450, 480),
            Some(Taken { preempted: 0, absent: 30, late: 70, halted: Some(100) })
        );
        assert_eq!(timeline.taken(450, 700), taken(100, 150, 0), "no reading after it");
        assert_eq!(timeline.taken(310, 480), taken(0, 80, 0), "no reading before it");
        // A KVM that does not count them.
        timeline.counted(700, Account { waited: 1170, halted: None });
        assert_eq!(timeline.taken(640, 680), taken(0, 0, 0));
    }
}
