// SPDX-License-Identifier: Apache-2.0
//! Counts, and how they and all else here are locked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts of what went wrong. Only ever read by people.
#[derive(Debug, Default)]
pub(super) struct Counters {
    guest_errors: AtomicU64,
    dropped_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn guest_error(&self) {
        self.guest_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, bytes: usize) {
        self.dropped_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn guest_errors(&self) -> u64 {
        self.guest_errors.load(Ordering::Relaxed)
    }

    pub(super) fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes.load(Ordering::Relaxed)
    }
}

/// Locks `mutex`, also after a thread has panicked with it: what it protects is only ever left
/// between two whole steps, and the machine has to be able to stop in an orderly way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
