// SPDX-License-Identifier: Apache-2.0
//! What the agent and the launcher of one virtual machine say to each other: frames as on the
//! control port, on a socket that is the launcher's standard input.

use gaps::record::GapRecord;
use serde::{Deserialize, Serialize};

use crate::frame::{Decoder, FrameError, decode_json, encode_json, frame};
use crate::job::{Job, Pv, Transport};
use crate::vm::VmThread;

/// First argument that turns the executable into the one that unpacks the kernel and composes
/// the initrd for all virtual machines; its second is a [`PrepareSpec`] as JSON.
pub const PREPARE_COMMAND: &str = "l2-prepare";

/// First argument that turns the executable into a virtual machine's launcher; its second is a
/// [`LaunchSpec`] as JSON.
pub const LAUNCH_COMMAND: &str = "l2-launch";

/// Kind of a frame that carries a [`Report`] as JSON.
const KIND_REPORT: u8 = 16;
/// Kind of a frame that carries bytes of the guest's console.
const KIND_CONSOLE: u8 = 17;
/// Kind of a frame that carries bytes of the guest's control port.
const KIND_CONTROL: u8 = 18;
/// Kind of a frame that carries a [`LauncherCommand`] as JSON.
const KIND_LAUNCHER_COMMAND: u8 = 19;

/// What is prepared once for all virtual machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrepareSpec {
    /// The kernel file.
    pub kernel: String,
    /// An empty memfd for the unpacked kernel, as a path.
    pub kernel_image: String,
    /// An empty memfd for the initrd, as a path.
    pub initrd: String,
    /// RAM of each VM, in MiB.
    pub memory_mib: u64,
    /// vCPUs of each VM.
    pub cpus: u32,
    /// How each VM reaches its virtio devices; `None` takes what the kernel has a driver for.
    pub transport: Option<Transport>,
    /// The job of the agent in each.
    pub job: Job,
}

/// What one launcher makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// Number of the VM, from 1.
    pub vm: u32,
    /// The unpacked kernel, as a path.
    pub kernel_image: String,
    /// The initrd, as a path.
    pub initrd: String,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Copy kernel and initrd, and do not share their pages.
    pub own_pages: bool,
    /// vCPUs.
    pub cpus: u32,
    /// Hardware threads per core.
    pub threads_per_core: u32,
    /// KVM paravirtual features.
    pub pv: Pv,
    /// Kernel command line.
    pub cmdline: String,
    /// CPUs that the vCPU threads share.
    pub spread: Vec<u32>,
    /// Whether the vCPU threads get a core-scheduling cookie.
    pub cookie: bool,
}

/// Launcher to agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Report {
    /// The kernel has been entered.
    Booting {
        /// The vCPUs' threads.
        threads: Vec<VmThread>,
        /// How it reaches its virtio devices.
        transport: Transport,
        /// Whether every vCPU's TSC equals that of this machine.
        tsc_shared: bool,
    },
    /// vCPU threads were confined; the affinity of each read back.
    Confined {
        /// CPU list of each thread.
        affinity: Vec<String>,
    },
    /// Memory of the launcher, guest memory included.
    Memory {
        /// Resident, in KiB.
        rss_kib: Option<u64>,
        /// With shared pages divided among those who share them.
        pss_kib: Option<u64>,
    },
    /// The VM has ended, or could not be made.
    Ended {
        /// How.
        reason: String,
        /// Whether the guest switched itself off.
        orderly: bool,
        /// Registers of the vCPUs, where the end was none of the guest's own.
        state: Option<String>,
    },
}

/// Agent to launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum LauncherCommand {
    /// Confine each vCPU's thread to these CPUs, and tell what is read back.
    Confine {
        /// CPUs of each thread.
        cpus: Vec<Vec<u32>>,
    },
    /// Tell the guest to start its load.
    Go,
    /// Tell the guest to end its load.
    Stop,
    /// Tell what memory the VM takes.
    Memory,
    /// End the VM, and tell the state of its vCPUs.
    End,
}

/// What the agent reads.
#[derive(Clone, Debug, PartialEq)]
pub enum LauncherMessage {
    /// The launcher's own words.
    Report(Report),
    /// The guest's console.
    Console(Vec<u8>),
    /// The guest's control port.
    Control(Vec<u8>),
}

/// A report as a frame.
pub fn encode_report(report: &Report) -> Result<Vec<u8>, FrameError> {
    encode_json(KIND_REPORT, report)
}

/// Console bytes as a frame.
pub fn encode_console(bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    frame(KIND_CONSOLE, bytes)
}

/// Bytes of the control port as a frame.
pub fn encode_control(bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    frame(KIND_CONTROL, bytes)
}

/// A command as a frame.
pub fn encode_launcher_command(command: &LauncherCommand) -> Result<Vec<u8>, FrameError> {
    encode_json(KIND_LAUNCHER_COMMAND, command)
}

/// The next frame from a launcher.
pub fn next_launcher_message(decoder: &mut Decoder) -> Result<Option<LauncherMessage>, FrameError> {
    let Some((kind, payload)) = decoder.next_payload()? else { return Ok(None) };
    match kind {
        KIND_REPORT => decode_json(payload).map(LauncherMessage::Report).map(Some),
        KIND_CONSOLE => Ok(Some(LauncherMessage::Console(payload.to_vec()))),
        KIND_CONTROL => Ok(Some(LauncherMessage::Control(payload.to_vec()))),
        other => Err(FrameError::UnknownKind(other)),
    }
}

/// The next command for a launcher.
pub fn next_launcher_command(decoder: &mut Decoder) -> Result<Option<LauncherCommand>, FrameError> {
    let Some((kind, payload)) = decoder.next_payload()? else { return Ok(None) };
    match kind {
        KIND_LAUNCHER_COMMAND => decode_json(payload).map(Some),
        other => Err(FrameError::UnknownKind(other)),
    }
}

/// Whether a record can be one: a guest may send anything.
pub fn is_plausible(record: &GapRecord) -> bool {
    record.tsc_begin < record.tsc_end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_foreign_ones_are_refused() {
        let mut decoder = Decoder::default();
        let report =
            Report::Ended { reason: "power-off".into(), orderly: true, state: Some("rip".into()) };
        decoder.push(&encode_report(&report).unwrap());
        decoder.push(&encode_console(b"hello").unwrap());
        decoder.push(&encode_control(b"\0\x01").unwrap());
        assert_eq!(
            next_launcher_message(&mut decoder).unwrap(),
            Some(LauncherMessage::Report(report))
        );
        assert_eq!(
            next_launcher_message(&mut decoder).unwrap(),
            Some(LauncherMessage::Console(b"hello".into()))
        );
        assert_eq!(
            next_launcher_message(&mut decoder).unwrap(),
            Some(LauncherMessage::Control(b"\0\x01".into()))
        );
        assert_eq!(next_launcher_message(&mut decoder).unwrap(), None);
        for command in [LauncherCommand::Go, LauncherCommand::Confine { cpus: vec![vec![2, 3]; 2] }]
        {
            decoder.push(&encode_launcher_command(&command).unwrap());
            assert_eq!(next_launcher_command(&mut decoder).unwrap(), Some(command));
        }
        decoder.push(&encode_launcher_command(&LauncherCommand::End).unwrap());
        next_launcher_message(&mut decoder).unwrap_err();
    }
}
