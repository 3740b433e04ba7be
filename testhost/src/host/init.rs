// SPDX-License-Identifier: Apache-2.0
//! PID 1 of the emulated or simulated host: mounts what a host has, runs the one command, sends
//! home what it printed and left in `/out`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::cpu_list::CpuSet;
use rustix::io::Errno;
use rustix::process::WaitOptions;
use rustix::system::RebootCommand;
use workload::kernel::{affinity, files};

use super::ports::{self, Counted, Streams};
use super::protocol::{
    Ended, JOB_PATH, Job, Kind, OUT_DIR, OUT_PORT, STATUS_PORT, STDERR_PORT, STDOUT_PORT, Sent,
    Status,
};

/// File system, where it goes, and its options.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", ""),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// All that the command's environment has.
const ENVIRONMENT: &[(&str, &str)] = &[("PATH", "/bin"), ("HOME", "/tmp"), ("RUST_BACKTRACE", "1")];

/// Whether this process is PID 1 of an emulated host.
pub fn is_our_role() -> bool {
    std::process::id() == 1 && Path::new(JOB_PATH).exists()
}

/// The whole life of PID 1. Never returns: the outer end stops the machine when it has all,
/// and where it could not be told, the machine ends by itself.
pub fn main() -> ! {
    let told = prepare().and_then(|(job, streams, mut status)| {
        serve(&job, &streams, &mut status)
            .or_else(|error| ports::send(&mut status, &Status::Failed(format!("{error:#}"))))
    });
    if let Err(error) = told {
        // Standard error is the console, the last way out.
        eprintln!("PID 1 of the emulated host: {error:#}");
        // There is no state of ours to save, and nobody to tell what failed.
        let _ = rustix::system::reboot(RebootCommand::Restart);
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Makes the machine a host, as far as it takes to find the stream to report on.
fn prepare() -> Result<(Job, Streams, File)> {
    for (kind, target, options) in MOUNTS {
        mount(kind, target, options)?;
    }
    let job = std::fs::read(JOB_PATH).with_context(|| format!("cannot read `{JOB_PATH}`"))?;
    let job: Job = serde_json::from_slice(&job).context("cannot understand the job")?;
    let streams = Streams::find(job.machine)?;
    let status = streams.open(STATUS_PORT)?;
    Ok((job, streams, status))
}

/// Does the one job.
fn serve(job: &Job, streams: &Streams, status: &mut File) -> Result<()> {
    let (stdout, stderr) = (streams.open(STDOUT_PORT)?, streams.open(STDERR_PORT)?);
    let out = streams.open(OUT_PORT)?;

    ports::send(status, &Status::Ready)?;
    let child = Arc::new(AtomicI32::new(0));
    obey_signals(status.try_clone()?, Arc::clone(&child));
    let (ended, stdout, stderr) = run(job, &child, stdout, stderr)?;
    ports::send(status, &Status::Ended(ended))?;
    let out = ports::send_folder(out, Path::new(OUT_DIR))?;
    ports::send(status, &Status::Sent(Sent { stdout, stderr, out }))
}

/// Mounts a file system of this kind; one that cannot be mounted is only complained about.
///
/// # Errors
/// The folder for it cannot be made.
pub fn mount(kind: &str, target: &str, options: &str) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("cannot make `{target}`"))?;
    if let Err(error) = files::mount(kind, Path::new(target), options) {
        // A host can do without some of them; whoever misses one finds this on the console.
        eprintln!("emulated host: cannot mount {kind} on {target}: {error}");
    }
    Ok(())
}

/// Runs the command; its end, and the lengths of its two outputs.
fn run(job: &Job, pid: &AtomicI32, stdout: File, stderr: File) -> Result<(Ended, u64, u64)> {
    let (program, arguments) = job.argv.split_first().context("the job has no command")?;
    if job.machine == Kind::Emulated {
        keep_off_first_cpu()?;
    }
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(OUT_DIR)
        .env_clear()
        .envs(ENVIRONMENT.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{program}`"))?;
    let child_pid = i32::try_from(child.id())?;
    pid.store(child_pid, Ordering::SeqCst);
    let stdout = copy(child.stdout.take().context("no pipe")?, stdout);
    let stderr = copy(child.stderr.take().context("no pipe")?, stderr);
    let ended = wait_for(child_pid, pid)?;
    // What the command has left running holds the pipes open, and nobody waits for it.
    // From PID 1, -1 means every process but PID 1.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    Ok((ended, join(stdout)?, join(stderr)?))
}

/// Leaves the first CPU to the kernel: no guest may run there (see
/// [`Machine::cpus`](super::qemu::Machine::cpus)). What this thread starts inherits it.
fn keep_off_first_cpu() -> Result<()> {
    let first: CpuSet = [0].into_iter().collect();
    let online = affinity::online().context("cannot find out the CPUs of the emulated host")?;
    let others = online.without(&first);
    affinity::confine_this_thread(&others).with_context(|| format!("cannot go to CPUs {others}"))
}

/// Waits for the end of the command, and for every orphan on the way.
fn wait_for(child: i32, pid: &AtomicI32) -> Result<Ended> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended.as_raw_nonzero().get() == child => {
                pid.store(0, Ordering::SeqCst);
                return Ok(ExitStatus::from_raw(status.as_raw()).into());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
    }
}

/// Copies everything to a port on a thread of its own.
fn copy(mut from: impl Read + Send + 'static, to: File) -> JoinHandle<io::Result<u64>> {
    std::thread::spawn(move || {
        let mut to = Counted { inner: to, count: 0 };
        io::copy(&mut from, &mut to)?;
        Ok(to.count)
    })
}

fn join(thread: JoinHandle<io::Result<u64>>) -> Result<u64> {
    match thread.join() {
        Ok(count) => count.context("cannot send the command's output"),
        Err(_) => bail!("the thread that sends the command's output panicked"),
    }
}

/// Hands the signals that come in on the status port to the command.
fn obey_signals(mut port: File, child: Arc<AtomicI32>) {
    std::thread::spawn(move || {
        let mut signals = [0; 16];
        loop {
            match port.read(&mut signals) {
                // The outer end is not connected yet.
                Ok(0) => std::thread::sleep(Duration::from_millis(50)),
                Ok(count) => {
                    let pid = child.load(Ordering::SeqCst);
                    for signal in signals[..count].iter().filter(|_| pid > 0) {
                        if let Ok(signal) = Signal::try_from(i32::from(*signal)) {
                            let _ = kill(Pid::from_raw(pid), signal);
                        }
                    }
                }
                Err(error) => {
                    eprintln!("{:#}", anyhow!(error).context("no more signals for the command"));
                    return;
                }
            }
        }
    });
}
