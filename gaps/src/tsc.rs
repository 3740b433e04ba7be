// SPDX-License-Identifier: Apache-2.0
//! The time stamp counter: reading it, and turning its ticks into time.
//!
//! RDTSCP rather than RDTSC: it waits until earlier instructions have executed, and it returns
//! the CPU it ran on in the same instruction, so a migration across a gap costs nothing to see.

use std::arch::x86_64::{__cpuid, __cpuid_count, __rdtscp};

use serde::{Deserialize, Serialize};

/// One reading of the counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The counter.
    pub tsc: u64,
    /// The CPU it was read on.
    pub cpu: u32,
}

/// Linux keeps `node << 12 | cpu` in TSC_AUX (arch/x86/include/asm/segment.h, VDSO_CPUNODE_BITS).
const CPU_MASK: u32 = 0xfff;

/// Sources that differ by more than this are reported as disagreeing: 0.05 %.
pub const DISAGREEMENT_LIMIT_PPM: f64 = 500.0;

/// Reads the counter and the CPU.
///
/// The caller has made sure with [`has_rdtscp`] that the instruction exists.
#[inline(always)]
pub fn read() -> Reading {
    let mut aux = 0;
    // SAFETY: RDTSCP writes three registers and, here, one local variable. Without the
    // instruction the CPU raises #UD, which ends the process; it cannot break memory.
    let tsc = unsafe { __rdtscp(&raw mut aux) };
    Reading { tsc, cpu: aux & CPU_MASK }
}

/// Whether this CPU has RDTSCP (CPUID 0x80000001, EDX bit 27).
pub fn has_rdtscp() -> bool {
    __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).edx & (1 << 27) != 0
}

/// Ticks as nanoseconds, rounded down; saturates where a `u64` does not hold them.
///
/// `khz` of 0 means that the frequency is unknown, and gives 0.
pub fn ticks_to_ns(ticks: u64, khz: u64) -> u64 {
    scale(ticks, 1_000_000, khz)
}

/// Nanoseconds as ticks, rounded down; saturates where a `u64` does not hold them.
pub fn ns_to_ticks(ns: u64, khz: u64) -> u64 {
    scale(ns, khz, 1_000_000)
}

fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    // All but the longest times fit, and dividing u128 takes several times as long.
    if let Some(quotient) =
        value.checked_mul(numerator).and_then(|product| product.checked_div(denominator))
    {
        return quotient;
    }
    let product = u128::from(value) * u128::from(numerator);
    product
        .checked_div(u128::from(denominator))
        .map_or(0, |quotient| u64::try_from(quotient).unwrap_or(u64::MAX))
}

/// Where a TSC frequency came from, in the order in which they are trusted.
///
/// KVM's figure comes first because it is the one the guest's clocks are made from. The CPUID
/// leaves are what a hypervisor or the CPU promises. The slope is measured, so it carries the
/// noise of the machine, and is used only where nothing else is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `KVM_GET_TSC_KHZ`, handed over in the job.
    Kvm,
    /// CPUID leaf 0x15.
    #[serde(rename = "cpuid-15")]
    Cpuid15,
    /// CPUID leaf 0x40000010.
    #[serde(rename = "cpuid-40000010")]
    Cpuid40000010,
    /// Slope against CLOCK_MONOTONIC_RAW.
    #[default]
    Slope,
}

impl Source {
    /// As in the result.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Cpuid15 => "cpuid-15",
            Self::Cpuid40000010 => "cpuid-40000010",
            Self::Slope => "slope",
        }
    }
}

/// What each source says, in kHz.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sources {
    /// `KVM_GET_TSC_KHZ` of the launcher.
    pub kvm_khz: Option<u64>,
    /// CPUID leaf 0x15.
    pub cpuid_15_khz: Option<u64>,
    /// CPUID leaf 0x40000010.
    pub cpuid_40000010_khz: Option<u64>,
    /// Slope against CLOCK_MONOTONIC_RAW.
    pub slope_khz: Option<f64>,
}

/// The frequency to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// In kHz; never 0.
    pub khz: u64,
    /// Who said so.
    pub source: Source,
}

impl Sources {
    /// The sources that need no measurement.
    pub fn known(kvm_khz: Option<u64>) -> Self {
        Self {
            kvm_khz,
            cpuid_15_khz: cpuid_15_khz(),
            cpuid_40000010_khz: cpuid_40000010_khz(),
            slope_khz: None,
        }
    }

    /// The first source in the order of [`Source`] that gives a frequency.
    pub fn choose(&self) -> Option<Choice> {
        [
            (self.kvm_khz, Source::Kvm),
            (self.cpuid_15_khz, Source::Cpuid15),
            (self.cpuid_40000010_khz, Source::Cpuid40000010),
            (self.slope_khz.and_then(round_khz), Source::Slope),
        ]
        .into_iter()
        .find_map(|(khz, source)| khz.filter(|&khz| khz > 0).map(|khz| Choice { khz, source }))
    }

