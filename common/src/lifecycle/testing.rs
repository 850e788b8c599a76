//! Plain jobs for tests of this workspace; nothing here is used outside of tests and benchmarks.

use std::collections::BTreeMap;

use crate::ids::{AccountId, AttemptId, JobId, SessionId, UserId, WorkerId};
use crate::job::{Command, Job, JobSpec, Lease, Limits, Priority, Resources};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;
use crate::worker::{Capacity, Condition, Load, Worker, WorkerDescription};

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

/// Ready, of the default pool, with 4 CPUs, 4 GiB and 2 slots; in a session of its own, heard at time zero.
pub fn worker(name: &str) -> Worker {
    Worker {
        id: WorkerId::new(name).expect("a good name"),
        description: WorkerDescription {
            version: "1".into(),
            hostname: name.into(),
            os: "linux".into(),
            architecture: "x86_64".into(),
            pool: Default::default(),
            labels: BTreeMap::new(),
            capacity: Capacity {
                cpu_millis: 4_000,
                memory_mib: 4_096,
                disk_mib: 100_000,
                slots: 2,
            },
            notes: Vec::new(),
        },
        condition: Condition::Ready,
        draining: false,
        session: Some(SessionId::random()),
        conn: 1,
        registered_at: Timestamp::default(),
        heard_at: Timestamp::default(),
        load: Load::default(),
    }
}
