// SPDX-License-Identifier: Apache-2.0
//! Whether a gap over the threshold is the kernel's. A run fails only where what is known of the host
//! does not explain such a gap; docs/method.md has the table, and what stays unknown.

use std::time::Duration;

use gaps::evidence::Class;
use gaps::stats::share;
use protocol::noise::NoiseFloor;
use results::model::{LocatedGap, ReasonCode, RunResult, Steal};

use crate::units::{as_ns, show_ns};

/// What a run must meet if a gap over the threshold is to be the kernel's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Greatest share of the time that the host may take, of 1.
    pub steal_budget: f64,
    /// Greatest share of the time that may be lost without a load, of 1.
    pub noise_budget: f64,
    /// A gap of a run beyond these budgets is one all the same.
    pub report_contaminated: bool,
    /// The kernel under test runs on hardware: what it calls an interrupt is one.
    pub on_hardware: bool,
}

impl Terms {
    /// Those that every run meets.
    pub const NONE: Self = Self {
        steal_budget: 1.0,
        noise_budget: 1.0,
        report_contaminated: false,
        on_hardware: false,
    };
}

/// Why a gap over the threshold may be the host's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Doubt {
    /// It took so much of the gap that the rest is not over the threshold.
    HostTook {
        /// So much, at most.
        host_ns: u64,
        /// The rest.
        net_ns: u64,
    },
    /// Nothing tells how much of it the host took.
    HostUnknown(Class),
    /// It took so much of the run.
    Contaminated {
        /// Part of the time wanted.
        share: f64,
        /// What it may be.
        budget: f64,
    },
    /// So much of the time was lost without a load.
    Noisy {
        /// Part of the time.
        share: f64,
        /// What it may be.
        budget: f64,
    },
    /// Without a load there was a gap of the threshold's size, which no scheduler made.
    NoiseGap(u64),
}

impl Doubt {
    /// For programs.
    pub fn code(self) -> ReasonCode {
        match self {
            Self::HostTook { .. } => ReasonCode::HostTook,
            Self::HostUnknown(_) => ReasonCode::HostUnknown,
            Self::Contaminated { .. } => ReasonCode::Contaminated,
            Self::Noisy { .. } | Self::NoiseGap(_) => ReasonCode::Noisy,
        }
    }

    /// Why this gap is no answer.
    pub fn reason(self, gap: &LocatedGap, threshold: Duration) -> String {
        let over = format!("a gap of {} over {threshold:?}", show_ns(gap.length_ns));
        match self {
            Self::HostTook { host_ns, net_ns } => format!(
                "{over} is not the kernel's alone: the host took up to {} of it, which leaves {}; \
                 repeat the run on a quieter host",
                show_ns(host_ns),
                show_ns(net_ns)
            ),
            Self::HostUnknown(class) => format!(
                "{over} may be the host's: its class is {}, and nothing tells how much of it the \
                 host took; repeat the run on a quieter host",
                class.name()
            ),
            beyond => format!(
                "{over} may be the host's: {}; repeat the run on a quieter host, or let it count \
                 (--on-contaminated report)",
                beyond.remark()
            ),
        }
    }

    /// What is to be said of a run whose gap counts all the same.
    pub fn remark(self) -> String {
        match self {
            Self::HostTook { host_ns, .. } => format!("the host took up to {}", show_ns(host_ns)),
            Self::HostUnknown(class) => format!("its class is {}", class.name()),
            Self::Contaminated { share, budget } => format!(
                "the host took {:.2} % of the time, more than --steal-budget {:.2} %",
                100.0 * share,
                100.0 * budget
            ),
            Self::Noisy { share, budget } => format!(
                "without a load {:.1} % of the time was lost, more than --noise-budget {:.1} %",
                100.0 * share,
                100.0 * budget
            ),
            Self::NoiseGap(longest_ns) => format!(
                "without a load there was one of {} that no scheduler made",
                show_ns(longest_ns)
            ),
        }
    }
}

