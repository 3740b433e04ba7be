// SPDX-License-Identifier: Apache-2.0
//! Whether co-run and forced idle are measurements. Both say what the threads of one core did at
//! the same time, by the kernel that runs there. A virtual CPU that its host does not run stands
//! still in the middle of a thread, and that kernel has the thread running: where this happens more
//! than now and then, they say nothing about core scheduling.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::facts;
use crate::summary::Steal;

/// Why this host's CPUs are no place to measure it.
const EMULATED: &str =
    "this host's CPUs are emulated, and one that stands still looks as if it ran";

/// The answer, for all such figures of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoreFigures {
    /// They are measurements, as far as is known.
    pub measured: bool,
    /// Why they are not.
    pub reason: Option<String>,
}

impl Default for CoreFigures {
    fn default() -> Self {
        Self { measured: true, reason: None }
    }
}

impl CoreFigures {
    /// Of a run on such a host that took this much of the time.
    pub fn of(host: &HostCpus, steal: &Steal) -> Self {
        let taken = steal
            .share
            .filter(|_| steal.contaminated)
            .map(|share| format!("the host took {:.1} % of the time wanted", 100.0 * share));
        Self::because(host.doubt().or(taken))
    }

    fn because(reason: Option<String>) -> Self {
        Self { measured: reason.is_none(), reason }
    }

    /// Beside a figure; nothing where it is one.
    pub fn remark(&self) -> String {
        self.why_not().map_or_else(String::new, |why| format!("; no measurement: {why}"))
    }

    /// Why they are none, if so.
    pub fn why_not(&self) -> Option<&str> {
        let unsaid = "the result does not say why";
        (!self.measured).then(|| self.reason.as_deref().unwrap_or(unsaid))
    }
}

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
    /// As far as a result of an older version tells.
    pub fn of_result(result: &Value) -> Self {
        let machine = &result["machine"];
        let number = |value: &Value| value.as_u64().and_then(|it| usize::try_from(it).ok());
        let pins = machine["pins"].as_array().map(|pins| pins.iter().filter_map(number).collect());
        let vcpus = number(&machine["cpus"]).zip(pins);
        Self {
            emulated: result["host"]["hypervisor"].as_str() == Some(facts::EMULATION),
            vcpus: vcpus.map(|(count, pins): (_, Vec<_>)| Vcpus::new(count, &pins, usize::MAX)),
        }
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
    use serde_json::json;

    use super::*;

    fn steal(share: f64) -> Steal {
        Steal { share: Some(share), budget: 0.005, contaminated: share > 0.005 }
    }

    fn why(emulated: bool, vcpus: Option<Vcpus>, share: f64) -> Option<String> {
        let found = CoreFigures::of(&HostCpus { emulated, vcpus }, &steal(share));
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
        let of = |host: &str, machine: Value| {
            let result = json!({ "host": { "hypervisor": host }, "machine": machine });
            CoreFigures::of(&HostCpus::of_result(&result), &Steal::default()).reason
        };
        let machine = |pins: &[u64]| json!({ "cpus": 2, "pins": pins });
        assert_eq!(of("KVMKVMKVM", machine(&[2, 3])), None);
        assert!(of("KVMKVMKVM", machine(&[])).is_some_and(|why| why.contains("not pinned")));
        assert!(of("TCGTCGTCGTCG", machine(&[2, 3])).is_some_and(|why| why.contains("emulated")));
        // On the running kernel there is no machine; and nothing at all is no reason.
        assert_eq!(of("", json!({ "summary": "this host" })), None);
        assert_eq!(HostCpus::of_result(&Value::Null), HostCpus::default());
    }

    #[test]
    fn the_remark_stands_beside_the_figure() {
        assert_eq!(CoreFigures::default().remark(), "");
        let emulated = HostCpus { emulated: true, vcpus: None };
        let remark = CoreFigures::of(&emulated, &Steal::default()).remark();
        assert!(remark.starts_with("; no measurement: this host's CPUs are emulated"), "{remark}");
        // A result of an older version does not say, and one that is made up need not say why.
        let read = |text: &str| serde_json::from_str::<CoreFigures>(text).expect("read");
        assert_eq!(read("{}").why_not(), None);
        assert!(read(r#"{"measured":false}"#).why_not().is_some());
    }
}
