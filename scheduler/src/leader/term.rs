//! One leader's term: the lock's trusted life, the epoch, and writing under it.
//!
//! The lock only decides who tries. A term is trusted until `last renewal sent + L - margin` on this host's own
//! monotonic clock; every batch of writes looks at that first. What decides in the end is epoch and revision in the
//! rows: a leader that was paused between this look and its write changes nothing that a later term has taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::job::{Epoch, Job};
use common::lifecycle::{JobEvent, Refusal};
use common::service::Jobs;
use common::store::{CommitError, LeaderLock, StoreError};
use common::time::{Mono, SharedClock};

/// Why a term ended.
#[derive(Debug, thiserror::Error)]
pub enum Resigned {
    #[error("the lock was not renewed in time")]
    LockExpired,
    #[error("the lock is held by another")]
    LockLost,
    #[error("a later term ({0:?}) has begun")]
    LaterTerm(Epoch),
}

/// Why a duty did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum DutyError {
    /// The term is over.
    #[error(transparent)]
    Resigned(#[from] Resigned),
    /// The duty is tried again at its next time.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The lock as held by us.
pub struct LockHold {
    lock: Arc<dyn LeaderLock>,
    key: String,
    token: String,
    ttl: Duration,
    clock: SharedClock,
    trusted_until: AtomicU64,
}

impl LockHold {
    pub fn new(
        lock: Arc<dyn LeaderLock>,
        key: String,
        token: String,
        ttl: Duration,
        clock: SharedClock,
    ) -> Self {
        Self {
            lock,
            key,
            token,
            ttl,
            clock,
            trusted_until: AtomicU64::new(0),
        }
    }

    /// A fifth of the life: more than two programs' clocks drift apart within it, and a renewal each third still fits.
    fn margin(&self) -> Duration {
        self.ttl / 5
    }

    pub async fn acquire(&self) -> Result<bool, StoreError> {
        let sent = self.clock.mono();
        let got = self.lock.acquire(&self.key, &self.token, self.ttl).await?;
        if got {
            self.trust_from(sent);
        }
        Ok(got)
    }

    /// # Errors
    /// When the lock is another's; an unreachable lock is no error until the trust in it has run out.
    pub async fn renew(&self) -> Result<(), Resigned> {
        let sent = self.clock.mono();
        match self.lock.renew(&self.key, &self.token, self.ttl).await {
            Ok(true) => {
                self.trust_from(sent);
                Ok(())
            }
            Ok(false) => Err(Resigned::LockLost),
            Err(error) => {
                tracing::warn!(%error, "the leader's lock could not be renewed");
                self.check()
            }
        }
    }

    /// The second look, at the lock itself.
    ///
    /// # Errors
    /// When it is not ours.
    pub async fn look_again(&self) -> Result<(), DutyError> {
        if self.lock.holds(&self.key, &self.token).await? {
            Ok(())
        } else {
            Err(Resigned::LockLost.into())
        }
    }

    /// # Errors
    /// When the last renewal is too long ago to be trusted.
    pub fn check(&self) -> Result<(), Resigned> {
        if self.clock.mono() < Mono::from_millis(self.trusted_until.load(Ordering::SeqCst)) {
            Ok(())
        } else {
            Err(Resigned::LockExpired)
        }
    }

    pub async fn release(&self) {
        self.trusted_until.store(0, Ordering::SeqCst);
        if let Err(error) = self.lock.release(&self.key, &self.token).await {
            tracing::debug!(%error, "the leader's lock was not released; it ends by itself");
        }
    }

    fn trust_from(&self, sent: Mono) {
        let until = sent.after(self.ttl.saturating_sub(self.margin()));
        self.trusted_until.fetch_max(until.as_millis(), Ordering::SeqCst);
    }
}

/// A term that has begun.
#[derive(Clone)]
pub struct Term {
    pub epoch: Epoch,
    lock: Arc<LockHold>,
    jobs: Jobs,
}

/// What became of each event of a batch.
#[derive(Debug)]
pub enum Written {
    Done(Box<Job>),
    /// The row as loaded refuses.
    Refused,
    /// Somebody was quicker; the row is to be loaded again.
    Conflict,
    Gone,
    /// The store will not change this row. It is passed over, and the store tells of it.
    Unchangeable,
}

impl Term {
    pub const fn new(epoch: Epoch, lock: Arc<LockHold>, jobs: Jobs) -> Self {
        Self { epoch, lock, jobs }
    }

    pub fn check(&self) -> Result<(), Resigned> {
        self.lock.check()
    }

    /// Decides and writes one batch; answers in order.
    ///
    /// # Errors
    /// [`Resigned`] when the term is over, seen here or in a row; [`StoreError`] when the fate of the write is unknown.
    pub async fn write(&self, events: Vec<(&Job, JobEvent)>) -> Result<Vec<Written>, DutyError> {
        self.check()?;
        let mut answers: Vec<Option<Written>> = Vec::with_capacity(events.len());
        let (mut steps, mut places) = (Vec::new(), Vec::new());
        for (place, (job, event)) in events.into_iter().enumerate() {
            match self.jobs.decide(job, event) {
                Ok(step) => {
                    steps.push((job, step));
                    places.push(place);
                    answers.push(None);
                }
                Err(Refusal::StaleEpoch { found }) => return Err(Resigned::LaterTerm(found).into()),
                Err(_) => answers.push(Some(Written::Refused)),
            }
        }
        if !steps.is_empty() {
            let written = self.jobs.commit(steps).await?;
            for (place, answer) in places.into_iter().zip(written) {
                answers[place] = Some(match answer {
                    Ok(job) => Written::Done(Box::new(job)),
                    Err(CommitError::Conflict) => Written::Conflict,
                    Err(CommitError::NotFound) => Written::Gone,
                    Err(CommitError::Unchangeable) => Written::Unchangeable,
                });
            }
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or(Written::Conflict))
            .collect())
    }
}
