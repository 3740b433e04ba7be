// SPDX-License-Identifier: Apache-2.0
//! Waiting on a word in shared memory.

use std::num::NonZeroU32;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Acquire;

use rustix::io::Errno;
use rustix::thread::futex::{self, Timespec};

/// Waits until the word is no longer `expected`, or until `deadline_ns` on CLOCK_MONOTONIC.
///
/// `true` when the word has changed. The timeout is absolute, as with
/// `clock_nanosleep(TIMER_ABSTIME)`: whatever happens on the way in does not shift it. For the
/// scheduler this is the same sleep and the same timer wake-up; but one store and one wake-up
/// end the sleeps of all threads in all processes.
pub fn wait(word: &AtomicU32, expected: u32, deadline_ns: u64) -> bool {
    /// Wake-ups are not told apart.
    const ANY_BIT: NonZeroU32 = NonZeroU32::MAX;
    let deadline = timespec(deadline_ns);
    while word.load(Acquire) == expected {
        // Not private: the kernel looks the word up by file and offset, so that other processes
        // meet it.
        let result =
            futex::wait_bitset(word, futex::Flags::empty(), expected, Some(&deadline), ANY_BIT);
        if result == Err(Errno::TIMEDOUT) {
            return word.load(Acquire) != expected;
        }
        // Woken, a signal, or a word that changed before the call: look again.
    }
    true
}

/// Wakes everyone who waits on the word.
pub fn wake_all(word: &AtomicU32) {
    // It fails for no word that exists.
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX.unsigned_abs());
}

fn timespec(ns: u64) -> Timespec {
    const SECOND: u64 = 1_000_000_000;
    Timespec {
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
