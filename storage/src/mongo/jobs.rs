//! Jobs: a document each, changed by compare-and-set on its revision.
//!
//! Inserts and changes have lanes of their own, so that a bulk submission does not hold up a result. Documents are
//! encoded by the caller's task.

mod commit;
mod insert;
mod looks;
mod query;
mod row;
mod stretch;

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::{AccountId, JobId, SessionId, UserId};
use common::job::{Job, StateName};
use common::store::{
    Commit, CommitError, Due, Fingerprint, Held, Holding, IdempotencyKey, Inserted, JobQuery, JobStore,
    NewJob, Page, StoreError,
};
use common::tasks::Tasks;
use common::time::{SharedClock, Timestamp};
use mongodb::bson::Document;

use self::commit::{Change, Committer};
use self::insert::{Inserter, NewRow};
use self::looks::Looker;
use self::stretch::Stretch;
use super::lane::Lane;
use super::link::{Link, in_time};
use super::trouble::Trouble;

/// Commands under way in each lane. Two: while one waits for the majority's journals, the next is on its way.
const HANDS: usize = 2;

/// A job's row, as an insert would write it.
pub(super) fn document_of(job: &Job) -> Result<Document, Trouble> {
    Ok(row::new_document(job, row::Fields::of(job)?))
}

pub(super) struct Jobs {
    link: Arc<Link>,
    clock: SharedClock,
    inserts: Lane<Inserter>,
    changes: Lane<Committer>,
    looks: Lane<Looker>,
    stretch: Stretch,
}

impl Jobs {
    pub(super) fn new(link: &Arc<Link>, clock: &SharedClock, tasks: &Tasks) -> Self {
        let inserter = || Inserter {
            link: Arc::clone(link),
            clock: Arc::clone(clock),
        };
        Self {
            link: Arc::clone(link),
            clock: Arc::clone(clock),
            inserts: Lane::start("store-inserts", tasks, (0..HANDS).map(|_| inserter())),
            changes: Lane::start(
                "store-changes",
                tasks,
                (0..HANDS).map(|_| Committer(Arc::clone(link))),
            ),
            looks: Lane::start("store-looks", tasks, (0..HANDS).map(|_| Looker(Arc::clone(link)))),
            stretch: Stretch::new(),
        }
    }
}

#[async_trait]
impl JobStore for Jobs {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, StoreError> {
        let now = self.clock.now().as_millis();
        let rows = jobs
            .iter()
            .map(|new| NewRow::of(new, now))
            .collect::<Result<Vec<_>, Trouble>>()?;
        Ok(self.inserts.write(rows).await?)
    }

    async fn stored_under(
        &self,
        account: &AccountId,
        submitter: &UserId,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Fingerprint>, StoreError> {
        let now = self.clock.now().as_millis();
        let found = insert::stored_under(&self.link, (account, submitter), keys, now);
        Ok(in_time(found).await?)
    }

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(query::get(&self.link, id).await?)
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Job>, StoreError> {
        Ok(query::get_many(&self.link, ids).await?)
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>, StoreError> {
        Ok(query::list(&self.link, query).await?)
    }

    async fn commit(&self, changes: Vec<Commit>) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let changes = changes
            .iter()
            .map(|change| Change::of(change, super::nonce()))
            .collect::<Result<Vec<_>, Trouble>>()?;
        Ok(self.changes.write(changes).await?)
    }

    async fn queued(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        let now = self.clock.now();
        Ok(query::queued(&self.link, &self.stretch, now, after, limit).await?)
    }

    async fn due(&self, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
        Ok(query::due(&self.link, due, now, limit).await?)
    }

    async fn held(&self, held: &Held, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        Ok(query::held(&self.link, held, after, limit).await?)
    }

    async fn holdings(&self, session: SessionId) -> Result<Vec<Holding>, StoreError> {
        let found = self.looks.write(vec![session]).await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn all_holdings(&self) -> Result<Vec<Holding>, StoreError> {
        Ok(query::all_holdings(&self.link).await?)
    }

    async fn count_by_state(&self, account: Option<&AccountId>) -> Result<Vec<(StateName, u64)>, StoreError> {
        Ok(query::count_by_state(&self.link, account).await?)
    }

    async fn count_queued(&self) -> Result<u64, StoreError> {
        Ok(query::count_queued(&self.link).await?)
    }

    async fn count_waiting(&self, account: &AccountId) -> Result<u64, StoreError> {
        Ok(query::count_waiting(&self.link, account).await?)
    }
}
