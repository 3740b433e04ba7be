// SPDX-License-Identifier: Apache-2.0
//! The running kernel as its user space sees it.

use std::fs;

use protocol::message::Hello;

use crate::kernel::affinity;

/// The kernel as its user space sees it; what cannot be read is left empty.
pub fn hello(uptime_ns: u64) -> Hello {
    let online = affinity::online().unwrap_or_default();
    Hello {
        release: sysctl("osrelease"),
        version: sysctl("version"),
        cmdline: read("/proc/cmdline"),
        cpus_online: online.to_string(),
        siblings: online
            .iter()
            .map(|cpu| {
                read(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
            })
            .collect(),
        clocksource: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        uptime_ns,
    }
}

/// A value of /proc/sys/kernel; empty where it cannot be read.
pub fn sysctl(name: &str) -> String {
    read(&format!("/proc/sys/kernel/{name}"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_describes_this_machine() {
        let hello = hello(7);
        assert!(!hello.release.is_empty());
        assert_eq!(hello.siblings.len(), affinity::online().unwrap().iter().count());
        assert_eq!(hello.uptime_ns, 7);
    }
}
