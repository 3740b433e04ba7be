// SPDX-License-Identifier: Apache-2.0
//! How vCPUs end: each with a reason, each once.

use std::io::{self, Write};
use std::panic;
use std::sync::mpsc::{self, Receiver, Sender};

use libtest_mimic::{Completion, Failed};
use vmm::vcpu::{ExitReason, VcpuEnd};

use crate::same;
use crate::threads::threads;
use crate::tiny::{DEADLINE, Guest, code, eventually};

/// One end of each vCPU, all told to stop.
fn all_stopped(ends: &[VcpuEnd], cpus: &[u32]) -> Result<(), Failed> {
    let numbers: Vec<_> = ends.iter().map(|end| end.cpu).collect();
    same("vCPUs that have ended", &numbers[..], cpus)?;
    for end in ends {
        same("end", &end.reason, &ExitReason::Stopped)?;
    }
    Ok(())
}

pub fn power_port_and_i8042_end_the_machine() -> Result<Completion, Failed> {
    for (port, value, reason) in [
        (0x3c0, 0x34, ExitReason::PowerOff),
        (0x3c0, 0x01, ExitReason::Reset),
        (0x64, 0xfe, ExitReason::Reset),
    ] {
        // A write that means nothing comes first.
        let parts = [code::out(port, 0), code::out(port, value), code::SPIN.to_vec()];
        let (end, _) = Guest::new(&parts.concat()).run()?;
        same("end", end.reason, reason)?;
        same("port writes", end.exits.port_out, 2)?;
    }
    Ok(Completion::Completed)
}

pub fn triple_fault() -> Result<Completion, Failed> {
    // No interrupt table: page 0, where KVM's reset state has it, is all zero.
    let (end, _) = Guest::new(code::UD2).run()?;
    same("end", end.reason, ExitReason::TripleFault)?;
    let state = end.state.ok_or("no state")?;
    for part in ["rip ", "cr0 ", "mp_state "] {
        if !state.contains(part) {
            return Err(format!("no {part:?} in {state}").into());
        }
    }
    Ok(Completion::Completed)
}

pub fn code_outside_memory() -> Result<Completion, Failed> {
    let jump = [
        0xb8, 0x00, 0x00, 0x00, 0x04, // mov eax, 64 MiB, beyond the end of RAM
        0xff, 0xe0, // jmp rax
    ];
    let (end, _) = Guest::new(&jump).run()?;
    let ExitReason::InternalError(error) = &end.reason else {
        return Err(format!("ended with {:?}", end.reason).into());
    };
    same("suberror (emulation failed)", error.suberror, 1)?;
    let state = end.state.ok_or("no state")?;
    if !state.contains("rip 0000000004000000") {
        return Err(format!("not where it went: {state}").into());
    }
    Ok(Completion::Completed)
}

pub fn waiting_processors_stop_once_each() -> Result<Completion, Failed> {
    for dump in [false, true] {
        let live = Guest::four(&[&code::say(b'B')[..], code::HALT].concat(), &[]).start()?;
        live.hear(1)?;
        let (_, ends) = live.stop(dump)?;
        all_stopped(&ends, &[0, 1, 2, 3])?;
        for end in &ends {
            same("state asked for", end.state.is_some(), dump)?;
            let exits = u64::from(end.cpu == 0);
            same("port writes", end.exits.port_out, exits)?;
        }
    }
    Ok(Completion::Completed)
}

pub fn woken_processors_have_their_apic_ids() -> Result<Completion, Failed> {
    let boot = [code::WAKE_OTHERS, code::HALT].concat();
    let other = [code::SAY_APIC_ID, code::HALT].concat();
    let live = Guest::four(&boot, &other).start()?;
    let mut ids = live.hear(3)?;
    ids.sort_unstable();
    same("APIC IDs", ids, vec![1, 2, 3])?;
    let (_, ends) = live.stop(false)?;
    all_stopped(&ends, &[0, 1, 2, 3])?;
    Ok(Completion::Completed)
}

pub fn power_off_leaves_the_others() -> Result<Completion, Failed> {
    let boot = [code::WAKE_OTHERS, code::POWER_OFF].concat();
    let live = Guest::four(&boot, code::SPIN).start()?;
    let end = live.next_end()?;
    same("first end", (end.cpu, end.reason), (0, ExitReason::PowerOff))?;
    let (_, ends) = live.stop(false)?;
    let cpus: Vec<_> = ends.iter().map(|end| end.cpu).collect();
    same("the others", cpus, vec![1, 2, 3])?;
    // One that makes an exit after the power-off may end with that, too.
    let orderly = [ExitReason::Stopped, ExitReason::PowerOff];
    same("orderly ends", ends.iter().all(|end| orderly.contains(&end.reason)), true)?;
    Ok(Completion::Completed)
}

/// A device's other side that breaks the rule never to panic.
struct Bomb;

impl Write for Bomb {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        panic!("the sink is broken")
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn a_panic_in_a_device_ends_one_vcpu() -> Result<Completion, Failed> {
    let boot = [&code::say(b'B')[..], code::SPIN].concat();
    // The message would look like a failure of this test.
    let loud = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let ended = Guest::four(&boot, &[]).serial(Box::new(Bomb)).start().and_then(|live| {
        let end = live.next_end()?;
        Ok((end, live.stop(false)?.1))
    });
    panic::set_hook(loud);
    let (end, others) = ended?;
    let panicked = ExitReason::Panicked("the sink is broken".into());
    same("first end", (end.cpu, &end.reason), (0, &panicked))?;
    same("its state", end.state.is_some(), true)?;
    all_stopped(&others, &[1, 2, 3])?;
    Ok(Completion::Completed)
}

/// A device's other side that says when it is entered, and stays until its gate is dropped.
struct Trap {
    entered: Sender<()>,
    gate: Receiver<()>,
}

impl Write for Trap {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The test waits for the first byte, and may be gone at the next.
        let _ = self.entered.send(());
        let _ = self.gate.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn a_vcpu_that_does_not_stop_is_named() -> Result<Completion, Failed> {
    let (entered, wait_entered) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let boot = [&code::say(b'B')[..], code::SPIN].concat();
    let mut live = Guest::four(&boot, &[]).serial(Box::new(Trap { entered, gate })).start()?;
    wait_entered.recv_timeout(DEADLINE)?;
    let error = live.running.stop(false).err().ok_or("it stopped all the same")?;
    same("named", error.0.as_str(), "CPU 0/KVM")?;
    // All others have stopped: three ends, and no thread but this one and the one named.
    let others = [live.next_end()?, live.next_end()?, live.next_end()?];
    same("the others", others.iter().all(|end| end.reason == ExitReason::Stopped), true)?;
    // A thread that is joined may be listed for a moment yet.
    eventually(|| {
        let threads = threads().map_err(|error| format!("{error:?}"))?;
        let count = |ours: fn(&str) -> bool| threads.iter().filter(|(name, _)| ours(name)).count();
        match (count(|name| name.ends_with("/KVM")), count(|name| name.starts_with("vmm-"))) {
            (1, 0) => Ok(()),
            _ => Err(format!("threads left over: {threads:?}")),
        }
    })?;
    // Let go, it ends as it was told to.
    drop(open);
    let (_, ends) = live.stop(false)?;
    all_stopped(&ends, &[0])?;
    Ok(Completion::Completed)
}
