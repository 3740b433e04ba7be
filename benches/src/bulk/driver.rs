// SPDX-License-Identifier: Apache-2.0
//! The part of the bulk benchmark that runs inside the emulated host.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use initrd_builder::Archive;

use super::guest::{self, Cost};
use super::{Dump, PORT, REPORT_FILE, Report, Side};
use crate::IN_HOST;
use crate::boot::memory;
use crate::boot::peers::{KERNEL_PATH, Peer, QEMU_PATH, SCHEDVMM_PATH};
use crate::boot::running::Running;
use crate::boot::stats::OpenStats;

/// Version of the report's format.
const SCHEMA: u32 = 3;
/// Guest memory of both, in MiB.
const MEMORY_MIB: u32 = 512;
/// Where the port ends: in memory, so that no disk is measured.
const SINK: &str = "/tmp/bulk";
/// Pieces written into the sink at a time, 128 KiB: less was slower in the emulated host, and so
/// was 1 MiB, by half.
const SINK_PIECES: usize = 4;
const INITRD: &str = "/tmp/bulk-initrd";
/// A boot and 4 MiB a second.
const BOOT_ALLOWANCE: Duration = Duration::from_secs(60);
const MIN_MIB_PER_SECOND: u32 = 4;
/// Longest JSON of a cost.
const MAX_COST_BYTES: u64 = 4096;

/// Runs the benchmark and leaves the report in the current folder.
pub fn run(mib: u32, runs: u32) -> Result<()> {
    make_initrd()?;
    let (ours, qemu) = (schedvmm(mib), qemu(mib));
    let (mut our_dumps, mut qemu_dumps) = (Vec::new(), Vec::new());
    let mut fastest_sink = 0.0;
    // The first dump of each is a warm-up: the emulation translates all that code anew.
    for run in 0..=runs {
        let pair = (
            after_sink(&ours, mib, &mut fastest_sink)?,
            after_sink(&qemu, mib, &mut fastest_sink)?,
        );
        eprintln!(
            "dump {run} of {runs}: {:.1} MiB/s, QEMU {:.1} MiB/s",
            pair.0.mib_per_wall_second, pair.1.mib_per_wall_second
        );
        if run > 0 {
            our_dumps.push(pair.0);
            qemu_dumps.push(pair.1);
        }
    }
    let schedvmm = Side::new(&ours, our_dumps)?;
    let qemu = Side::new(&qemu, qemu_dumps)?;
    let report = Report {
        schema: SCHEMA,
        mib,
        cpu_ratio: schedvmm.mib_per_cpu_second / qemu.mib_per_cpu_second,
        wall_ratio: schedvmm.mib_per_wall_second / qemu.mib_per_wall_second,
        target_ratio: super::TARGET_RATIO,
        sink_mib_per_second: fastest_sink,
        schedvmm,
        qemu,
    };
    let text = serde_json::to_vec_pretty(&report)?;
    std::fs::write(Path::new(REPORT_FILE), text).context("cannot write the report")
}

/// A dump right behind one that throws its bytes away, for the fastest rate there is.
fn after_sink(peer: &Peer, mib: u32, fastest_sink: &mut f64) -> Result<Dump> {
    *fastest_sink = sink_alone(mib)?.max(*fastest_sink);
    dump(peer, mib)
}

/// A file of the last dump would be overwritten, which is faster than a new one.
fn remove_sink() -> Result<()> {
    match std::fs::remove_file(SINK) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove the last dump")
        }
        _ => Ok(()),
    }
}

/// MiB a second that the host writes into the sink, from memory and with nothing beside: no
/// monitor can be faster.
fn sink_alone(mib: u32) -> Result<f64> {
    remove_sink()?;
    let piece = guest::piece().repeat(SINK_PIECES);
    let mut sink = File::create(SINK).context("cannot make the sink")?;
    let begin = Instant::now();
    for _ in 0..mib as usize * guest::PIECES_PER_MIB as usize / SINK_PIECES {
        sink.write_all(&piece).context("cannot write to the sink")?;
    }
    Ok(f64::from(mib) / begin.elapsed().as_secs_f64())
}

