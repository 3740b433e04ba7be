// SPDX-License-Identifier: Apache-2.0
//! The agent's job, from the options.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use gaps::record::GapRecord;
use protocol::group::GroupSpec;
use protocol::index::Kind;
use protocol::job::{CoschedRequest, Job, LoadSpec, MeterKind, MeterSpec};
use protocol::tunable::TuneRequest;

use crate::cli::{Cosched, LoadArgs, RunArgs, TraceArgs};
use crate::shape::Shape;
use crate::status::Failure;

/// The job, for an agent or for ourselves. `tune` is what is set unless the user says
/// otherwise.
///
/// # Errors
/// Options that make no sense.
pub fn make(
    load: &LoadArgs,
    trace: &TraceArgs,
    cpus: Vec<u32>,
    mut tune: Vec<TuneRequest>,
) -> Result<Job, Failure> {
    if let Some(threshold) = load.threshold.0.filter(|threshold| *threshold < load.floor) {
        return Err(Failure::request(format!(
            "--threshold {threshold:?} is under --floor {:?}, from which on gaps are seen; raise \
             the one or lower the other",
            load.floor
        )));
    }
    let trace = trace.spec()?;
    for request in &load.tune {
        workload::kernel::tunables::check(request)?;
    }
    let shape = Shape::choose(load, &cpus)?;
    let mut groups = (1..).zip(&shape.groups);
    if let Some(text) = groups.find_map(|(number, group)| {
        Some(format!("group {number}: {}", group.arrival?.fault(load.duration)?))
    }) {
        return Err(Failure::request(text));
    }
    let warmup = load.warmup.unwrap_or_else(|| one_burst(&shape.groups, load.duration));
    if !warmup.is_zero() && warmup >= load.duration {
        return Err(Failure::request(format!(
            "--warmup {warmup:?} leaves nothing of --duration {:?} to measure; lower the one or raise \
             the other",
            load.duration
        )));
    }
    // A tunable given by the user replaces ours of the same name.
    tune.retain(|ours| load.tune.iter().all(|theirs| theirs.name != ours.name));
    tune.extend(load.tune.iter().cloned());
    Ok(Job {
        load: LoadSpec {
            name: shape.name,
            groups: shape.groups,
            kind: Kind::Threads,
            cpus,
            seed: load.seed.unwrap_or_else(any_seed),
            duration: load.duration,
            warmup,
            floor: load.floor,
            threshold: load.threshold.0,
            records_per_thread: load.records,
        },
        cosched: load.cosched.into(),
        tune,
        trace,
        host_tsc_khz: None,
        noise: load.noise.0.unwrap_or_default(),
        meter: None,
        nested: None,
        wait_for_go: None,
        cpu_limit: None,
    })
}

/// The warm-up where none is asked for: until then all threads are in the burst with which they began
/// together. Of bursts that never end, so much that the run is hardly shorter for it; and never so much
/// that what is left is too short for shares.
fn one_burst(groups: &[GroupSpec], duration: Duration) -> Duration {
    const MAX_PART: u32 = 10;
    const MIN_REST: Duration = Duration::from_secs(1);
    let longest = groups.iter().map(|group| group.busy).max().unwrap_or_default();
    longest.min(duration / MAX_PART).min(duration.saturating_sub(MIN_REST))
}

/// A job for a meter in place of the bursty threads: each of the load's CPUs is busy with it
/// alone. So there is nothing to tell apart by cookies, and no noise floor beside it.
pub fn metered(job: &mut Job, meter: MeterSpec) {
    job.meter = Some(meter);
    job.load = job.load.clone().for_meter();
    job.cosched = CoschedRequest::None;
    job.noise = Duration::ZERO;
}

/// A seed that nobody asked for: runs that are to differ by chance alone must not have the same
/// pauses. Short enough to be typed.
pub fn any_seed() -> u64 {
    const SEEDS: u64 = 1_000_000;
    // Keys of the standard library's hash maps are random.
    RandomState::new().build_hasher().finish() % SEEDS
}

