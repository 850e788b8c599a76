//! What laws are told with: jobs, and the events of their lives.

use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::ids::{AttemptId, JobId, SessionId, UserId, WorkerId};
use common::job::{Epoch, Job, JobSpec, Lease};
use common::lifecycle::{JobEvent, testing};
use common::service::{Applied, Jobs};
use common::store::{Fingerprint, IdempotencyKey, NewJob};
use common::time::Clock;

use super::Backend;

pub fn jobs(backend: &impl Backend) -> Jobs {
    Jobs::new(backend.stores(), backend.clock())
}

pub fn spec() -> JobSpec {
    testing::spec()
}

/// A job submitted now by `alice` of `account`.
pub fn new_job(backend: &impl Backend, account: &str, spec: JobSpec) -> Job {
    let now = backend.clock().now();
    let alice = UserId::new("alice").unwrap();
    Job::submitted(JobId::generate(now), testing::account(account), alice, spec, now)
}

pub fn keyed(job: Job, key: &str, fingerprint: &str) -> NewJob {
    NewJob {
        job,
        key: Some((IdempotencyKey(key.into()), Fingerprint(fingerprint.into()))),
    }
}

pub const fn plain(job: Job) -> NewJob {
    NewJob { job, key: None }
}

/// Stores a job of `acme` and gives it back.
pub async fn submit(backend: &impl Backend, spec: JobSpec) -> Job {
    submit_as(backend, "acme", spec).await
}

pub async fn submit_as(backend: &impl Backend, account: &str, spec: JobSpec) -> Job {
    let job = new_job(backend, account, spec);
    jobs(backend).submit(vec![plain(job.clone())]).await.unwrap();
    job
}

pub fn lease(session: SessionId) -> Lease {
    Lease {
        worker: WorkerId::new("node-1").unwrap(),
        session,
    }
}

pub fn claimed(attempt: AttemptId, session: SessionId, term: u64) -> JobEvent {
    JobEvent::Claimed {
        attempt,
        lease: lease(session),
        epoch: Epoch(term),
    }
}

pub fn finished(attempt: AttemptId, outcome: Outcome) -> JobEvent {
    JobEvent::Finished {
        attempt,
        report: Box::new(AttemptReport::bare(outcome)),
        logs_missing: Default::default(),
    }
}

pub async fn apply(backend: &impl Backend, job: JobId, event: JobEvent) -> Applied {
    jobs(backend).apply(job, event).await.unwrap()
}

/// Applies an event that has to succeed.
pub async fn done(backend: &impl Backend, job: JobId, event: JobEvent) -> Job {
    match apply(backend, job, event).await {
        Applied::Done(job) => job,
        other => panic!("the event was not applied: {other:?}"),
    }
}

pub async fn load(backend: &impl Backend, job: JobId) -> Job {
    let found = backend.stores().jobs.get(job).await.unwrap();
    found.expect("the job is stored")
}

/// A job that runs, with its attempt and session.
pub async fn running(backend: &impl Backend, spec: JobSpec) -> (Job, AttemptId, SessionId) {
    let (attempt, session) = (AttemptId::random(), SessionId::random());
    let job = submit(backend, spec).await;
    done(backend, job.id, claimed(attempt, session, 1)).await;
    let job = done(backend, job.id, JobEvent::Started { attempt }).await;
    (job, attempt, session)
}

pub fn turn(backend: &impl Backend, by: Duration) {
    backend.clock().advance(by);
}
