// SPDX-License-Identifier: Apache-2.0
//! Getting a vCPU thread out of KVM_RUN, without losing the request.
//!
//! A thread that checks a flag and then enters KVM_RUN can miss a signal that arrives in
//! between. So the signal's handler does not only interrupt: it sets `immediate_exit` in the
//! thread's own `kvm_run`, which KVM looks at after it has blocked the race (Linux
//! Documentation/virt/kvm/api.rst, "immediate_exit"). Whoever stops a vCPU sets the stop
//! flag first and sends the signal second; the thread clears `immediate_exit` first and
//! reads the flag second.

use std::cell::Cell;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// This thread's `kvm_run`, while it may be kicked.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: `Kickable` set the pointer from a live mapping and clears it before the
        // mapping goes; the handler runs on the same thread, so not in between.
        unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) };
    }
}

/// Installs the handler; once a process is enough, again does no harm.
///
/// # Errors
/// The error of sigaction(2).
pub fn install() -> Result<(), vmm_sys_util::errno::Error> {
    register_signal_handler(SIGRTMIN(), on_kick)
}

/// While it lives, kicks reach this thread's vCPU.
pub struct Kickable;

impl Kickable {
    /// Makes the calling thread, which runs `vcpu`, kickable.
    pub fn new(vcpu: &mut VcpuFd) -> Self {
        RUN.set(ptr::from_mut(vcpu.get_kvm_run()));
        Self
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        RUN.set(ptr::null_mut());
    }
}

/// Kicks the vCPU that `thread` runs; a thread that has ended is left alone.
pub fn kick<T>(thread: &JoinHandle<T>) {
    if !thread.is_finished() {
        // SAFETY: the handle has not been joined, so the pthread_t is valid.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
    }
}
