//! The home of jobs.

use async_trait::async_trait;

use super::StoreError;
use crate::ids::{AccountId, AttemptId, JobId, SessionId, UserId};
use crate::job::{Epoch, Job, Revision, StateName};
use crate::time::Timestamp;

/// Persistent home of jobs. Every change is a compare-and-set on [`Revision`]; a reader never sees half a change.
///
/// Batches are not transactions: each element succeeds or fails alone. Callers may call concurrently; an
/// implementation groups what arrives while a write is under way.
///
/// A row that cannot be read is [`StoreError::Corrupt`] to [`JobStore::get`]; every answer of several rows leaves it out,
/// tells of it in the log, and is as long as without it.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Stores new jobs durably. With a key that the account used before (within 24 h), the job stored first is
    /// returned, untouched; with another fingerprint under that key, [`Inserted::KeyReused`]. An id that is already
    /// there (the same write sent again) is answered as stored.
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, StoreError>;

    /// Fingerprints of the requests that this submitter's `keys` stand for, within 24 h; in any order, and none of a
    /// key that is new.
    async fn stored_under(
        &self,
        account: &AccountId,
        submitter: &UserId,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Fingerprint>, StoreError>;

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Those of `ids` that exist, in any order.
    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Job>, StoreError>;

    /// Newest first; hidden jobs are left out.
    async fn list(&self, query: &JobQuery) -> Result<Page<Job>, StoreError>;

    /// Stores each job if its row still has the expected revision; the job carries its new one.
    async fn commit(&self, changes: Vec<Commit>) -> Result<Vec<Result<(), CommitError>>, StoreError>;

    /// Jobs in state `queued`, by id after `after`: the queue is made anew from these. None at the end, and not before it;
    /// a page may be shorter than asked for.
    async fn queued(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError>;

    /// Jobs whose time has come, earliest first.
    async fn due(&self, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError>;

    /// Jobs in state `assigned` or `running`, by id after `after`.
    async fn held(&self, held: &Held, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError>;

    /// What a session holds, in any order. Asked for at every heartbeat: an implementation answers many calls at once.
    async fn holdings(&self, session: SessionId) -> Result<Vec<Holding>, StoreError> {
        let (held, mut found, mut after) = (Held::Sessions(vec![session]), Vec::new(), None);
        loop {
            let rows = self.held(&held, after, HOLDINGS_PAGE).await?;
            after = rows.last().map(|job| job.id);
            found.extend(rows.iter().filter_map(Holding::of));
            if rows.len() < HOLDINGS_PAGE {
                return Ok(found);
            }
        }
    }

    /// What all sessions hold, in any order: as many as the fleet has slots, at the most.
    async fn all_holdings(&self) -> Result<Vec<Holding>, StoreError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let rows = self.held(&Held::Any, after, HOLDINGS_PAGE).await?;
            after = rows.last().map(|job| job.id);
            found.extend(rows.iter().filter_map(Holding::of));
            if rows.len() < HOLDINGS_PAGE {
                return Ok(found);
            }
        }
    }

    /// How many jobs are in each state; of one account, or of all.
    async fn count_by_state(&self, account: Option<&AccountId>) -> Result<Vec<(StateName, u64)>, StoreError>;

    /// How many jobs of all accounts are queued. To be quick however many have ended.
    async fn count_queued(&self) -> Result<u64, StoreError> {
        let counts = self.count_by_state(None).await?;
        let queued = counts.iter().find(|(state, _)| *state == StateName::Queued);
        Ok(queued.map_or(0, |(_, count)| *count))
    }

    /// How many jobs of an account are queued or scheduled: exactly, since a limit hangs on it, which may take half a
    /// minute. To be quick however many have ended.
    async fn count_waiting(&self, account: &AccountId) -> Result<u64, StoreError> {
        let counts = self.count_by_state(Some(account)).await?;
        let waiting = |state: &StateName| matches!(state, StateName::Queued | StateName::Scheduled);
        Ok(counts
            .into_iter()
            .filter(|(state, _)| waiting(state))
            .map(|(_, count)| count)
            .sum())
    }
}

/// Rows read at once where holdings are made of whole rows.
const HOLDINGS_PAGE: usize = 500;

/// As much of a held row as the leader and the gateways look at all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    pub job: JobId,
    pub attempt: AttemptId,
    pub session: SessionId,
    /// `assigned` or `running`.
    pub state: StateName,
}

impl Holding {
    pub fn of(job: &Job) -> Option<Self> {
        let (attempt, lease) = job.state.held()?;
        Some(Self {
            job: job.id,
            attempt,
            session: lease.session,
            state: job.state.name(),
        })
    }
}

#[derive(Debug, Clone)]
pub struct NewJob {
    pub job: Job,
    pub key: Option<(IdempotencyKey, Fingerprint)>,
}

/// A client's own name for one submission; kept for 24 h for its account and submitter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub String);

/// Of the request's body, so that one key cannot stand for two requests. Lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    Stored,
    /// The key was used before for the same request: the job as it stands now.
    Repeated(Box<Job>),
    /// The key was used before for another request; nothing was stored.
    KeyReused,
}

/// A changed job, and the revision that it was changed from.
#[derive(Debug, Clone)]
pub struct Commit {
    pub job: Job,
    pub expected: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Somebody was quicker: load again and decide again.
    #[error("the row has another revision")]
    Conflict,
    #[error("there is no such job")]
    NotFound,
    /// The store will not change this row, however often it is asked: somebody else has spoilt it, or put a rule upon it.
    /// Nothing was written.
    #[error("the store refuses to change this row")]
    Unchangeable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// `scheduled` with `at` up to now.
    Start,
    /// `queued` past its own queue limit.
    QueueDeadline,
}

/// Which held jobs are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Any,
    /// Written last in a term before this one.
    BeforeTerm(Epoch),
    /// In these sessions.
    Sessions(Vec<SessionId>),
    /// In any session, as [`Held::Undelivered`]: for a gateway that has so many that naming them costs more than
    /// passing over the others'.
    AllUndelivered,
    /// In these sessions, still `assigned` or with a cancel that the agent has not confirmed: what gateways look for.
    Undelivered(Vec<SessionId>),
}

#[derive(Debug, Clone, Default)]
pub struct JobQuery {
    /// None: every account, for administrators and the system itself.
    pub account: Option<AccountId>,
    /// Empty: every state.
    pub states: Vec<StateName>,
    /// Labels that a job must carry, each with this value.
    pub labels: Vec<(String, String)>,
    /// Only jobs submitted before this one.
    pub before: Option<JobCursor>,
    pub limit: usize,
}

/// A place in a list: the id of the last job seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobCursor(pub JobId);

#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins; none at the end.
    pub next: Option<JobCursor>,
}
