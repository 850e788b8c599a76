//! What the scheduler is told at its start. Every limit has a name, and its comment says why that number.

use std::time::Duration;

use common::config::{AccountLimits, LeaseTimes};
use common::protocol::token::FleetSecrets;
use common::queue::RESERVE_AFTER_DEFAULT;

/// Settings of one scheduler replica.
#[derive(Debug, Clone)]
pub struct Config {
    pub times: LeaseTimes,
    pub fleet: FleetSecrets,
    /// What workers sign their tokens for; configured, since proxies rewrite the `Host` header.
    pub audience: String,
    /// Name of the leader's lock; replicas of one installation share it.
    pub lock_key: String,
    pub limits: Limits,
    pub queueing: Queueing,
    pub accounts: AccountLimits,
}

impl Config {
    /// Default audience and name of the lock.
    pub const AUDIENCE_DEFAULT: &'static str = "jobworker";
    pub const LOCK_KEY_DEFAULT: &'static str = "jobworker:scheduler:leader";

    /// Everything by default but the secrets, for which there is no default.
    pub fn new(fleet: FleetSecrets) -> Self {
        Self {
            times: LeaseTimes::REAL,
            fleet,
            audience: Self::AUDIENCE_DEFAULT.to_owned(),
            lock_key: Self::LOCK_KEY_DEFAULT.to_owned(),
            limits: Limits::default(),
            queueing: Queueing::default(),
            accounts: AccountLimits::default(),
        }
    }
}

/// How the waiting are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queueing {
    /// A job that others were placed past for this long gets a worker kept free for it.
    pub reserve_after: Duration,
    /// One worker in so many of a pool is kept free for such jobs at the most, and one at least.
    pub reserved_share: usize,
}

impl Default for Queueing {
    fn default() -> Self {
        Self {
            // long enough that what becomes free by itself comes first, short against what people wait for
            reserve_after: RESERVE_AFTER_DEFAULT,
            // three quarters go on as if nothing were kept
            reserved_share: 4,
        }
    }
}

/// Limits of the workers' listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections at a time, WebSockets and file transfers together.
    pub connections_max: usize,
    /// Messages that one worker may send in a second, log chunks included; a faster one is read more slowly.
    pub messages_per_second: u32,
    /// Largest artifact.
    pub file_bytes_max: u64,
    /// Most artifacts of one attempt.
    pub files_per_attempt_max: u32,
    /// Longest wait for the head of an HTTP request.
    pub header_deadline: Duration,
    /// A file transfer that moves no byte for this long is ended.
    pub transfer_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // half a MiB of unstored chunks of its own each at the very worst, so half a GiB in all
            connections_max: 1_024,
            // ten times what a node of 100 short jobs a second says
            messages_per_second: 10_000,
            file_bytes_max: 1 << 30,
            files_per_attempt_max: 1_000,
            header_deadline: Duration::from_secs(10),
            transfer_stall: Duration::from_secs(30),
        }
    }
}
