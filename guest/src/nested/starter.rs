// SPDX-License-Identifier: Apache-2.0
//! Starts VMs of one kind.

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use protocol::job::NestedSpec;
use protocol::launcher::LaunchSpec;
use workload::context::WorkloadContext;

use super::NestedError;
use super::images::Images;
use super::vm::{Event, L2Vm};

/// What it takes to start one VM after the other.
pub struct Starter<'a> {
    /// Where they run.
    pub context: &'a WorkloadContext,
    /// What they boot.
    pub images: Images,
    /// CPUs that a VM boots on.
    pub spread: Vec<u32>,
    /// Where what they say goes.
    pub events: SyncSender<Event>,
    /// What their times count from.
    pub began: Instant,
}

impl Starter<'_> {
    /// Starts one.
    ///
    /// # Errors
    /// Its launcher cannot be started.
    pub fn start(&self, number: u32, spec: &NestedSpec) -> Result<L2Vm, NestedError> {
        let index = (number - 1) as usize;
        let launch = LaunchSpec {
            vm: number,
            kernel_image: self.images.kernel(),
            initrd: self.images.initrd(),
            memory_mib: spec.memory_mib,
            own_pages: spec.own_pages,
            cpus: spec.vcpus,
            threads_per_core: spec.threads_per_core,
            pv: spec.pv,
            cmdline: spec.cmdlines.get(index).cloned().unwrap_or_default(),
            spread: self.spread.clone(),
            cookie: self.context.cookie,
        };
        let cgroups = self.context.cgroups.get(index).map_or(&[][..], Vec::as_slice);
        let program = &self.context.executable;
        L2Vm::launch(program, &launch, cgroups, self.began, self.events.clone())
            .map_err(|source| NestedError::Launch { vm: number, source })
    }
}
