//! The only place that reads a clock. Everything else is given the time, so that a test can turn it.
//!
//! Two clocks: [`Timestamp`] is the calendar's, for people and for order; [`Mono`] counts through suspend and never
//! turns back, for leases and deadlines. The two are never compared, and no `Mono` ever leaves its host.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970 (UTC).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time plus `by`, held at the end of the range.
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Time passed since `earlier`; zero where the clock was turned back meanwhile.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// A reading of the host's boot clock (`CLOCK_BOOTTIME`), in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(u64);

impl Mono {
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
    fn mono(&self) -> Mono;
}

pub type SharedClock = Arc<dyn Clock>;

/// The host's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    fn mono(&self) -> Mono {
        let read = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Mono(
            u64::try_from(read.tv_sec).unwrap_or(0) * 1_000
                + u64::try_from(read.tv_nsec).unwrap_or(0) / 1_000_000,
        )
    }
}

/// A clock that stands still until a test turns it.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicI64,
    mono: AtomicU64,
}

impl ManualClock {
    pub fn new(now: Timestamp) -> Self {
        Self {
            now: AtomicI64::new(now.0),
            mono: AtomicU64::new(1_000_000),
        }
    }

    /// Turns both clocks on.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.mono.fetch_add(millis, Ordering::SeqCst);
        self.now
            .fetch_add(i64::try_from(millis).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the calendar alone, as an operator or a bad time server would.
    pub fn set_calendar(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.now.load(Ordering::SeqCst))
    }

    fn mono(&self) -> Mono {
        Mono(self.mono.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_held_at_the_ends() {
        assert_eq!(
            Timestamp(i64::MAX).after(Duration::from_secs(1)),
            Timestamp(i64::MAX)
        );
        assert_eq!(Timestamp(1).since(Timestamp(5)), Duration::ZERO);
        assert_eq!(Mono(1).since(Mono(5)), Duration::ZERO);
    }

    #[test]
    fn the_boot_clock_does_not_turn_back() {
        let first = SystemClock.mono();
        assert!(SystemClock.mono() >= first);
    }
}
