//! Lock, queue, hints, limits, nonces: quick, and disposable. Nothing that must survive lives here alone.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::StoreError;
use crate::ids::{AttemptId, JobId, WorkerId};
use crate::queue::{HeldBack, Lane, QueueEntry};
use crate::time::Timestamp;

/// Decides who *tries* to lead; term and revision decide who may write.
#[async_trait]
pub trait LeaderLock: Send + Sync {
    /// Takes the lock for `ttl` if nobody holds it. `token` is this holder's own, random.
    async fn acquire(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError>;
    /// Holds it for another `ttl`; false when it is not ours any more.
    async fn renew(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError>;
    /// Whether the lock is ours at this moment: the second look.
    async fn holds(&self, key: &str, token: &str) -> Result<bool, StoreError>;
    /// Gives it up if it is ours.
    async fn release(&self, key: &str, token: &str) -> Result<(), StoreError>;
}

/// The order of the waiting, as ordered sets by lane. Made anew from the rows at any time.
///
/// An account has [`CLASSES_PER_ACCOUNT_MAX`] classes at a time at the most: an entry of one more is put into the lane
/// of [`ClassKey::mixed`] instead, and stays there. So an entry stands in one of two lanes, and `remove` and `place`
/// look into both, whichever of the two their caller names.
///
/// [`CLASSES_PER_ACCOUNT_MAX`]: crate::queue::CLASSES_PER_ACCOUNT_MAX
/// [`ClassKey::mixed`]: crate::queue::ClassKey::mixed
#[async_trait]
#[allow(
    clippy::len_without_is_empty,
    reason = "asked by operators alone, who want the number"
)]
pub trait JobQueue: Send + Sync {
    /// Adds entries; one that is there keeps one place, by its latest score.
    async fn push(&self, entries: &[QueueEntry]) -> Result<(), StoreError>;
    async fn remove(&self, entries: &[QueueEntry]) -> Result<(), StoreError>;
    /// The first entries of a lane, in order, `skip` left out; each names the lane that it stands in.
    async fn heads(&self, lane: &Lane, skip: usize, limit: usize) -> Result<Vec<QueueEntry>, StoreError>;
    /// As [`JobQueue::heads`], of several lanes at once: `(lane, skip, limit)`; answers in order.
    async fn heads_of(&self, lanes: &[(Lane, usize, usize)]) -> Result<Vec<Vec<QueueEntry>>, StoreError> {
        let mut heads = Vec::with_capacity(lanes.len());
        for (lane, skip, limit) in lanes {
            heads.push(self.heads(lane, *skip, *limit).await?);
        }
        Ok(heads)
    }
    /// Every lane that is not empty, with its length.
    async fn lanes(&self) -> Result<Vec<(Lane, u64)>, StoreError>;
    /// How many entries of its lane stand before this one; none when it is not there.
    async fn place(&self, entry: &QueueEntry) -> Result<Option<u64>, StoreError>;
    async fn len(&self) -> Result<u64, StoreError>;
    /// True once [`JobQueue::mark_built`] was called on what is there now; false after a loss.
    async fn is_built(&self) -> Result<bool, StoreError>;
    /// Marks what is there now, before the queue is filled from the rows. A loss takes the mark along.
    async fn begin_build(&self) -> Result<Build, StoreError>;
    /// Says that every row is in. False when the mark is gone, or another making has begun: then this one is to be
    /// done again.
    async fn mark_built(&self, build: &Build) -> Result<bool, StoreError>;
    /// Tells what the leader holds back, in place of what was told before.
    async fn tell_reservations(&self, reservations: &[HeldBack]) -> Result<(), StoreError>;
    /// What was told last; nothing after a loss, until it is told again, nor, where programs share the queue, after
    /// [`HELD_BACK_LIFE`](crate::queue::HELD_BACK_LIFE).
    async fn reservations(&self) -> Result<Vec<HeldBack>, StoreError>;
    /// Forgets everything, reservations too.
    async fn clear(&self) -> Result<(), StoreError>;
}

/// The making of a queue from the rows, as its backend knows it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build(String);

impl Build {
    pub const fn new(mark: String) -> Self {
        Self(mark)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a hint is about. It says where to look, never what is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Jobs have come into the queue.
    Queue,
    /// A worker appeared, changed, or has free capacity.
    Capacity,
    /// A worker's gateway finds something in the rows.
    Worker(WorkerId),
    /// A job changed.
    Job(JobId),
    /// An attempt's log grew.
    Log(AttemptId),
}

/// A wake-up that may be lost, repeated or merged.
pub type Hint = Topic;

#[async_trait]
pub trait Hints: Send + Sync {
    /// Never fails and never waits: a hint that cannot be sent is lost.
    fn send(&self, hint: Hint);
    /// Every hint from now on. Subscribe before you look at the rows.
    fn subscribe(&self) -> HintStream;
}

/// Hints as they arrive. A slow reader loses some and is told so by a wake-up without a topic.
#[derive(Debug)]
pub struct HintStream(broadcast::Receiver<Option<Hint>>);

impl HintStream {
    /// What is received as none is such a wake-up too: the sender knows that some were lost on their way to it.
    pub const fn new(receiver: broadcast::Receiver<Option<Hint>>) -> Self {
        Self(receiver)
    }

    /// The next hint; none where some were lost and everything is to be looked at. Waits for ever once the sender is
    /// gone: whoever listens has a tick beside it.
    pub async fn next(&mut self) -> Option<Hint> {
        match self.0.recv().await {
            Ok(hint) => hint,
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// At most `limit` calls in any window of this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub limit: u32,
    pub window: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateDecision {
    pub allowed: bool,
    pub limit: u32,
    pub remaining: u32,
    /// Until the next call would be allowed; zero when it is now.
    pub retry_after: Duration,
}

/// Sliding window: call `limit + 1` of a fresh window is refused, and no double burst passes at its edge.
#[async_trait]
pub trait RateLimiter: Send + Sync {
    async fn check(&self, bucket: &str, quota: Quota, now: Timestamp) -> Result<RateDecision, StoreError>;
}

/// Numbers used once.
#[async_trait]
pub trait Nonces: Send + Sync {
    /// True for the first caller of a nonce within `kept`, and for that one alone. A token signed before this store
    /// was born is refused (false): a wiped store opens no replay.
    async fn use_once(
        &self,
        nonce: &str,
        signed_at: Timestamp,
        kept: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}