/// Whether a meter that takes the load's place can have what else is asked for.
pub fn check_alone(meter: MeterSpec, job: &Job, args: &RunArgs) -> Result<(), Failure> {
    if !matches!(args.load.cosched, Cosched::Auto | Cosched::None) {
        return Err(Failure::request(
            "--cosched gives cookies to groups of the load, and --meter measures without one; leave \
             out one of the two",
        ));
    }
    let budgets = [
        ("--noise-budget", args.load.noise_budget.is_some()),
        ("--on-contaminated", args.load.on_contaminated.is_some()),
    ];
    if let Some((option, _)) = budgets.iter().find(|(_, is_given)| *is_given) {
        return Err(Failure::request(format!(
            "{option} is about the noise floor beside a load, and --meter measures without one; leave \
             out one of the two"
        )));
    }
    let is_kernels = matches!(meter.kind, MeterKind::Hwlat | MeterKind::Osnoise);
    if is_kernels && job.trace.as_ref().is_some_and(|trace| trace.required) {
        return Err(Failure::request(format!(
            "--meter {} needs the kernel's tracing for itself, and a trace is asked for; leave out \
             one of the two",
            meter.kind.name()
        )));
    }
    Ok(())
}

/// Refuses a load that the guest could not hold.
pub fn check_size(args: &RunArgs, load: &LoadSpec) -> Result<(), Failure> {
    let threads = load.threads();
    let bytes = threads as u64 * u64::from(args.load.records) * size_of::<GapRecord>() as u64;
    let room = args.machine.memory << 19;
    if bytes > room {
        let text = format!(
            "--records {} for {threads} threads take {} MiB, more than half of the guest's {} \
             MiB; lower --records or raise --memory",
            args.load.records,
            bytes >> 20,
            args.machine.memory
        );
        return Err(Failure::request(text));
    }
    Ok(())
}

/// The word, among those for the kernel, by which it may leave CPUs of its machine offline.
pub fn limits_cpus(words: &str) -> Option<&str> {
    words.split_ascii_whitespace().find(|word| match word.split_once('=') {
        Some(("maxcpus" | "nr_cpus" | "possible_cpus" | "nosmt" | "acpi", _)) => true,
        Some(("mitigations", values)) => values.split(',').any(|value| value == "nosmt"),
        Some(_) => false,
        None => matches!(*word, "nosmt" | "nosmp" | "noapic" | "nolapic" | "disableapic"),
    })
}

/// Tunables that are set unless the user says otherwise.
pub fn default_tune(load: &LoadArgs) -> Vec<TuneRequest> {
    if load.no_default_tune { Vec::new() } else { workload::kernel::tunables::default_tune() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_is_a_burst_and_leaves_enough() {
        let group = |busy| GroupSpec { busy, ..crate::testing::load(1, 1, 1).groups[0].clone() };
        let ms = Duration::from_millis;
        let of = |busy: &[u64], duration| {
            let groups: Vec<_> = busy.iter().map(|busy| group(ms(*busy))).collect();
            one_burst(&groups, duration)
        };
        assert_eq!(of(&[200, 1000, 500], ms(30_000)), ms(1000), "the longest");
        assert_eq!(of(&[1000], ms(5000)), ms(500), "a tenth at most");
        assert_eq!(one_burst(&[group(Duration::MAX)], ms(20_000)), ms(2000));
        assert_eq!([1000, 1050, 500].map(|time| of(&[1000], ms(time))), [ms(0), ms(50), ms(0)]);
    }

    #[test]
    fn words_by_which_cpus_may_be_missing_are_known() {
        for (words, limit) in [
            ("", None),
            ("quiet isolcpus=3 cpuidle.off=1", None),
            ("mitigations=off", None),
            ("quiet nosmt", Some("nosmt")),
            ("nosmt=force quiet", Some("nosmt=force")),
            ("maxcpus=2", Some("maxcpus=2")),
            ("a=b nr_cpus=3", Some("nr_cpus=3")),
            ("mitigations=auto,nosmt", Some("mitigations=auto,nosmt")),
            ("acpi=off", Some("acpi=off")),
        ] {
            assert_eq!(limits_cpus(words), limit, "{words}");
        }
    }
}
