//! Lock, queue, hints, limits and nonces within one process. Nothing here survives it, and nothing needs to.

mod hints;
mod limiter;
mod lock;
mod nonces;
mod queue;
mod sorted;

pub(super) use self::hints::LocalHints;
pub use self::limiter::{ENTRIES_EXACT, Limiter, PARTS};
pub(super) use self::lock::Lock;
pub use self::nonces::{NONCE_LEN_MAX, UsedNonces};
pub(super) use self::queue::Queue;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// None of these structures is left half-changed by a panic, so what a panicking thread held is still good.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