    /// The largest difference of any source from `khz`, in parts per million.
    pub fn disagreement_ppm(&self, khz: u64) -> f64 {
        let khz = as_f64(khz);
        [self.kvm_khz, self.cpuid_15_khz, self.cpuid_40000010_khz]
            .into_iter()
            .map(|source| source.map(as_f64))
            .chain([self.slope_khz])
            .flatten()
            .map(|source| (source - khz).abs() / khz * 1e6)
            .fold(0.0, f64::max)
    }
}

/// Exact below 2^53, which is far beyond any frequency in kHz.
#[expect(clippy::cast_precision_loss, reason = "frequencies in kHz are far below 2^53")]
fn as_f64(khz: u64) -> f64 {
    khz as f64
}

fn round_khz(khz: f64) -> Option<u64> {
    if !(1.0..1e12).contains(&khz) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked on the line above"
    )]
    Some(khz.round() as u64)
}

/// CPUID 0x15: crystal (ECX, Hz) times EBX over EAX (SDM vol. 2A, CPUID).
fn cpuid_15_khz() -> Option<u64> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid_count(0x15, 0);
    from_crystal(leaf.eax, leaf.ebx, leaf.ecx)
}

fn from_crystal(denominator: u32, numerator: u32, crystal_hz: u32) -> Option<u64> {
    let hz = (u64::from(crystal_hz) * u64::from(numerator)).checked_div(u64::from(denominator))?;
    Some(hz / 1000).filter(|&khz| khz > 0)
}

/// CPUID 0x40000010, EAX in kHz: the timing leaf of VMware, also offered by others.
fn cpuid_40000010_khz() -> Option<u64> {
    // CPUID 1, ECX bit 31: a hypervisor is there, and leaves from 0x40000000 mean something.
    if __cpuid(1).ecx & (1 << 31) == 0 || __cpuid(0x4000_0000).eax < 0x4000_0010 {
        return None;
    }
    Some(u64::from(__cpuid(0x4000_0010).eax)).filter(|&khz| khz > 0)
}

/// A moment on both clocks, to measure the slope between two of them.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    tsc: u64,
    raw_ns: u64,
}

impl Anchor {
    /// The present moment, as well as it can be taken: the tightest of a few attempts.
    pub fn now() -> Self {
        let (tsc, raw_ns) = bracket(libc::CLOCK_MONOTONIC_RAW);
        Self { tsc, raw_ns }
    }

    /// TSC frequency between two moments, in kHz; `None` without time between them.
    pub fn slope_khz(&self, later: &Self) -> Option<f64> {
        slope(later.tsc.wrapping_sub(self.tsc), later.raw_ns.saturating_sub(self.raw_ns))
    }

    /// Its TSC reading.
    pub fn tsc(&self) -> u64 {
        self.tsc
    }

    /// What turns CLOCK_MONOTONIC_RAW into TSC readings; `None` while `later` is not much later,
    /// so that what the two moments are off by would tell.
    pub fn ruler(&self, later: &Self) -> Option<Ruler> {
        const MIN_NS: u64 = 10_000_000;
        let ns = later.raw_ns.checked_sub(self.raw_ns).filter(|&ns| ns >= MIN_NS)?;
        let ticks = later.tsc.checked_sub(self.tsc)?;
        Some(Ruler { origin: *self, ticks, ns })
    }
}

/// Turns CLOCK_MONOTONIC_RAW into TSC readings.
#[derive(Clone, Copy, Debug)]
pub struct Ruler {
    origin: Anchor,
    ticks: u64,
    ns: u64,
}

impl Ruler {
    /// A length of time.
    pub fn ticks(&self, ns: u64) -> u64 {
        let ticks = u128::from(ns) * u128::from(self.ticks) / u128::from(self.ns);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// A moment; one before the first anchor is taken for that.
    pub fn tsc(&self, raw_ns: u64) -> u64 {
        self.origin.tsc.saturating_add(self.ticks(raw_ns.saturating_sub(self.origin.raw_ns)))
    }
}

fn slope(ticks: u64, ns: u64) -> Option<f64> {
    (ns > 0).then(|| as_f64(ticks) / as_f64(ns) * 1e6)
}

/// TSC and a kernel clock (in nanoseconds) at the same moment.
///
/// The clock is read between two TSC readings; of a few attempts the tightest wins, so that
/// an interruption between the readings does not shift one against the other.
pub fn bracket(clock: libc::clockid_t) -> (u64, u64) {
    /// Attempts: an interruption in the middle of every one of them is most unlikely.
    const ATTEMPTS: usize = 4;
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..ATTEMPTS {
        let before = read().tsc;
        let ns = clock_ns(clock);
        let width = read().tsc.wrapping_sub(before);
        if width < best.0 {
            best = (width, before.wrapping_add(width / 2), ns);
        }
    }
    (best.1, best.2)
}

/// A kernel clock in nanoseconds; 0 for a clock this kernel does not have.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local timespec that the call fills.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result != 0 {
        return 0;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000) + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The earlier of two moments on a counter that may wrap around.
