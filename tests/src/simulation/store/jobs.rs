//! Jobs in memory: every change is a compare-and-set on the revision.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use common::attempt::Outcome;
use common::ids::{AccountId, JobId, UserId};
use common::job::{Job, JobState, StateName};
use common::store::{
    Commit, CommitError, Due, Fingerprint, Held, IdempotencyKey, Inserted, JobCursor, JobQuery, JobStore,
    NewJob, Page, StoreError,
};
use common::time::Timestamp;

use super::{Backends, Caller, Client, Service, Write, held};

/// How long a client's key stands for its first request.
const KEY_KEPT: Duration = Duration::from_secs(24 * 3_600);

type Key = (AccountId, UserId, String);

#[derive(Default)]
pub struct Jobs {
    rows: BTreeMap<JobId, Job>,
    keys: BTreeMap<Key, (Fingerprint, JobId, Timestamp)>,
}

impl Jobs {
    pub fn all(&self) -> Vec<Job> {
        self.rows.values().cloned().collect()
    }

    /// What a key stands for, as long as it does.
    fn known(&self, key: &Key, now: Timestamp) -> Option<(&Fingerprint, &JobId)> {
        let (used, first, at) = self.keys.get(key)?;
        (now.since(*at) < KEY_KEPT).then_some((used, first))
    }

    fn insert(&mut self, new: NewJob, now: Timestamp) -> (Inserted, bool) {
        let NewJob { job, key } = new;
        if let Some((key, fingerprint)) = key {
            let key = (job.account.clone(), job.submitted_by.clone(), key.0);
            match self.known(&key, now) {
                Some((used, first)) if *used == fingerprint => {
                    let answer = match self.rows.get(first) {
                        Some(row) if row.id != job.id => Inserted::Repeated(Box::new(row.clone())),
                        _ => Inserted::Stored,
                    };
                    return (answer, false);
                }
                Some(_) => return (Inserted::KeyReused, false),
                None => {
                    self.keys.insert(key, (fingerprint, job.id, now));
                }
            }
        }
        let is_new = !self.rows.contains_key(&job.id);
        if is_new {
            self.rows.insert(job.id, job);
        }
        (Inserted::Stored, is_new)
    }

    fn commit(&mut self, change: Commit) -> Result<(Job, Job), CommitError> {
        let row = self.rows.get_mut(&change.job.id).ok_or(CommitError::NotFound)?;
        if row.revision != change.expected {
            return Err(CommitError::Conflict);
        }
        let before = std::mem::replace(row, change.job.clone());
        Ok((before, change.job))
    }

    /// Which of a leader's writes this is, by what it changes of the rows as they are.
    fn write_of(&self, changes: &[Commit]) -> Option<Write> {
        changes.iter().find_map(|Commit { job, .. }| {
            let row = self.rows.get(&job.id)?;
            let ended = job.last_attempt().and_then(|attempt| attempt.end.as_ref());
            if job.attempts_total > row.attempts_total {
                Some(Write::Claim)
            } else if row.state.held().is_some() && job.state.held().is_none() {
                ended
                    .is_some_and(|end| end.outcome == Outcome::WorkerLost && end.report_hash.is_none())
                    .then_some(Write::Expire)
            } else {
                None
            }
        })
    }

    fn list(&self, query: &JobQuery) -> Page<Job> {
        let limit = query.limit.max(1);
        let fits = |job: &&Job| {
            !job.hidden
                && query
                    .account
                    .as_ref()
                    .is_none_or(|account| *account == job.account)
                && (query.states.is_empty() || query.states.contains(&job.state.name()))
                && query.before.is_none_or(|before| job.id < before.0)
                && query
                    .labels
                    .iter()
                    .all(|(name, value)| job.spec.labels.get(name) == Some(value))
        };
        let mut found = self.rows.values().rev().filter(fits);
        let items: Vec<Job> = found.by_ref().take(limit).cloned().collect();
        let next = found
            .next()
            .and_then(|_| items.last())
            .map(|job| JobCursor(job.id));
        Page { items, next }
    }

    fn due(&self, due: Due, now: Timestamp, limit: usize) -> Vec<Job> {
        let time = |job: &Job| match (due, &job.state) {
            (Due::Start, JobState::Scheduled { at }) => Some(*at),
            (Due::QueueDeadline, _) => job.queue_deadline(),
            (Due::Start, _) => None,
        };
        let mut found: Vec<(Timestamp, &Job)> = self
            .rows
            .values()
            .filter_map(|job| Some((time(job).filter(|at| *at <= now)?, job)))
            .collect();
        found.sort_by_key(|(at, job)| (*at, job.id));
        found
            .into_iter()
            .take(limit)
            .map(|(_, job)| job.clone())
            .collect()
    }

    fn after(&self, after: Option<JobId>, limit: usize, fits: impl Fn(&Job) -> bool) -> Vec<Job> {
        self.rows
            .values()
            .filter(|job| after.is_none_or(|after| job.id > after) && fits(job))
            .take(limit)
            .cloned()
            .collect()
    }
}

