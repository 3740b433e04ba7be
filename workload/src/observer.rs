// SPDX-License-Identifier: Apache-2.0
//! Who takes what a load gives.

use std::io;

use gaps::record::GapRecord;
use gaps::span::Span;
use protocol::cpu_list::CpuSet;
use protocol::message::{MeterLine, ThresholdHit, Tick};
use protocol::report::LoadReport;
use protocol::vm::VmStatus;

use crate::error::LoadError;

/// All threads stand at the barrier: what they found about themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prepared {
    /// Cookie of each group; 0 for none.
    pub cookies: Vec<u64>,
    /// Thread ID of each thread.
    pub tids: Vec<u32>,
    /// Affinity of each thread, read back.
    pub affinity: Vec<CpuSet>,
    /// What had to be done without.
    pub notes: Vec<String>,
    /// TSC frequency in use, in kHz.
    pub tsc_khz: u64,
    /// Cost of one iteration of the meter's loop, measured before the load by its supervisor.
    pub iteration_ticks: u64,
}

/// Takes what the load gives, in the supervisor's thread.
pub trait Observer {
    /// Everyone is at the barrier; the last chance to do something before the load.
    fn prepared(&mut self, prepared: &Prepared) -> io::Result<()>;
    /// The load begins at this moment, which lies just ahead.
    fn released(&mut self, tsc_start: u64) -> io::Result<()>;
    /// New records of one thread, in order.
    fn gaps(&mut self, thread: u32, records: &[GapRecord]) -> io::Result<()>;
    /// When one thread wanted to run, in order, as the load ends; of the kernel's own meter nothing.
    fn demand(&mut self, _thread: u32, _spans: &[Span]) -> io::Result<()> {
        Ok(())
    }
    /// A line of the kernel's own meter; the load itself gives none.
    fn line(&mut self, _line: MeterLine) -> io::Result<()> {
        Ok(())
    }
    /// Once a second, after that second's records.
    fn tick(&mut self, tick: Tick) -> io::Result<()>;
    /// A gap passed the threshold, and the load is ending.
    fn hit(&mut self, hit: ThresholdHit) -> io::Result<()>;
    /// Asked a few times a second: whether to end the load now.
    fn stop_requested(&mut self) -> bool;
    /// There is still no load, and what is waited for; about once a second.
    fn waiting(&mut self, _for_what: &str) -> io::Result<()> {
        Ok(())
    }
    /// A virtual machine has come further; the nested target only, as the two below.
    fn vm(&mut self, _status: &VmStatus) -> io::Result<()> {
        Ok(())
    }
    /// A virtual machine's console.
    fn vm_console(&mut self, _vm: u32, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
    /// A line of the meter in a virtual machine.
    fn vm_line(&mut self, _vm: u32, _line: MeterLine) -> io::Result<()> {
        Ok(())
    }
    /// Processes of the load; children of the calling process that it is not to reap.
    fn processes(&mut self, _pids: &[u32]) {}
}

/// What was measured, and what went wrong meanwhile, if anything.
#[derive(Debug)]
pub struct Outcome {
    /// Results; complete unless there is a fault.
    pub report: LoadReport,
    /// What ended the load before its time, other than a hit or a request.
    pub fault: Option<LoadError>,
}
