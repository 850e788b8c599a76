//! Configuration that programs share, parsed once into types that cannot be half-set.

use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::WorkerSettings;
use crate::secret::Secret;

/// Where a program keeps things.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// SQLite and files in one folder, everything else in process.
    Embedded { folder: PathBuf },
    /// What has to survive in MongoDB, the rest in Redis: shared by all programs of an installation. A MongoDB without
    /// retryable writes is named with `retryWrites=false` in its address.
    MongoRedis {
        mongo_url: Secret<String>,
        redis_url: Secret<String>,
    },
}

/// One of two settings that only mean something together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{set} is set and {missing} is not: set both, or neither to keep everything in the state folder")]
pub struct HalfSet {
    pub set: &'static str,
    pub missing: &'static str,
}

impl StoreConfig {
    /// As `MONGODB_URI` and `REDIS_URL` say it; none where neither does. Empty is not set.
    ///
    /// # Errors
    /// [`HalfSet`] when one of them alone is set.
    pub fn servers(mongodb_uri: Option<String>, redis_url: Option<String>) -> Result<Option<Self>, HalfSet> {
        const NAMES: (&str, &str) = ("MONGODB_URI", "REDIS_URL");
        let given = |value: Option<String>| value.filter(|value| !value.trim().is_empty()).map(Secret::new);
        match (given(mongodb_uri), given(redis_url)) {
            (Some(mongo_url), Some(redis_url)) => Ok(Some(Self::MongoRedis { mongo_url, redis_url })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(HalfSet {
                set: NAMES.0,
                missing: NAMES.1,
            }),
            (None, Some(_)) => Err(HalfSet {
                set: NAMES.1,
                missing: NAMES.0,
            }),
        }
    }
}

/// The times of sessions and leases. Names as on the page that argues their safety: L lock, H heartbeat, C contact,
/// T `lost_after`, G kill grace, S sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTimes {
    /// L.
    pub lock_ttl: Duration,
    /// H.
    pub heartbeat: Duration,
    /// C: silent for this long, a worker gets no new work.
    pub contact: Duration,
    /// T: silent for this long, its session is lost.
    pub lost_after: Duration,
    /// G: the most that a container may take to end after its deadline.
    pub kill_grace: Duration,
    /// S.
    pub sweep: Duration,
    pub ping: Duration,
    pub pong_deadline: Duration,
    /// The agent's longest pause between two tries to connect.
    pub backoff_max: Duration,
    pub handshake: Duration,
}

/// T is too short for an agent to notice that it is cut off and to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "lost_after less kill_grace must be more than twice ping + pong_deadline + backoff_max + handshake: raise lost_after"
)]
pub struct UnsafeTimes;

impl LeaseTimes {
    pub const REAL: Self = Self {
        lock_ttl: Duration::from_secs(5),
        heartbeat: Duration::from_secs(5),
        contact: Duration::from_secs(15),
        lost_after: Duration::from_secs(300),
        kill_grace: Duration::from_secs(10),
        sweep: Duration::from_secs(5),
        ping: Duration::from_secs(10),
        pong_deadline: Duration::from_secs(10),
        backoff_max: Duration::from_secs(10),
        handshake: Duration::from_secs(5),
    };

    /// For tests: everything short enough to watch it happen.
    pub const SCALED: Self = Self {
        lock_ttl: Duration::from_secs(1),
        heartbeat: Duration::from_millis(500),
        contact: Duration::from_millis(1_500),
        lost_after: Duration::from_secs(6),
        kill_grace: Duration::from_secs(1),
        sweep: Duration::from_millis(500),
        ping: Duration::from_millis(500),
        pong_deadline: Duration::from_millis(500),
        backoff_max: Duration::from_millis(500),
        handshake: Duration::from_millis(500),
    };