/// Why this gap alone may be the host's.
pub fn of_gap(gap: &LocatedGap, threshold: Duration, on_hardware: bool) -> Option<Doubt> {
    let host_ns = gap.host_ns.unwrap_or(gap.host_known_ns);
    let net_ns = gap.length_ns.saturating_sub(host_ns);
    // Rounding takes nothing from a gap that is over the threshold by a tick.
    if host_ns > 0 && net_ns <= as_ns(threshold) {
        return Some(Doubt::HostTook { host_ns, net_ns });
    }
    match (gap.host_ns, gap.class) {
        // The rest is the kernel's; or by its own records of switches its scheduler ran something
        // else.
        (Some(_), _) | (None, Class::ScheduledOut) => None,
        (None, Class::Irq) if on_hardware => None,
        (None, class) => Some(Doubt::HostUnknown(class)),
    }
}

/// What was lost without a load: before it, and when it had ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noise<'a> {
    /// With what other tasks took.
    pub before: Option<&'a NoiseFloor>,
    /// Without: what the kernel does for the load that has ended is its own.
    pub after: Option<&'a NoiseFloor>,
}

impl<'a> Noise<'a> {
    /// Of a run.
    pub fn of(result: &'a RunResult) -> Self {
        let before = result.setup.as_ref().and_then(|setup| setup.noise.as_ref());
        Self { before, after: result.noise_after.as_ref() }
    }
}

/// Why any gap of a run may be the host's, in which it took so much, and that found such noise.
pub fn of_run(
    steal: &Steal,
    noise: Noise<'_>,
    noise_budget: f64,
    threshold: Duration,
) -> Option<Doubt> {
    if let Some(share) = steal.share.filter(|_| steal.contaminated) {
        return Some(Doubt::Contaminated { share, budget: steal.budget });
    }
    let shares = noise.before.map(|it| it.gap_share).into_iter().chain(noise.after.map(of_others));
    if let Some(share) = shares.into_iter().find(|share| *share > noise_budget) {
        return Some(Doubt::Noisy { share, budget: noise_budget });
    }
    let both = noise.before.into_iter().chain(noise.after);
    both.filter_map(|noise| noise_gap(noise, threshold)).max().map(Doubt::NoiseGap)
}

/// The part of the time that others took than tasks that the kernel let run.
fn of_others(noise: &NoiseFloor) -> f64 {
    let mut ticks = (0u64, 0u64);
    for it in noise.cpus.iter().flat_map(|cpu| &cpu.classes) {
        ticks.1 = ticks.1.saturating_add(it.gap_ticks);
        let of_others = if it.class == Class::ScheduledOut { 0 } else { it.gap_ticks };
        ticks.0 = ticks.0.saturating_add(of_others);
    }
    // Without classes nobody knows, and it may be all of it.
    noise.gap_share * share(ticks.0, ticks.1).unwrap_or(1.0)
}

/// The longest gap without a load, if it is of the threshold's size and may be none of the
/// scheduler's.
fn noise_gap(noise: &NoiseFloor, threshold: Duration) -> Option<u64> {
    let threshold_ns = as_ns(threshold);
    let of_this_size = noise.cpus.iter().filter(|cpu| {
        let all = cpu.classes.iter().fold(0u64, |sum, it| sum.saturating_add(it.gap_ticks));
        let own = cpu.classes.iter().filter(|it| it.class == Class::ScheduledOut);
        let own = own.fold(0u64, |sum, it| sum.saturating_add(it.gap_ticks));
        // Only sums are known by class: one of others is no longer than all of others.
        let others = u128::from(all - own) * u128::from(cpu.gap_ns);
        let others_ns = others.checked_div(u128::from(all)).unwrap_or(0);
        cpu.longest_ns >= threshold_ns && others_ns >= u128::from(threshold_ns)
    });
    of_this_size.map(|cpu| cpu.longest_ns).max()
}

#[cfg(test)]
#[path = "doubt_tests.rs"]
mod tests;
