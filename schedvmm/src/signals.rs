// SPDX-License-Identifier: Apache-2.0
//! SIGINT, SIGTERM and SIGHUP as events: the first one asks for an end with all results. A second
//! SIGINT or SIGTERM does not wait for it: the process leaves at once, and puts back what it has
//! changed on this machine.
//!
//! A signal that whoever started us ignores, as `nohup` does with SIGHUP and a shell with SIGINT of
//! what it runs in the background, stays ignored. The signals are blocked, not handled: the load's
//! processes inherit that, so that a Ctrl-C, which reaches them too, does not end them before their
//! results are there.

use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, mem, thread};

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{self, Pid};
use workload::kernel::signals::{self, Blocked};

use crate::printer;
use crate::service::Event;
use crate::status::ExitStatus;
use crate::terminal;

/// The first signal that has come, else 0: for who is between two things that take events.
static FIRST: AtomicI32 = AtomicI32::new(0);

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// A signal that comes so soon after the first one is the same one again: timeout(1) sends its
/// signal to the process and to the group it is in, and no hand is that quick.
const SAME_SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// Said where a second one does not wait.
const SECOND: &str = "a second signal: ended at once, without the results of the last seconds";

/// Said where nothing but the end of the process is left.
const OVERRUN: &str = "ended long after --wall-limit: something on this host holds it (a disk that \
    takes nothing?); what was kept of the run until then is in its folder";

/// For all that is to be put back when the process leaves at once.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Blocks the signals in this thread and all it starts, and hands the first one to `events`
/// instead. To be called before any other thread exists.
///
/// # Errors
/// The error of sigaction(2) or pthread_sigmask(3), or no thread left.
pub fn forward(events: SyncSender<Event>) -> io::Result<()> {
    let Blocked { set, .. } = signals::block(&SIGNALS)?;
    printer::start()?;
    thread::Builder::new().name("schedvmm-signal".into()).spawn(move || listen(&set, &events))?;
    Ok(())
}

/// The signal that has come, if one has: whoever did not see its event is told all the same.
pub fn received() -> Option<i32> {
    Some(FIRST.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// The same for a verb that has no results to wait for: the first signal ends the process, with
/// all put back.
///
/// # Errors
/// As [`forward`].
pub fn end_at_once() -> io::Result<()> {
    let Blocked { set, .. } = signals::block(&SIGNALS)?;
    thread::Builder::new().name("schedvmm-signal".into()).spawn(move || {
        if let Ok(signal) = set.wait() {
            leave(signal, "ended by a signal");
        }
    })?;
    Ok(())
}

fn listen(set: &SigSet, events: &SyncSender<Event>) {
    let mut first: Option<Instant> = None;
    while let Ok(signal) = set.wait() {
        match first {
            None => {
                first = Some(Instant::now());
                FIRST.store(signal as i32, Ordering::Relaxed);
                // In a thread of its own: the inbox may be full, and the second signal is not to
                // wait for it.
                let events = events.clone();
                if thread::Builder::new()
                    .spawn(move || drop(events.send(Event::Signal(signal as i32))))
                    .is_err()
                {
                    leave(signal, SECOND);
                }
            }
            // A terminal that goes away sends more than one of these, and wants the results.
            Some(_) if signal == Signal::SIGHUP => {}
            Some(first) if first.elapsed() < SAME_SIGNAL_INTERVAL => {}
            Some(_) => leave(signal, SECOND),
        }
    }
}

/// What is put back when the process leaves at once; it says what could not be.
type Act = Box<dyn FnOnce() -> Vec<String> + Send>;

/// What is to be put back, in the order in which it was changed.
static ACTS: Mutex<(u64, Vec<(u64, Act)>)> = Mutex::new((0, Vec::new()));

/// While this value lives, its act belongs to a leave at once.
#[must_use = "the act is forgotten when this value goes away"]
#[derive(Debug)]
pub struct OnLeave(u64);

impl OnLeave {
    /// Makes `act` part of a leave at once. The latest comes first.
    pub fn new(act: impl FnOnce() -> Vec<String> + Send + 'static) -> Self {
        let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
        acts.0 += 1;
        let number = acts.0;
        acts.1.push((number, Box::new(act)));
        Self(number)
    }
}

impl Drop for OnLeave {
    fn drop(&mut self) {
        let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
        acts.1.retain(|(number, _)| *number != self.0);
    }
}

/// Kills a process of ours, as part of an act: what it holds open cannot be removed.
pub fn kill(pid: u32) {
    // The process is a child that only another thread of ours reaps, or one in a cgroup of ours;
    // one that is gone already is no fault.
    let pid = libc::pid_t::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| process::kill_process(pid, process::Signal::KILL));
}

/// Removes a directory of the kernel's, as part of an act, as soon as the processes that are being
/// killed have left it.
///
/// # Errors
/// Why it stays.
pub fn remove_dir_soon(path: &Path) -> io::Result<()> {
    /// They have nothing to do but to end.
    const KILL_TIMEOUT: Duration = Duration::from_secs(1);
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let Err(error) = fs::remove_dir(path) else { return Ok(()) };
        match error.kind() {
            io::ErrorKind::NotFound => return Ok(()),
            io::ErrorKind::ResourceBusy if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            _ => return Err(error),
        }
    }
}

