// SPDX-License-Identifier: Apache-2.0
//! The guest's side of the bulk benchmark: PID 1 of both monitors' guests. It writes to the
//! port what a dump of a trace would, in the driver's largest pieces, and behind it what that
//! cost.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::system::RebootCommand;
use serde::{Deserialize, Serialize};

use super::PORT;
use testhost::host::{init, ports};

/// The driver takes no more in one write (port_fops_write in drivers/char/virtio_console.c).
const PIECE_BYTES: usize = 32 << 10;
/// A mebibyte has so many pieces.
pub(super) const PIECES_PER_MIB: u32 = 32;
/// What still waits in the ring when the last write returns takes no longer.
const DRAIN: Duration = Duration::from_millis(500);

/// Cost of a dump in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// Time that its CPUs were not idle, in seconds, interrupts included.
    pub cpu_seconds: f64,
    /// From the first write to the last one's return.
    pub wall_seconds: f64,
    /// CPU time of the copies alone: as many of the same writes to a file in memory.
    pub copy_seconds: f64,
}

/// Writes the dump and ends the machine.
pub fn main(mib: u32) -> ! {
    if let Err(error) = dump(mib) {
        // The console shows it; the driver misses the cost.
        eprintln!("bulk guest: {error:#}");
    }
    // There is no state of ours to save, and nobody to tell what failed.
    let _ = rustix::system::reboot(RebootCommand::Restart);
    std::process::exit(1)
}

/// What a dump consists of.
pub(super) fn piece() -> Vec<u8> {
    (0..PIECE_BYTES).map(|index| index.to_le_bytes()[0]).collect()
}

fn dump(mib: u32) -> Result<ExitCode> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        init::mount(kind, target, "")?;
    }
    let mut port = ports::open(PORT)?;
    let piece = piece();
    let copy_seconds = copy(&piece, mib)?;
    let (begin, busy) = (Instant::now(), busy_seconds()?);
    for _ in 0..mib * PIECES_PER_MIB {
        port.write_all(&piece).context("cannot write to the port")?;
    }
    let wall_seconds = begin.elapsed().as_secs_f64();
    std::thread::sleep(DRAIN);
    let cost = Cost { cpu_seconds: busy_seconds()? - busy, wall_seconds, copy_seconds };
    port.write_all(&serde_json::to_vec(&cost)?).context("cannot write to the port")?;
    // The monitor flushes what it has got; let it have all.
    std::thread::sleep(DRAIN);
    Ok(ExitCode::SUCCESS)
}

/// What it costs to get the dump into the kernel: the driver copies it, as a file in memory does,
/// and no device can be faster than that.
fn copy(piece: &[u8], mib: u32) -> Result<f64> {
    let file = memfd_create("copy", MemfdFlags::empty());
    let file = File::from(file.context("cannot make a file in memory")?);
    let busy = busy_seconds()?;
    for _ in 0..mib * PIECES_PER_MIB {
        file.write_all_at(piece, 0).context("cannot write to a file in memory")?;
    }
    Ok(busy_seconds()? - busy)
}

/// Time in which CPUs were not idle, since some moment in the past. The kernel knows how long
/// they were idle to the microsecond (get_idle_time in fs/proc/stat.c), but how long they were
/// busy only by the ticks that came upon them, and a writer that sleeps and wakes all the time
/// knows how to miss these.
fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let per_second = rustix::param::clock_ticks_per_second();
    let (cpus, idle_ticks) = idle(&stat).context("/proc/stat has no line of all CPUs")?;
    let uptime = fs::read_to_string("/proc/uptime").context("cannot read /proc/uptime")?;
    let uptime: f64 =
        uptime.split(' ').next().unwrap_or_default().parse().context("/proc/uptime has no time")?;
    #[allow(clippy::cast_precision_loss, reason = "ticks of minutes")]
    Ok(f64::from(cpus) * uptime - idle_ticks as f64 / per_second as f64)
}

/// Number of CPUs, and their idle time together, waiting for disks included.
fn idle(stat: &str) -> Option<(u32, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [_user, _nice, _system, idle, iowait, ..] = times[..] else { return None };
    let cpus =
        stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    Some((u32::try_from(cpus).ok().filter(|cpus| *cpus > 0)?, idle + iowait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_disks_is_idle() {
        let stat = "cpu  1 20 300 4000 50000 600 7 8 9 10\ncpu0 1 1\ncpu1 1 1\nintr 5\n";
        assert_eq!(idle(stat), Some((2, 54_000)));
        assert_eq!(idle("cpu  1 2 3 4 5\n"), None);
        assert_eq!(idle("cpu  1 2 3\ncpu0\n"), None);
    }

    #[test]
    fn who_works_is_busy() {
        let (begin, busy) = (Instant::now(), busy_seconds().expect("this machine has one"));
        while begin.elapsed() < Duration::from_millis(500) {}
        let busy = busy_seconds().expect("this machine has one") - busy;
        assert!(busy > 0.3, "{busy} s");
    }
}