/// One dump of one monitor's guest.
fn dump(peer: &Peer, mib: u32) -> Result<Dump> {
    remove_sink()?;
    let bytes = u64::from(mib) << 20;
    let mut running = Running::start(peer)?;
    let pid = running.process.0.id();
    let (before, after) = (
        OpenStats::of_process(pid).with_context(|| format!("watching {}", peer.name))?,
        OpenStats::of_process(pid).with_context(|| format!("watching {}", peer.name))?,
    );
    let (mut before, mut booted) = (Some(before), None);
    let (mut begin, mut end, mut memory_kib) = (None, None, 0);
    let timeout =
        BOOT_ALLOWANCE + Duration::from_secs(u64::from(mib) / u64::from(MIN_MIB_PER_SECOND));
    running.wait_within(timeout, || {
        let there = std::fs::metadata(SINK).map_or(0, |metadata| metadata.len());
        if there > 0 {
            begin.get_or_insert_with(Instant::now);
            booted = booted.or_else(|| before.take().and_then(|stats| stats.read().ok()));
        }
        // A look at the memory takes the monitor's locks: only once the dump is half there.
        if there > bytes / 2 && memory_kib == 0 || there >= bytes && end.is_none() {
            let now = memory::beside_guest_kib(pid, u64::from(MEMORY_MIB) << 10);
            memory_kib = memory_kib.max(now.unwrap_or(0));
        }
        if there >= bytes {
            end.get_or_insert_with(Instant::now);
        }
    })?;
    let cost = read_cost(bytes).with_context(|| format!("the guest of {}", peer.name))?;
    let (Some(begin), Some(end), Some(booted)) = (begin, end, booted) else {
        bail!("{} did not write all of the dump", peer.name);
    };
    // The guest's clock has the beginning, the host's the end; neither has both. The longer of
    // the two views is the one that leaves nothing out.
    let wall = cost.wall_seconds.max((end - begin).as_secs_f64());
    Ok(Dump {
        mib_per_cpu_second: f64::from(mib) / cost.cpu_seconds,
        mib_per_wall_second: f64::from(mib) / wall,
        mib_per_copy_second: f64::from(mib) / cost.copy_seconds,
        memory_kib,
        exits: after.read()?.since(booted),
    })
}

/// Bytes from the guest behind the dump.
fn read_cost(bytes: u64) -> Result<Cost> {
    let mut file = File::open(SINK).context("there is no dump")?;
    file.seek(SeekFrom::Start(bytes))?;
    let mut text = String::new();
    file.take(MAX_COST_BYTES).read_to_string(&mut text).context("no words behind the dump")?;
    let cost: Cost = serde_json::from_str(&text)
        .with_context(|| format!("did not say what the dump cost, but {text:?}"))?;
    if [cost.cpu_seconds, cost.wall_seconds, cost.copy_seconds].iter().any(|s| *s <= 0.0) {
        bail!("says that {bytes} bytes cost nothing: {cost:?}");
    }
    Ok(cost)
}

fn init_words(mib: u32) -> String {
    format!("rdinit={IN_HOST} -- bulk-guest --mib {mib}")
}

/// Ours, with a port of its own.
fn schedvmm(mib: u32) -> Peer {
    let (memory, port, append) =
        (format!("{MEMORY_MIB}M"), format!("{PORT}={SINK}"), init_words(mib));
    let words = [
        &[SCHEDVMM_PATH, "boot", "--memory", &memory, "--pin", "none", "--cpus", "2"][..],
        &["--kernel", KERNEL_PATH, "--initrd", INITRD, "--port", &port, "--append", &append],
        &["--boot-timeout", "3600s"],
    ];
    Peer { name: "schedvmm", command: words.concat().into_iter().map(String::from).collect() }
}

/// QEMU's microvm with virtio-serial.
fn qemu(mib: u32) -> Peer {
    let (memory, append) =
        (MEMORY_MIB.to_string(), format!("quiet reboot=t panic=-1 {}", init_words(mib)));
    let (sink, port) =
        (format!("file,id=sink,path={SINK}"), format!("virtserialport,chardev=sink,name={PORT}"));
    let words = [
        &[QEMU_PATH, "-accel", "kvm", "-cpu", "host", "-m", &memory][..],
        &["-M", "microvm,pit=off,pic=off,rtc=off,isa-serial=off", "-smp", "2,cores=1,threads=2"],
        &["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        &["-device", "virtio-serial-device", "-chardev", &sink, "-device", &port],
        &["-kernel", KERNEL_PATH, "-initrd", INITRD, "-append", &append],
    ];
    Peer { name: "QEMU", command: words.concat().into_iter().map(String::from).collect() }
}

/// This very program is PID 1 of both guests.
fn make_initrd() -> Result<()> {
    let mut archive = Archive::new();
    archive.standard_nodes()?;
    archive.add_executable(IN_HOST, &std::env::current_exe()?)?;
    std::fs::write(INITRD, archive.finish()).with_context(|| format!("cannot write `{INITRD}`"))
}