/// Does all acts; what could not be put back.
fn put_back(acts: &mut Vec<(u64, Act)>) -> Vec<String> {
    mem::take(acts).into_iter().rev().flat_map(|(_, act)| act()).collect()
}

/// Ends the process without waiting for anything but what is to be put back, and for that not
/// long. Our children are killed by the kernel when we are gone.
fn leave(signal: Signal, why: &'static str) -> ! {
    leave_with(ExitStatus::of_signal(signal as i32), why)
}

fn leave_with(status: ExitStatus, why: &'static str) -> ! {
    let (done, is_done) = mpsc::channel();
    if thread::Builder::new().spawn(move || put_back_and_tell(why, done)).is_ok() {
        let _ = is_done.recv_timeout(LEAVE_TIMEOUT);
    }
    let code = status.code();
    // SAFETY: ends the process; no handlers of exit(3), which could wait for other threads.
    unsafe { libc::_exit(code.into()) }
}

/// How long a reader of ours may take nothing before the rest is not waited for. What was measured
/// is in its folder by then.
const READER_TIMEOUT: Duration = Duration::from_secs(60);
/// The same once a signal has come: whoever ends us wants no more of it.
const READER_TIMEOUT_SIGNALLED: Duration = Duration::from_secs(2);

/// The same of the last words, where the process is to be gone at once.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(250);

/// Waits for whoever reads what was printed, as long as they read; false if they do not take all.
pub fn finish_printing() -> bool {
    printer::finish(|| if received().is_some() { READER_TIMEOUT_SIGNALLED } else { READER_TIMEOUT })
}

/// Ends the process, which something holds since long after its limit.
pub fn leave_overrun() -> ! {
    leave_with(ExitStatus::Untestable, OVERRUN)
}

fn put_back_and_tell(why: &str, done: mpsc::Sender<()>) {
    let mut acts = ACTS.lock().unwrap_or_else(PoisonError::into_inner);
    let lost = put_back(&mut acts.1);
    // It stays locked: whoever comes to drop an `OnLeave` has seen its load killed, and waits
    // for the end of the process rather than call that a result.
    mem::forget(acts);
    // First the words that count; a reader that takes none is not waited for.
    for text in lost {
        terminal::err(&format!("schedvmm: {text}"));
    }
    terminal::err(&format!("schedvmm: {why}"));
    printer::finish(|| LAST_WORDS_TIMEOUT);
    let _ = done.send(());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_latest_change_is_put_back_first_and_what_is_done_is_left_out() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let act = |number: u32| {
            let order = Arc::clone(&order);
            move || {
                order.lock().expect("a lock").push(number);
                vec![format!("{number} is lost")]
            }
        };
        let (_one, two, _three) =
            (OnLeave::new(act(1)), OnLeave::new(act(2)), OnLeave::new(act(3)));
        drop(two);
        let put_back = || put_back(&mut ACTS.lock().expect("a lock").1);
        assert_eq!(put_back(), ["3 is lost", "1 is lost"]);
        assert_eq!(*order.lock().expect("a lock"), [3, 1]);
        assert!(put_back().is_empty(), "once");
    }
}
