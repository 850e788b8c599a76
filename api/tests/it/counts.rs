//! A store of jobs whose counts take as long as a test wants, or fail.

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::{AccountId, JobId, UserId};
use common::job::{Job, StateName};
use common::store::{
    Commit, CommitError, Due, Fingerprint, Held, IdempotencyKey, Inserted, JobQuery, JobStore, NewJob, Page,
    StoreError, Stores,
};
use common::time::Timestamp;
use tokio::sync::watch;

use crate::accounts::Accounts;
use crate::support::PATIENCE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    Held,
    /// Counting takes longer than the store waits for it.
    TooSlow,
    /// The store answers neither that nor what an account may have.
    Away,
}

/// Stands before the store of jobs. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Counts {
    gate: watch::Sender<Gate>,
    begun: watch::Sender<u32>,
    answered: watch::Sender<u32>,
}

impl Counts {
    pub fn new() -> Self {
        Self {
            gate: watch::Sender::new(Gate::Open),
            begun: watch::Sender::new(0),
            answered: watch::Sender::new(0),
        }
    }

    pub fn before(&self, stores: Stores) -> Stores {
        let counts = self.clone();
        let (jobs, accounts) = (Arc::clone(&stores.jobs), Arc::clone(&stores.identity));
        let gates = counts.clone();
        Stores {
            jobs: Arc::new(Counted { jobs, counts }),
            identity: Arc::new(Accounts { accounts, gates }),
            ..stores
        }
    }

    pub fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    pub fn gate(&self) -> Gate {
        *self.gate.borrow()
    }

    /// Waits until so many counts were begun.
    pub async fn begun(&self, count: u32) {
        reach(&self.begun, count).await;
    }

    /// Waits until so many counts were answered.
    pub async fn answered(&self, count: u32) {
        reach(&self.answered, count).await;
    }

    pub fn how_many(&self) -> u32 {
        *self.begun.borrow()
    }
}

async fn reach(counts: &watch::Sender<u32>, count: u32) {
    let mut seen = counts.subscribe();
    let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|seen| *seen >= count)).await;
    assert!(waited.is_ok(), "{} of {count} counts", *counts.borrow());
}

struct Counted {
    jobs: Arc<dyn JobStore>,
    counts: Counts,
}

#[async_trait]
impl JobStore for Counted {
    async fn count_waiting(&self, account: &AccountId) -> Result<u64, StoreError> {
        self.counts.begun.send_modify(|begun| *begun += 1);
        let mut gate = self.counts.gate.subscribe();
        let gate = *gate.wait_for(|gate| *gate != Gate::Held).await.unwrap();
        let counted = match gate {
            Gate::TooSlow | Gate::Away => Err(StoreError::Unavailable("it takes too long".into())),
            Gate::Open | Gate::Held => self.jobs.count_waiting(account).await,
        };
        self.counts.answered.send_modify(|answered| *answered += 1);
        counted
    }

    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, StoreError> {
        self.jobs.insert(jobs).await
    }

    async fn stored_under(
        &self,
        account: &AccountId,
        submitter: &UserId,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Fingerprint>, StoreError> {
        self.jobs.stored_under(account, submitter, keys).await
    }

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.jobs.get(id).await
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Job>, StoreError> {
        self.jobs.get_many(ids).await
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>, StoreError> {
        self.jobs.list(query).await
    }

    async fn commit(&self, changes: Vec<Commit>) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        self.jobs.commit(changes).await
    }

    async fn queued(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.jobs.queued(after, limit).await
    }

    async fn due(&self, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.jobs.due(due, now, limit).await
    }

    async fn held(&self, held: &Held, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.jobs.held(held, after, limit).await
    }

    async fn count_by_state(&self, account: Option<&AccountId>) -> Result<Vec<(StateName, u64)>, StoreError> {
        self.jobs.count_by_state(account).await
    }
}