fn is_meant(held: &Held, job: &Job) -> bool {
    let Some(lease) = job.state.lease() else {
        return false;
    };
    match held {
        Held::Any => true,
        Held::BeforeTerm(epoch) => job.epoch < *epoch,
        Held::Sessions(sessions) => sessions.contains(&lease.session),
        Held::AllUndelivered => undelivered(job),
        Held::Undelivered(sessions) => sessions.contains(&lease.session) && undelivered(job),
    }
}

fn undelivered(job: &Job) -> bool {
    matches!(job.state, JobState::Assigned { .. }) || job.cancel.is_some()
}

fn insert_all(backends: &Backends, by: Caller, jobs: Vec<NewJob>) -> Vec<Inserted> {
    let now = backends.clock.now();
    jobs.into_iter()
        .map(|new| {
            let job = new.job.clone();
            let (answer, is_new) = held(&backends.jobs).insert(new, now);
            if is_new {
                backends.observer.job_stored(by, &job);
            }
            answer
        })
        .collect()
}

fn commit_all(
    backends: &Backends,
    by: Caller,
    write: Option<Write>,
    changes: Vec<Commit>,
) -> Vec<Result<(), CommitError>> {
    changes
        .into_iter()
        .map(|change| {
            let wanted = change.job.clone();
            let answer = held(&backends.jobs).commit(change);
            match answer {
                Ok((before, after)) => {
                    backends.observer.job_changed(by, &before, &after);
                    Ok(())
                }
                Err(refused) => {
                    let row = held(&backends.jobs).rows.get(&wanted.id).cloned();
                    if let (Some(write), Some(row)) = (write, row) {
                        backends.observer.write_refused(by, write, &wanted, &row);
                    }
                    Err(refused)
                }
            }
        })
        .collect()
}

#[async_trait]
impl JobStore for Client {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, StoreError> {
        self.call(Service::Rows, "insert", |backends, by| {
            Ok(insert_all(backends, by, jobs))
        })
        .await
    }

    async fn stored_under(
        &self,
        account: &AccountId,
        submitter: &UserId,
        keys: &[IdempotencyKey],
    ) -> Result<Vec<Fingerprint>, StoreError> {
        let of = |key: &IdempotencyKey| (account.clone(), submitter.clone(), key.0.clone());
        let keys: Vec<Key> = keys.iter().map(of).collect();
        self.call(Service::Rows, "stored_under", move |backends, _| {
            let (jobs, now) = (held(&backends.jobs), backends.clock.now());
            let known = keys.iter().filter_map(|key| jobs.known(key, now));
            Ok(known.map(|(used, _)| used.clone()).collect())
        })
        .await
    }

    async fn get(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.call(Service::Rows, "get", move |backends, _| {
            Ok(held(&backends.jobs).rows.get(&id).cloned())
        })
        .await
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Job>, StoreError> {
        let ids = ids.to_vec();
        self.call(Service::Rows, "get_many", move |backends, _| {
            let jobs = held(&backends.jobs);
            Ok(ids.iter().filter_map(|id| jobs.rows.get(id).cloned()).collect())
        })
        .await
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>, StoreError> {
        let query = query.clone();
        self.call(Service::Rows, "list", move |backends, _| {
            Ok(held(&backends.jobs).list(&query))
        })
        .await
    }

    async fn commit(&self, changes: Vec<Commit>) -> Result<Vec<Result<(), CommitError>>, StoreError> {
        let write = held(&self.backends.jobs).write_of(&changes);
        self.call(
            Service::Rows,
            write.map_or("commit", Write::name),
            move |backends, by| Ok(commit_all(backends, by, write, changes)),
        )
        .await
    }

    async fn queued(&self, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.call(Service::Rows, "queued", move |backends, _| {
            let queued = |job: &Job| matches!(job.state, JobState::Queued { .. });
            Ok(held(&backends.jobs).after(after, limit, queued))
        })
        .await
    }

    async fn due(&self, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.call(Service::Rows, "due", move |backends, _| {
            Ok(held(&backends.jobs).due(due, now, limit))
        })
        .await
    }

    async fn held(&self, wanted: &Held, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
        let wanted = wanted.clone();
        self.call(Service::Rows, "held", move |backends, _| {
            Ok(held(&backends.jobs).after(after, limit, |job| is_meant(&wanted, job)))
        })
        .await
    }

    async fn count_by_state(&self, account: Option<&AccountId>) -> Result<Vec<(StateName, u64)>, StoreError> {
        let account = account.cloned();
        self.call(Service::Rows, "count_by_state", move |backends, _| {
            let mut counts: BTreeMap<StateName, u64> = BTreeMap::new();
            for job in held(&backends.jobs).rows.values() {
                if account.as_ref().is_none_or(|account| *account == job.account) {
                    *counts.entry(job.state.name()).or_default() += 1;
                }
            }
            Ok(counts.into_iter().collect())
        })
        .await
    }
}
