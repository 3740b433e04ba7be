// SPDX-License-Identifier: Apache-2.0
//! The roles of this executable beside the agent of the nested target: one process that
//! prepares kernel and initrd for all second-level guests, and a launcher for each of them.
//! The agent starts them ([`guest::nested`]); nobody else does.

mod launcher;

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;

use protocol::launcher::{LAUNCH_COMMAND, PREPARE_COMMAND, PrepareSpec};
use protocol::names::L2_MODULES_PATH;
use vmm::load;
use vmm::shared::SharedInitrd;
use vmm::x86_64::image::KernelImage;
use vmm::x86_64::lint::Wanted;

use crate::modules::Modules;
use crate::status::{ExitStatus, chain};
use crate::{convert, machine};

/// Plays the role that the first argument names; returns if it names none.
pub fn play(word: &OsString, spec_json: Option<&OsString>) {
    let spec_json = spec_json.map(|spec_json| spec_json.as_encoded_bytes()).unwrap_or_default();
    let ended = if word == PREPARE_COMMAND {
        prepare(spec_json)
    } else if word == LAUNCH_COMMAND {
        launcher::run(spec_json)
    } else {
        return;
    };
    let status = match ended {
        Ok(()) => ExitStatus::Pass,
        Err(text) => {
            eprintln!("{text}");
            ExitStatus::Internal
        }
    };
    std::process::exit(status.code().into());
}

/// Unpacks the kernel and composes the initrd, into files that all machines map.
fn prepare(spec_json: &[u8]) -> Result<(), String> {
    let spec: PrepareSpec = serde_json::from_slice(spec_json).map_err(|error| error.to_string())?;
    let read = fs::read(&spec.kernel).map_err(|error| format!("{}: {error}", spec.kernel))?;
    let kernel = KernelImage::parse(read).map_err(chain)?;
    let modules = Modules::read(Path::new(L2_MODULES_PATH))
        .map_err(|error| format!("{L2_MODULES_PATH}: {error}"))?;
    let transport = spec.transport.map(convert::vmm_transport);
    let wanted = Wanted { cpus: spec.cpus, transport, modules: &modules.names() };
    load::share(&kernel, spec.memory_mib, wanted, &open_writable(&spec.kernel_image)?)
        .map_err(chain)?;
    let initrd =
        machine::initrd(&spec.job, &modules, None).map_err(|failure| failure.to_string())?;
    SharedInitrd::prepare(&initrd, &open_writable(&spec.initrd)?).map_err(chain)
}

fn open_writable(path: &str) -> Result<File, String> {
    File::options().read(true).write(true).open(path).map_err(|error| format!("{path}: {error}"))
}
