//! Rows that the store will not change: the leader passes over them, its loops end, and everybody else's jobs go on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use common::ids::{AccountId, AttemptId, JobId, SessionId, UserId, WorkerId};
use common::job::{Epoch, Job, JobState, Lease, StateName};
use common::lifecycle::testing::{account, spec};
use common::lifecycle::{JobEvent, step};
use common::store::{
    Commit, CommitError, Due, Fingerprint, Held, IdempotencyKey, Inserted, JobQuery, JobStore, NewJob, Page,
    StoreError, Stores,
};
use common::time::Timestamp;

use crate::ring::{PATIENT, Ring, replica, until};

/// More than the leader writes at a time, so that spoilt rows fill whole batches before any good one.
const SPOILT: usize = 700;

/// Refuses to change some rows, each time that it is asked.
struct Refusing {
    inner: Arc<dyn JobStore>,
    refused: Arc<Mutex<HashSet<JobId>>>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl JobStore for Refusing {
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
        let asked = is_refused.iter().filter(|refused| **refused).count();
        self.asked.fetch_add(asked, Ordering::SeqCst);
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

fn job(ring: &Ring) -> Job {
    let now = ring.clock.now();
    let alice = UserId::new("alice").unwrap();
    Job::submitted(JobId::generate(now), account("acme"), alice, spec(), now)
}

/// Due a while ago: the lower `order`, the longer.
fn due(ring: &Ring, order: i64) -> Job {
    let at = Timestamp::from_millis(ring.clock.now().as_millis() - 100_000 + order);
    Job {
        state: JobState::Scheduled { at },
        ..job(ring)
    }
}

/// In a session that nobody knows, since an older term.
fn orphan(ring: &Ring) -> Job {
    let lease = Lease {
        worker: WorkerId::new("ghost").unwrap(),
        session: SessionId::random(),
    };
    let claim = JobEvent::Claimed {
        attempt: AttemptId::random(),
        lease,
        epoch: Epoch(0),
    };
    step(&job(ring), claim, ring.clock.now()).unwrap().job
}

#[tokio::test]
async fn rows_that_cannot_be_changed_stop_neither_a_take_over_nor_a_sweep_nor_the_queue() {
    let refused: Arc<Mutex<HashSet<JobId>>> = Arc::default();
    let asked: Arc<AtomicUsize> = Arc::default();
    let (refuses, counts) = (Arc::clone(&refused), Arc::clone(&asked));
    let refusing = move |stores: Stores| Stores {
        jobs: Arc::new(Refusing {
            inner: stores.jobs.clone(),
            refused: refuses,
            asked: counts,
        }),
        ..stores
    };
    let ring = Ring::with(PATIENT, refusing).await;
    let first = until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    let (mut bad, mut good) = (Vec::new(), Vec::new());
    for order in 0..SPOILT {
        bad.extend([due(&ring, order as i64), orphan(&ring)]);
    }
    bad.extend((0..SPOILT / 10).map(|_| job(&ring)));
    good.extend([due(&ring, 90_000), orphan(&ring), job(&ring)]);
    refused.lock().unwrap().extend(bad.iter().map(|job| job.id));
    let new = bad.iter().chain(&good).map(|job| NewJob {
        job: job.clone(),
        key: None,
    });
    let new: Vec<NewJob> = new.collect();
    for part in new.chunks(100) {
        ring.jobs.submit(part.to_vec()).await.unwrap();
    }

    let standby = replica(&ring.config, &ring.stores, &ring.clock, &ring.tasks.clone()).await;
    // a later term makes the one that leads resign, and somebody has to take over
    ring.stores.terms.begin().await.unwrap();
    until("another term is led", || async {
        let leads = standby.leads().max(ring.scheduler.leads());
        leads.filter(|epoch| epoch.0 > first.0 + 1).ok_or(leads)
    })
    .await;
    let mut agent = ring.agent("w").await;
    let mut heard = HashSet::new();
    while heard.len() < good.len() {
        heard.insert(agent.hear_assignment().await.job);
    }
    let expected: HashSet<JobId> = good.iter().map(|job| job.id).collect();
    assert_eq!(heard, expected);
    assert!(
        asked.load(Ordering::SeqCst) >= bad.len(),
        "every bad row was tried"
    );
    for bad in &bad {
        assert_eq!(ring.job(bad.id).await.state, bad.state);
    }
}
