// SPDX-License-Identifier: Apache-2.0
//! Waiting on a word in shared memory.

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering::Acquire},
};

/// Waits until the word is no longer `expected`, or until `deadline_ns` on CLOCK_MONOTONIC.
///
/// `true` when the word has changed. The timeout is absolute, as with
/// `clock_nanosleep(TIMER_ABSTIME)`: whatever happens on the way in does not shift it. For the
/// scheduler this is the same sleep and the same timer wake-up; but one store and one wake-up
/// end the sleeps of all threads in all processes.
pub fn wait(word: &AtomicU32, expected: u32, deadline_ns: u64) -> bool {
    /// Any bit: wake-ups are not told apart.
    const MATCH_ANY: u32 = u32::MAX;
    let deadline = timespec(deadline_ns);
    while word.load(Acquire) == expected {
        // SAFETY: the word and the deadline live until the call returns; the futex is not
        // private, so the kernel looks it up by file and offset and other processes meet it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT_BITSET,
                expected,
                &raw const deadline,
                std::ptr::null::<u32>(),
                MATCH_ANY,
            )
        };
        let timed_out =
            result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ETIMEDOUT);
        if timed_out {
            return word.load(Acquire) != expected;
        }
        // Woken, a signal, or a word that changed before the call: look again.
    }
    true
}

/// Wakes everyone who waits on the word.
pub fn wake_all(word: &AtomicU32) {
    // SAFETY: the word lives until the call returns.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

fn timespec(ns: u64) -> libc::timespec {
    const SECOND: u64 = 1_000_000_000;
    libc::timespec {
        tv_sec: i64::try_from(ns / SECOND).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % SECOND).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gaps::tsc::clock_ns;
    use std::{sync::atomic::Ordering::Release, thread, time::Duration};

    fn in_ms(ms: u64) -> u64 {
        clock_ns(libc::CLOCK_MONOTONIC) + ms * 1_000_000
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let word = AtomicU32::new(0);
        let deadline = in_ms(20);
        assert!(!wait(&word, 0, deadline));
        assert!(clock_ns(libc::CLOCK_MONOTONIC) >= deadline);
        assert!(!wait(&word, 0, 0), "a deadline in the past");
    }

    #[test]
    fn a_changed_word_ends_it() {
        let word = AtomicU32::new(0);
        assert!(wait(&word, 1, in_ms(60_000)));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(10));
                word.store(1, Release);
                wake_all(&word);
            });
            assert!(wait(&word, 0, in_ms(60_000)));
        });
    }
}