#[must_use]
pub fn earlier(one: u64, other: u64) -> u64 {
    if one.wrapping_sub(other).cast_signed() < 0 { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_of_two_moments_even_across_the_wrap() {
        assert_eq!(earlier(1, 2), 1);
        assert_eq!(earlier(2, 1), 1);
        assert_eq!(earlier(u64::MAX, 3), u64::MAX);
    }

    #[test]
    fn a_ruler_goes_through_both_anchors() {
        let at = |tsc, raw_ns| Anchor { tsc, raw_ns };
        let (first, later) = (at(7_000, 1_000), at(50_007_000, 20_001_000));
        let ruler = first.ruler(&later).expect("20 ms apart");
        assert_eq!((ruler.tsc(1_000), ruler.tsc(20_001_000)), (7_000, 50_007_000));
        assert_eq!((ruler.tsc(0), ruler.tsc(40_001_000)), (7_000, 100_007_000));
        assert_eq!((ruler.ticks(4), ruler.ticks(u64::MAX)), (10, u64::MAX));
        assert!(first.ruler(&at(8_000, 2_000)).is_none() && later.ruler(&first).is_none());
    }

    #[test]
    fn conversion_is_exact_and_saturates() {
        assert_eq!(ticks_to_ns(2_450_000_000, 2_450_000), 1_000_000_000);
        assert_eq!(ns_to_ticks(1_000_000_000, 2_450_000), 2_450_000_000);
        assert_eq!(ticks_to_ns(3, 2), 1_500_000);
        // A product that needs more than 64 bits on the way.
        assert_eq!(ticks_to_ns(u64::MAX, 1_000_000), u64::MAX);
        assert_eq!(ticks_to_ns(u64::MAX, 1), u64::MAX);
        assert_eq!(ns_to_ticks(u64::MAX, 2_000_000), u64::MAX);
        assert_eq!(ticks_to_ns(1, 0), 0, "an unknown frequency gives no time");
    }

    #[test]
    fn sources_are_asked_in_order() {
        let all = Sources {
            kvm_khz: Some(1),
            cpuid_15_khz: Some(2),
            cpuid_40000010_khz: Some(3),
            slope_khz: Some(4.4),
        };
        let chosen = |sources: Sources| sources.choose().map(|c| (c.khz, c.source));
        assert_eq!(chosen(all), Some((1, Source::Kvm)));
        let all = Sources { kvm_khz: None, ..all };
        assert_eq!(chosen(all), Some((2, Source::Cpuid15)));
        let all = Sources { cpuid_15_khz: Some(0), ..all };
        assert_eq!(chosen(all), Some((3, Source::Cpuid40000010)));
        let all = Sources { cpuid_40000010_khz: None, ..all };
        assert_eq!(chosen(all), Some((4, Source::Slope)));
        assert_eq!(chosen(Sources { slope_khz: Some(f64::NAN), ..Sources::default() }), None);
        assert_eq!(chosen(Sources::default()), None);
    }

    #[test]
    fn disagreement_is_the_worst_of_all() {
        let sources = Sources {
            kvm_khz: Some(1_000_000),
            cpuid_15_khz: Some(1_000_100),
            cpuid_40000010_khz: None,
            slope_khz: Some(999_000.0),
        };
        let ppm = sources.disagreement_ppm(1_000_000);
        assert!((ppm - 1000.0).abs() < 1e-6, "{ppm}");
        assert!(ppm > DISAGREEMENT_LIMIT_PPM);
        assert!(Sources::default().disagreement_ppm(1).abs() < f64::EPSILON);
    }

    #[test]
    fn crystal_leaf_without_a_crystal_says_nothing() {
        assert_eq!(from_crystal(2, 216, 24_000_000), Some(2_592_000));
        assert_eq!(from_crystal(0, 216, 24_000_000), None);
        assert_eq!(from_crystal(2, 216, 0), None);
        assert_eq!(from_crystal(2, 0, 24_000_000), None);
    }

    #[test]
    fn slope_needs_time() {
        assert_eq!(slope(100, 0), None);
        assert_eq!(slope(2_450, 1_000), Some(2_450_000.0));
    }

    #[test]
    fn this_machine_has_a_counter_that_advances() {
        assert!(has_rdtscp());
        let first = Anchor::now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let khz = first.slope_khz(&Anchor::now()).expect("time has passed");
        assert!((100_000.0..10_000_000.0).contains(&khz), "{khz} kHz");
    }
}
