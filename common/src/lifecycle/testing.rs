//! Plain jobs for tests of this workspace; nothing here is used outside of tests and benchmarks.

use std::collections::BTreeMap;

use crate::ids::{AccountId, AttemptId, JobId, SessionId, UserId, WorkerId};
use crate::job::{Command, Job, JobSpec, Lease, Limits, Priority, Resources};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// `echo hi` with every default.
pub fn spec() -> JobSpec {
    JobSpec {
        name: None,
        command: Command::Argv(vec!["echo".into(), "hi".into()]),
        entrypoint: None,
        image: "busybox:1".into(),
        env: BTreeMap::new(),
        workdir: None,
        inputs: Vec::new(),
        artifacts: Vec::new(),
        resources: Resources::default(),
        limits: Limits::default(),
        retry: RetryPolicy::default(),
        pool: Default::default(),
        worker_labels: BTreeMap::new(),
        priority: Priority::default(),
        not_before: None,
        labels: BTreeMap::new(),
    }
}

/// `spec` as submitted at time zero by `alice` of `acme`.
pub fn job(spec: JobSpec) -> Job {
    let now = Timestamp::from_millis(0);
    Job::submitted(
        JobId::generate(now),
        account("acme"),
        UserId::new("alice").expect("a good name"),
        spec,
        now,
    )
}

pub fn account(name: &str) -> AccountId {
    AccountId::new(name).expect("a good name")
}

pub fn lease(worker: &str) -> Lease {
    Lease {
        worker: WorkerId::new(worker).expect("a good name"),
        session: SessionId::random(),
    }
}

pub fn attempt() -> AttemptId {
    AttemptId::random()
}
