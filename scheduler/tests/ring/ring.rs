//! A scheduler over an embedded store, and waiting for what should become true.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::config::{LeaseTimes, StoreConfig};
use common::identity::Account;
use common::ids::{AccountId, JobId, UserId, WorkerId};
use common::job::{Job, JobSpec, StateName};
use common::lifecycle::testing::account;
use common::protocol::token::{FleetSecrets, WorkerKey};
use common::secret::Secret;
use common::service::Jobs;
use common::store::{Hint, HintStream, Hints, NewJob, Stores};
use common::tasks::Tasks;
use common::time::{Clock, SharedClock, SystemClock};
use scheduler::{Config, Scheduler};
use tempfile::TempDir;

use crate::agent::Agent;

/// Nobody is lost while a test looks elsewhere for a while.
pub const PATIENT: LeaseTimes = LeaseTimes {
    lock_ttl: Duration::from_secs(2),
    heartbeat: Duration::from_millis(500),
    contact: Duration::from_secs(60),
    lost_after: Duration::from_secs(200),
    kill_grace: Duration::from_secs(1),
    sweep: Duration::from_millis(300),
    ping: Duration::from_secs(20),
    pong_deadline: Duration::from_secs(20),
    backoff_max: Duration::from_millis(500),
    handshake: Duration::from_secs(20),
};

/// For watching sessions being lost.
pub const BRIEF: LeaseTimes = LeaseTimes {
    lock_ttl: Duration::from_secs(1),
    heartbeat: Duration::from_millis(200),
    contact: Duration::from_secs(3),
    lost_after: Duration::from_secs(3),
    kill_grace: Duration::from_millis(200),
    sweep: Duration::from_millis(100),
    ping: Duration::from_millis(300),
    pong_deadline: Duration::from_millis(300),
    backoff_max: Duration::from_millis(300),
    handshake: Duration::from_millis(300),
};

/// Long past what anything here takes, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(45);

pub struct Ring {
    pub stores: Stores,
    pub jobs: Jobs,
    pub clock: SharedClock,
    pub scheduler: Scheduler,
    pub config: Config,
    pub tasks: Tasks,
    _folder: TempDir,
}

impl Ring {
    pub async fn start() -> Self {
        Self::with(PATIENT, |stores| stores).await
    }

    pub async fn with(times: LeaseTimes, change: impl FnOnce(Stores) -> Stores) -> Self {
        Self::with_config(times, change, |_| {}).await
    }

    pub async fn with_config(
        times: LeaseTimes,
        change: impl FnOnce(Stores) -> Stores,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        Self::by_clock(Arc::new(SystemClock), times, change, configure).await
    }

    /// Of which everything is told the time by this clock.
    pub async fn by_clock(
        clock: SharedClock,
        times: LeaseTimes,
        change: impl FnOnce(Stores) -> Stores,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreConfig::Embedded {
            folder: folder.path().join("state"),
        };
        let stores = change(storage::open(&store, Arc::clone(&clock)).await.unwrap());
        let secret = Secret::new(b"an agreed secret of thirty-two bytes".to_vec());
        let fleet = FleetSecrets::new(vec![("k1".into(), secret)]).unwrap();
        let mut config = Config {
            times,
            ..Config::new(fleet)
        };
        config.limits.header_deadline = Duration::from_secs(1);
        configure(&mut config);
        let tasks = Tasks::new();
        let scheduler = replica(&config, &stores, &clock, &tasks).await;
        let jobs = Jobs::new(stores.clone(), Arc::clone(&clock));
        Self {
            stores,
            jobs,
            clock,
            scheduler,
            config,
            tasks,
            _folder: folder,
        }
    }

    pub fn key(&self, worker: &str) -> WorkerKey {
        self.config.fleet.worker_key(&WorkerId::new(worker).unwrap(), 1)
    }

    /// An agent of four slots that is connected and welcome.
    pub async fn agent(&self, worker: &str) -> Agent {
        let mut agent = Agent::connect(self, worker).await;
        agent.greet(None, vec![]).await;
        agent
    }

    pub async fn submit(&self, spec: JobSpec) -> JobId {
        self.submit_for(&account("acme"), spec).await
    }

    pub async fn submit_for(&self, account: &AccountId, spec: JobSpec) -> JobId {
        let now = self.clock.now();
        let user = UserId::new("alice").unwrap();
        let job = Job::submitted(JobId::generate(now), account.clone(), user, spec, now);
        let id = job.id;
        self.jobs.submit(vec![NewJob { job, key: None }]).await.unwrap();
        id
    }

    /// As many jobs as wanted, stored as a bulk submission stores them. Answers their ids, in order.
    pub async fn submit_many(
        &self,
        account: &AccountId,
        count: usize,
        spec: impl Fn(usize) -> JobSpec,
    ) -> Vec<JobId> {
        let user = UserId::new("alice").unwrap();
        let mut ids = Vec::with_capacity(count);
        for chunk in (0..count).collect::<Vec<_>>().chunks(1_000) {
            let jobs = chunk.iter().map(|number| {
                let now = self.clock.now();
                let id = JobId::generate(now);
                ids.push(id);
                let job = Job::submitted(id, account.clone(), user.clone(), spec(*number), now);
                NewJob { job, key: None }
            });
            let jobs: Vec<NewJob> = jobs.collect();
            self.jobs.submit(jobs).await.unwrap();
        }
        ids
    }

    /// An account with settings of its own.
    pub async fn account(&self, name: &str, weight: u32, running_max: Option<u32>) -> AccountId {
        let account = Account {
            id: account(name),
            name: name.to_owned(),
            plan: "test".to_owned(),
            weight,
            log_bytes_max: 1 << 20,
            running_max,
            waiting_max: None,
            created_at: self.clock.now(),
        };
        self.stores.identity.create_account(&account).await.unwrap();
        account.id
    }

    /// The scheduler ends, and another begins over the same rows.
    pub async fn restart(&mut self) {
        self.tasks.stop();
        assert!(self.tasks.join(DEADLINE).await, "the scheduler does not end");
        self.tasks = Tasks::new();
        self.scheduler = replica(&self.config, &self.stores, &self.clock, &self.tasks).await;
        until("somebody leads again", || async {
            self.scheduler.leads().ok_or("nobody")
        })
        .await;
    }

    pub async fn job(&self, id: JobId) -> Job {
        self.stores.jobs.get(id).await.unwrap().unwrap()
    }

    pub async fn job_becomes(&self, id: JobId, state: StateName) -> Job {
        until(&format!("the job is {state}"), || async {
            let job = self.job(id).await;
            if job.state.name() == state {
                Ok(job)
            } else {
                Err(job.state)
            }
        })
        .await
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

pub async fn replica(config: &Config, stores: &Stores, clock: &SharedClock, tasks: &Tasks) -> Scheduler {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    Scheduler::start(config.clone(), stores.clone(), Arc::clone(clock), listener, tasks).unwrap()
}

/// Waits until `look` finds what it looks for; fails with what it saw last.
pub async fn until<T, E: Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let clock = SystemClock;
    let begun = clock.mono();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => {
                assert!(
                    clock.mono().since(begun) < DEADLINE,
                    "not within {DEADLINE:?}: {what}; seen last: {seen:?}"
                );
                // tidy: poll
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Hints that are all lost.
pub struct Deaf;

#[async_trait]
impl Hints for Deaf {
    fn send(&self, _: Hint) {}

    fn subscribe(&self) -> HintStream {
        HintStream::new(tokio::sync::broadcast::channel(1).1)
    }
}
