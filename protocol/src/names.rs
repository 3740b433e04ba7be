// SPDX-License-Identifier: Apache-2.0
//! What both sides of a virtual machine know by name: paths in the initrd, ports, words in the
//! kernel log.

/// What begins all that PID 1 says there.
pub const SAYING: &str = "schedvmm: ";

/// What begins the words of a panic.
pub const PANIC_MARK: &str = "a defect of schedvmm: the agent: ";

/// Where the job lies in the initrd.
pub const JOB_PATH: &str = "/job.json";

/// Where the kernel of the second-level guests lies in the initrd.
pub const L2_KERNEL_PATH: &str = "/l2/kernel";

/// Modules that the agent loads before anything else.
pub const MODULES_PATH: &str = "/modules";

/// Modules for second-level guests.
pub const L2_MODULES_PATH: &str = "/l2/modules";

/// Name of the virtio-console port that is the guest's console.
pub const CONSOLE_PORT: &str = "schedvmm.console";

/// Name of the virtio-console port that carries [`crate::message`] frames both ways.
pub const CONTROL_PORT: &str = "schedvmm.control";

/// Name of the tracing instance whose ring buffers the host reads in guest memory, where the kernel
/// was told to make one, and of the memory it has for that.
pub const TRACE_INSTANCE: &str = "schedvmm";

/// Name of the virtio-console port that carries the trace, guest to host.
pub const TRACE_PORT: &str = "schedvmm.trace";

/// Name of a module's file in a folder of modules, so that the order of names is the one to load
/// them in.
pub fn module_file(place: usize, module: &str) -> String {
    format!("{place:04}-{module}.ko")
}
