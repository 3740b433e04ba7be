// SPDX-License-Identifier: Apache-2.0
//! `schedvmm probe`: whether this host's KVM can run Linux.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use vmm::kvm::Hypervisor;

use crate::status::{ExitStatus, Failure};
use crate::{probe, terminal};

/// Somebody who only asks for the probe can wait longer than a run does.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is printed as JSON.
#[derive(Serialize)]
struct Probed {
    /// Whether a guest ran.
    usable: bool,
    /// Why it is not.
    reason: Option<String>,
}

/// Says so; with `json` as one object.
///
/// # Errors
/// It cannot, and it was not asked for as JSON.
pub fn run(json: bool) -> Result<ExitStatus, Failure> {
    let device = Path::new(vmm::kvm::DEVICE);
    let verdict = Hypervisor::open(device)
        .map_err(Failure::from)
        .and_then(|hypervisor| Ok(probe::run(&hypervisor, PROBE_TIMEOUT)?));
    let reason = verdict.as_ref().err().map(ToString::to_string);
    if json {
        let answer = Probed { usable: reason.is_none(), reason };
        terminal::product(&results::json::pretty(&answer).map_err(Failure::internal)?)?;
    } else if reason.is_none() {
        terminal::product(&format!("{}: usable", device.display()))?;
    }
    match verdict {
        Err(_) if json => Ok(ExitStatus::Host),
        Err(failure) => Err(failure),
        Ok(_) => Ok(ExitStatus::Pass),
    }
}
