//! A store of jobs that passes everything on, counts the rows that `get_many` is asked for, as the dispatcher does it, and
//! refuses to change some rows where a test asks for that.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use common::ids::{AccountId, JobId, UserId};
use common::job::{Job, StateName};
use common::store::{
    Commit, CommitError, Due, Fingerprint, Held, IdempotencyKey, Inserted, JobQuery, JobStore, NewJob, Page,
    StoreError, Stores,
};
use common::time::Timestamp;

pub struct Tap {
    inner: Arc<dyn JobStore>,
    rows_read: AtomicUsize,
    refused: Mutex<HashSet<JobId>>,
    refusals: AtomicUsize,
}

impl Tap {
    /// Stands before the store of jobs, and is told to the test.
    pub fn on(stores: Stores, told: &mut Option<Arc<Self>>) -> Stores {
        let tap = told.insert(Arc::new(Self {
            inner: Arc::clone(&stores.jobs),
            rows_read: AtomicUsize::new(0),
            refused: Mutex::default(),
            refusals: AtomicUsize::new(0),
        }));
        Stores {
            jobs: Arc::clone(tap) as Arc<dyn JobStore>,
            ..stores
        }
    }

    /// So many rows were asked for by id until now.
    pub fn rows_read(&self) -> usize {
        self.rows_read.load(Ordering::SeqCst)
    }

    /// From now on none of these is changed, each time that it is asked for.
    pub fn refuse(&self, jobs: impl IntoIterator<Item = JobId>) {
        self.refused.lock().unwrap().extend(jobs);
    }

    /// So many changes were refused until now.
    pub fn refusals(&self) -> usize {
        self.refusals.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl JobStore for Tap {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, StoreError> {
        self.inner.insert(jobs).await
    }

    async fn stored_under(
        &self,
        account: &AccountId,
        submitter: &UserId,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Fingerprint>, StoreError> {
        self.inner.stored_under(account, submitter, keys).await
    }

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.inner.get(id).await
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Job>, StoreError> {
        self.rows_read.fetch_add(ids.len(), Ordering::SeqCst);
        self.inner.get_many(ids).await
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>, StoreError> {
        self.inner.list(query).await
    }

    async fn commit(&self, changes: Vec<Commit>) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let is_refused: Vec<bool> = {
            let refused = self.refused.lock().unwrap();
            changes
                .iter()
                .map(|change| refused.contains(&change.job.id))
                .collect()
        };
        let refusals = is_refused.iter().filter(|refused| **refused).count();
        self.refusals.fetch_add(refusals, Ordering::SeqCst);
        let let_through = changes
            .into_iter()
            .zip(&is_refused)
            .filter(|(_, refused)| !**refused);
        let mut answers = self
            .inner
            .commit(let_through.map(|(change, _)| change).collect())
            .await?
            .into_iter();
        let answer = |refused: bool| match refused {
            true => Err(CommitError::Unchangeable),
            false => answers.next().unwrap(),
        };
        Ok(is_refused.into_iter().map(answer).collect())
    }

    async fn queued(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.inner.queued(after, limit).await
    }

    async fn due(&self, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.inner.due(due, now, limit).await
    }

    async fn held(&self, held: &Held, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.inner.held(held, after, limit).await
    }

    async fn count_by_state(&self, account: Option<&AccountId>) -> Result<Vec<(StateName, u64)>, StoreError> {
        self.inner.count_by_state(account).await
    }
}
