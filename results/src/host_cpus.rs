// SPDX-License-Identifier: Apache-2.0
//! Whether co-run and forced idle are measurements. Both say what the threads of one core did at
//! the same time, by the kernel that runs there. A virtual CPU that its host does not run stands
//! still in the middle of a thread, and that kernel has the thread running: where this happens more
//! than now and then, they say nothing about core scheduling.

use crate::model::{CoreFigures, EMULATION, RunResult, Steal};

/// Why this host's CPUs are no place to measure it.
const EMULATED: &str =
    "this host's CPUs are emulated, and one that stands still looks as if it ran";

/// What is known of the CPUs that those of the kernel under test are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCpus {
    /// They are software.
    pub emulated: bool,
    /// Virtual CPUs run on them; `None` where there is no machine between.
    pub vcpus: Option<Vcpus>,
}

/// Virtual CPUs and where they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vcpus {
    /// How many there are.
    pub count: usize,
    /// How many of the host's they have: those they are pinned to, else all that there are for
    /// this process.
    pub host_cpus: usize,
    /// Each is bound to one of them.
    pub pinned: bool,
}

impl Vcpus {
    /// With these pins, one a vCPU if any, in a process that may use so many CPUs.
    pub fn new(count: usize, pins: &[usize], allowed: usize) -> Self {
        let mut different = pins.to_vec();
        different.sort_unstable();
        different.dedup();
        let pinned = !pins.is_empty();
        Self { count, host_cpus: if pinned { different.len() } else { allowed }, pinned }
    }
}

impl HostCpus {
    /// As far as a result tells, which does not say how many CPUs the process might use.
    pub fn of_result(result: &RunResult) -> Self {
        let vcpus = result.machine.vm.as_ref().map(|vm| {
            let count = usize::try_from(vm.cpus).unwrap_or(usize::MAX);
            Vcpus::new(count, &vm.pins, usize::MAX)
        });
        Self { emulated: result.host.hypervisor.as_deref() == Some(EMULATION), vcpus }
    }

    /// Whether figures of cores are measurements, in a run from which the host took this much.
    pub fn core_figures(&self, steal: &Steal) -> CoreFigures {
        let taken = steal
            .share
            .filter(|_| steal.contaminated)
            .map(|share| format!("the host took {:.1} % of the time wanted", 100.0 * share));
        let reason = self.doubt().or(taken);
        CoreFigures { measured: reason.is_none(), reason }
    }

    fn doubt(&self) -> Option<String> {
        if self.emulated {
            return Some(EMULATED.into());
        }
        let Vcpus { count, host_cpus, pinned } = self.vcpus?;
        if count > host_cpus {
            let cpus = if host_cpus == 1 { "CPU" } else { "CPUs" };
            return Some(format!("{count} vCPUs share {host_cpus} {cpus} of the host"));
        }
        (!pinned).then(|| "vCPUs are not pinned, and may share CPUs of the host".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn steal(share: f64) -> Steal {
        Steal { share: Some(share), budget: 0.005, contaminated: share > 0.005 }
    }

    fn why(emulated: bool, vcpus: Option<Vcpus>, share: f64) -> Option<String> {
        let found = HostCpus { emulated, vcpus }.core_figures(&steal(share));
        assert_eq!(found.measured, found.reason.is_none());
        found.reason
    }

    #[test]
    fn only_cpus_of_ones_own_measure() {
        let pinned = Some(Vcpus::new(4, &[2, 3, 6, 7], 8));
        assert_eq!(why(false, pinned, 0.001), None);
        // On the running kernel there are no vCPUs of ours.
        assert_eq!(why(false, None, 0.001), None);
        for (emulated, vcpus, share, says) in [
            (true, pinned, 0.001, "are emulated"),
            (true, None, 0.001, "are emulated"),
            (false, Some(Vcpus::new(4, &[], 8)), 0.001, "not pinned"),
            (false, Some(Vcpus::new(4, &[], 2)), 0.001, "4 vCPUs share 2 CPUs"),
            (false, Some(Vcpus::new(4, &[1, 1, 1, 1], 8)), 0.001, "4 vCPUs share 1 CPU of"),
            (false, pinned, 0.123, "the host took 12.3 %"),
            (false, None, 0.123, "the host took 12.3 %"),
        ] {
            let why = why(emulated, vcpus, share).expect(says);
            assert!(why.contains(says), "{why}");
        }
    }

    #[test]
    fn an_older_result_says_where_its_vcpus_were() {
        let mut result = testing::result("user");
        let mut of = |host: &str, pins: Option<&[usize]>| {
            result.host.hypervisor = Some(host.into());
            match pins {
                Some(pins) => {
                    let vm = result.machine.vm.as_mut().expect("a microVM");
                    vm.pins = pins.to_vec();
                }
                None => result.machine.vm = None,
            }
            HostCpus::of_result(&result).core_figures(&Steal::default()).reason
        };
        assert_eq!(of("KVMKVMKVM", Some(&[2, 3, 6, 7])), None);
        assert!(of("KVMKVMKVM", Some(&[])).is_some_and(|why| why.contains("not pinned")));
        let emulated = of(EMULATION, Some(&[2, 3, 6, 7]));
        assert!(emulated.is_some_and(|why| why.contains("emulated")));
        // On the running kernel there is no machine.
        assert_eq!(of("", None), None);
    }

    #[test]
    fn the_remark_stands_beside_the_figure() {
        assert_eq!(CoreFigures::default().remark(), "");
        let emulated = HostCpus { emulated: true, vcpus: None };
        let remark = emulated.core_figures(&Steal::default()).remark();
        assert!(remark.starts_with("; no measurement: this host's CPUs are emulated"), "{remark}");
        // One that is made up need not say why.
        let read = |text: &str| serde_json::from_str::<CoreFigures>(text).expect("read");
        assert!(read(r#"{"measured":false,"reason":null}"#).why_not().is_some());
    }
}
