//! Each machine's clocks, all of them driven by simulated time.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use common::time::{Clock, Mono, Timestamp};

use super::machine;

/// Calendar time at the beginning.
const CALENDAR: i64 = 1_700_000_000_000;

/// A clock that a machine had been running for, so that no deadline lies before its beginning.
const UPTIME: u64 = 1_000_000;

#[derive(Debug, Default)]
pub struct HostClock {
    /// How far its calendar is ahead, in milliseconds.
    skew: i64,
    /// How far somebody set it, beside that.
    step: AtomicI64,
    booted_at: AtomicU64,
}

fn millis() -> u64 {
    u64::try_from(machine::elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl HostClock {
    pub fn new(skew: i64) -> Self {
        Self {
            skew,
            step: AtomicI64::new(0),
            booted_at: AtomicU64::new(0),
        }
    }

    /// The calendar is set so far from where it was at first, in milliseconds.
    pub fn step(&self, by: i64) {
        self.step.store(by, Ordering::SeqCst);
    }

    /// The clock that counts through suspend begins anew.
    pub fn reboot(&self) {
        self.booted_at.store(millis() + UPTIME, Ordering::SeqCst);
    }
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let off = self.skew + self.step.load(Ordering::SeqCst);
        Timestamp::from_millis(CALENDAR + i64::try_from(millis()).unwrap_or(i64::MAX) + off)
    }

    fn mono(&self) -> Mono {
        Mono::from_millis(millis() + UPTIME - self.booted_at.load(Ordering::SeqCst))
    }
}
