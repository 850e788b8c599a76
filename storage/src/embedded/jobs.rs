//! Jobs: a row each, changed by compare-and-set on its revision.
//!
//! The document is encoded by the caller's task, so that the writer thread only moves bytes. Listing merges one
//! indexed scan a state; a filter on labels looks at [`query::SCAN_MAX`] rows a page at the most and then gives a short page
//! with a cursor.

mod query;
mod recent;
mod row;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::ids::{AccountId, JobId, UserId};
use common::job::{Job, StateName};
use common::store::{
    Commit, CommitError, Due, Fingerprint, Held, IdempotencyKey, Inserted, JobQuery, JobStore, NewJob, Page,
    StoreError,
};
use common::time::{SharedClock, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use self::recent::Recent;
use self::row::Row;
use super::readers::Readers;
use super::sqlite::sql;
use super::writer::Lane;

/// How long a client's own name for a submission is remembered.
const KEYS_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// Forgotten names removed along with each new one: more than one, so that the table shrinks.
const KEYS_SWEPT: u32 = 4;

pub(super) struct Jobs {
    lane: Lane<Connection>,
    readers: Arc<Readers>,
    clock: SharedClock,
    recent: Arc<Recent>,
}

impl Jobs {
    pub(super) fn new(lane: Lane<Connection>, readers: Arc<Readers>, clock: SharedClock) -> Self {
        Self {
            lane,
            readers,
            clock,
            recent: Arc::default(),
        }
    }
}

#[async_trait]
impl JobStore for Jobs {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, StoreError> {
        let rows = jobs
            .iter()
            .map(|new| {
                Ok(NewRow {
                    row: Row::of(&new.job)?,
                    submitter: new.job.submitted_by.as_str().to_owned(),
                    key: new
                        .key
                        .as_ref()
                        .map(|(key, fingerprint)| (key.0.clone(), fingerprint.0.clone())),
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let (now, weight) = (self.clock.now(), rows.len());
        let sizes: Vec<usize> = rows.iter().map(|new| new.row.bytes()).collect();
        let work = move |db: &mut Connection| rows.iter().map(|new| insert(db, new, now)).collect();
        let recent = Arc::clone(&self.recent);
        let keep = move |outcome: &Result<Vec<Done>, StoreError>| {
            let done = outcome.iter().flatten();
            let new = jobs
                .into_iter()
                .zip(sizes)
                .zip(done)
                .filter(|(_, done)| done.is_new);
            recent.put(new.map(|((new, bytes), _)| (new.job, bytes)));
        };
        let done = self.lane.write_then(weight, work, keep).await?;
        Ok(done.into_iter().map(|done| done.answer).collect())
    }

    async fn stored_under(
        &self,
        account: &AccountId,
        submitter: &UserId,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Fingerprint>, StoreError> {
        let (account, submitter) = (account.to_string(), submitter.to_string());
        let keys: Vec<String> = keys.iter().map(|key| key.0.clone()).collect();
        let forgotten = self.clock.now().as_millis().saturating_sub(millis(KEYS_KEPT));
        let find = move |db: &Connection| {
            let mut found = Vec::new();
            for key in &keys {
                let fingerprint = known(db, &account, &submitter, key, forgotten).map_err(sql)?;
                found.extend(fingerprint.map(|(fingerprint, _)| Fingerprint(fingerprint)));
            }
            Ok(found)
        };
        self.readers.read(find).await
    }

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        if let Some(job) = self.recent.get(id) {
            return Ok(Some(job));
        }
        self.readers.look(move |db| query::get(db, id)).await
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Job>, StoreError> {
        let (mut jobs, missing) = self.recent.get_many(ids);
        if !missing.is_empty() {
            let all = move |db: &Connection| query::get_many(db, &missing);
            jobs.extend(self.readers.read(all).await?);
        }
        Ok(jobs)
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>, StoreError> {
        let query = query.clone();
        self.readers.read(move |db| query::list(db, &query)).await
    }

    async fn commit(&self, changes: Vec<Commit>) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let rows = changes
            .iter()
            .map(|change| Ok((Row::of(&change.job)?, change.expected.0.cast_signed())))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let weight = rows.len();
        let sizes: Vec<usize> = rows.iter().map(|(row, _)| row.bytes()).collect();
        let work = move |db: &mut Connection| {
            let changed = rows.iter().map(|(row, expected)| commit(db, row, *expected));
            changed.collect::<Result<Vec<_>, _>>().map_err(sql)
        };
        let recent = Arc::clone(&self.recent);
        let keep = move |outcome: &Result<Vec<Result<(), CommitError>>, StoreError>| {
            let answers = outcome.iter().flatten();
            let stored = changes
                .into_iter()
                .zip(sizes)
                .zip(answers)
                .filter(|(_, answer)| answer.is_ok());
            recent.put(stored.map(|((change, bytes), _)| (change.job, bytes)));
        };
        self.lane.write_then(weight, work, keep).await
    }

    async fn queued(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.readers.read(move |db| query::queued(db, after, limit)).await
    }

    async fn due(&self, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.readers.read(move |db| query::due(db, due, now, limit)).await
    }

    async fn held(&self, held: &Held, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        let limit = limit.min(query::SWEEP_MAX);
        let (mut jobs, mut after) = (Vec::new(), after);
        loop {
            let wanted = limit - jobs.len();
            let ids = self.held_ids(held, after, wanted).await?;
            after = ids.last().copied();
            // Rows that cannot be read are left out: those behind them fill their places.
            jobs.extend(self.get_many(&ids).await?);
            if ids.len() < wanted || jobs.len() >= limit {
                jobs.sort_unstable_by_key(|job| job.id);
                return Ok(jobs);
            }
        }
    }

    async fn count_by_state(&self, account: Option<&AccountId>) -> Result<Vec<(StateName, u64)>, StoreError> {
        let account = account.cloned();
        self.readers
            .read(move |db| query::count_by_state(db, account.as_ref()))
            .await
    }

    async fn count_waiting(&self, account: &AccountId) -> Result<u64, StoreError> {
        let account = account.clone();
        self.readers
            .read(move |db| query::count_waiting(db, &account))
            .await
    }
}

impl Jobs {
    async fn held_ids(
        &self,
        held: &Held,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<JobId>, StoreError> {
        let held = held.clone();
        match held {
            // Bounded by the slots of the fleet, from an index alone, and on the way of every assignment.
            Held::Undelivered(_) | Held::AllUndelivered => {
                self.readers
                    .look(move |db| query::held(db, &held, after, limit))
                    .await
            }
            Held::Any | Held::BeforeTerm(_) | Held::Sessions(_) => {
                self.readers
                    .read(move |db| query::held(db, &held, after, limit))
                    .await
            }
        }
    }
}

struct NewRow {
    row: Row,
    submitter: String,
    key: Option<(String, String)>,
}

/// What became of a new job.
struct Done {
    answer: Inserted,
    /// False where its row was there already, and may have changed since.
    is_new: bool,
}

fn insert(db: &Connection, new: &NewRow, now: Timestamp) -> Result<Done, StoreError> {
    let there = |answer| {
        Ok(Done {
            answer,
            is_new: false,
        })
    };
    if let Some((key, fingerprint)) = &new.key {
        let forgotten = now.as_millis().saturating_sub(millis(KEYS_KEPT));
        let found = known(db, &new.row.account, &new.submitter, key, forgotten).map_err(sql)?;
        if let Some((stored, id)) = found {
            if stored != *fingerprint {
                return there(Inserted::KeyReused);
            }
            if id == new.row.id {
                return there(Inserted::Stored);
            }
            if let Some(job) = query::get(db, JobId::from_u128(u128::from_be_bytes(id)))? {
                return there(Inserted::Repeated(Box::new(job)));
            }
        }
        remember(db, new, key, fingerprint, now, forgotten).map_err(sql)?;
    }
    let is_new = new.row.insert(db).map_err(sql)? == 1;
    Ok(Done {
        answer: Inserted::Stored,
        is_new,
    })
}

/// The fingerprint and the job that a key stands for.
fn known(
    db: &Connection,
    account: &str,
    submitter: &str,
    key: &str,
    forgotten: i64,
) -> rusqlite::Result<Option<(String, [u8; 16])>> {
    db.prepare_cached(
        "SELECT fingerprint, job FROM submissions WHERE account = ?1 AND submitter = ?2 AND key = ?3 AND at > ?4",
    )?
    .query_row(params![account, submitter, key, forgotten], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
    .optional()
}

fn remember(
    db: &Connection,
    new: &NewRow,
    key: &str,
    fingerprint: &str,
    now: Timestamp,
    forgotten: i64,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO submissions (account, submitter, key, fingerprint, job, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        new.row.account,
        new.submitter,
        key,
        fingerprint,
        new.row.id,
        now.as_millis()
    ])?;
    db.prepare_cached(
        "DELETE FROM submissions WHERE (account, submitter, key) IN
         (SELECT account, submitter, key FROM submissions WHERE at <= ?1 ORDER BY at LIMIT ?2)",
    )?
    .execute(params![forgotten, KEYS_SWEPT])?;
    Ok(())
}

fn commit(db: &Connection, row: &Row, expected: i64) -> rusqlite::Result<Result<(), CommitError>> {
    if row.update(db, expected)? == 1 {
        return Ok(Ok(()));
    }
    let there = db
        .prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?
        .exists([row.id])?;
    Ok(Err(if there {
        CommitError::Conflict
    } else {
        CommitError::NotFound
    }))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