    /// # Errors
    /// [`UnsafeTimes`] when `T - G > 2 x (ping + pong + back-off + handshake)` does not hold.
    pub fn check(&self) -> Result<(), UnsafeTimes> {
        let round = self.ping + self.pong_deadline + self.backoff_max + self.handshake;
        if self.lost_after.saturating_sub(self.kill_grace) > 2 * round {
            Ok(())
        } else {
            Err(UnsafeTimes)
        }
    }

    /// How long a new leader waits for agents to come back before it counts anybody's silence.
    pub fn reconnect_grace(&self) -> Duration {
        self.backoff_max + self.handshake + 2 * self.heartbeat
    }

    pub const fn worker_settings(&self) -> WorkerSettings {
        WorkerSettings {
            heartbeat: self.heartbeat,
            lost_after: self.lost_after,
            kill_grace: self.kill_grace,
            ping: self.ping,
            pong_deadline: self.pong_deadline,
        }
    }
}

/// What an account may have at the same time where its own record says nothing, and what no record may exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountLimits {
    /// Attempts; none: as many as fit.
    pub running_default: Option<u32>,
    pub running_ceiling: Option<u32>,
    /// Jobs that are queued or scheduled.
    pub waiting_default: u32,
    pub waiting_ceiling: u32,
}

impl AccountLimits {
    pub fn running(&self, own: Option<u32>) -> Option<u32> {
        let wanted = own.or(self.running_default);
        match (wanted, self.running_ceiling) {
            (Some(wanted), Some(ceiling)) => Some(wanted.min(ceiling)),
            (wanted, ceiling) => wanted.or(ceiling),
        }
    }

    pub fn waiting(&self, own: Option<u32>) -> u32 {
        own.unwrap_or(self.waiting_default).min(self.waiting_ceiling)
    }
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            running_default: None,
            running_ceiling: None,
            // what the queue is made anew from the rows for in well under a minute
            waiting_default: 1_000_000,
            // some gigabytes of queue
            waiting_ceiling: 10_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_together_or_not_at_all() {
        let some = |text: &str| Some(text.to_owned());
        assert!(matches!(
            StoreConfig::servers(some("mongodb://h/x"), some("redis://h")),
            Ok(Some(StoreConfig::MongoRedis { .. }))
        ));
        assert!(matches!(StoreConfig::servers(None, some("")), Ok(None)));
        for (mongodb_uri, redis_url, missing) in [
            (some("mongodb://h/x"), None, "REDIS_URL"),
            (some(" "), some("redis://h"), "MONGODB_URI"),
        ] {
            let told = StoreConfig::servers(mongodb_uri, redis_url).unwrap_err();
            assert_eq!(told.missing, missing);
            assert!(told.to_string().contains(missing));
        }
    }

    #[test]
    fn both_sets_of_times_are_safe() {
        assert_eq!(LeaseTimes::REAL.check(), Ok(()));
        assert_eq!(LeaseTimes::SCALED.check(), Ok(()));
    }

    #[test]
    fn an_accounts_own_limit_stands_before_the_default_and_below_the_ceiling() {
        let limits = AccountLimits {
            running_default: Some(8),
            running_ceiling: Some(16),
            waiting_default: 100,
            waiting_ceiling: 1_000,
        };
        for (own, running, waiting) in [
            (None, Some(8), 100),
            (Some(4), Some(4), 4),
            (Some(0), Some(0), 0),
            (Some(9_999), Some(16), 1_000),
        ] {
            assert_eq!(
                (limits.running(own), limits.waiting(own)),
                (running, waiting),
                "{own:?}"
            );
        }
        let open = AccountLimits {
            running_default: None,
            running_ceiling: None,
            ..limits
        };
        assert_eq!((open.running(None), open.running(Some(3))), (None, Some(3)));
        let capped = AccountLimits {
            running_ceiling: Some(2),
            ..open
        };
        assert_eq!(capped.running(None), Some(2));
    }

    #[test]
    fn a_short_lease_is_refused() {
        let times = LeaseTimes {
            lost_after: Duration::from_secs(60),
            ..LeaseTimes::REAL
        };
        assert_eq!(times.check(), Err(UnsafeTimes));
    }
}
