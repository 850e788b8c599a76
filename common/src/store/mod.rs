//! Where things are kept: seams that speak the domain, implemented by `storage` and proved by one conformance suite.
//!
//! Rows are the truth; hints only wake; the queue, the lock, the limiter and the nonces are an index that may vanish
//! ([`coord`]) and is made anew from the rows. A write that answers `Ok` is durable. A write that answers
//! [`StoreError::Unavailable`] is *unknown*, never failed: read back.

pub mod coord;
mod files;
mod identity;
mod jobs;
mod logs;
mod workers;

use std::sync::Arc;

pub use self::coord::{
    Build, Hint, HintStream, Hints, JobQueue, LeaderLock, Nonces, Quota, RateDecision, RateLimiter, Topic,
};
pub use self::files::{ByteStream, FileMeta, FilePurpose, FileQuery, FileStore, FileWriter, NewFile};
pub use self::identity::IdentityStore;
pub use self::jobs::{
    Commit, CommitError, Due, Fingerprint, Held, Holding, IdempotencyKey, Inserted, JobCursor, JobQuery,
    JobStore, NewJob, Page,
};
pub use self::logs::{Appended, LogExtent, LogPage, LogPosition, LogStore, StoredChunk, StreamExtent};
pub use self::workers::{AgentWords, Beat, BeatAnswer, LeaderTerms, WorkerStore};

/// Everything a program needs of its backends.
#[derive(Clone)]
pub struct Stores {
    pub jobs: Arc<dyn JobStore>,
    pub workers: Arc<dyn WorkerStore>,
    pub terms: Arc<dyn LeaderTerms>,
    pub logs: Arc<dyn LogStore>,
    pub files: Arc<dyn FileStore>,
    pub identity: Arc<dyn IdentityStore>,
    pub lock: Arc<dyn LeaderLock>,
    pub queue: Arc<dyn JobQueue>,
    pub hints: Arc<dyn Hints>,
    pub limiter: Arc<dyn RateLimiter>,
    pub nonces: Arc<dyn Nonces>,
}

/// What a backend could not do. Driver errors are only a source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is known of the write's fate; read back, or try again with the same ids.
    #[error("the store does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Disk full, quota reached: nothing was written.
    #[error("the store is full")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the store holds something unreadable: {what}")]
    Corrupt {
        what: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The thing to be made is there already (a user's name, a file's id).
    #[error("it exists already")]
    Exists,
    #[error("there is no such thing")]
    NotFound,
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Full(_) => true,
            Self::Corrupt { .. } | Self::Exists | Self::NotFound => false,
        }
    }
}
