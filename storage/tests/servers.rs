//! An installation's stores, opened by their two addresses: rows in MongoDB, coordination in Redis.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::config::StoreConfig;
use common::identity::Login;
use common::ids::{AttemptId, JobId, LoginId, SessionId, UserId, WorkerId};
use common::job::{Epoch, Job, JobState, Lease};
use common::lifecycle::{JobEvent, testing};
use common::secret::Secret;
use common::service::{Applied, Jobs};
use common::store::{NewJob, StoreError};
use common::time::{Clock, SharedClock, SystemClock};
use storage::conformance::mongo_server::Database;
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::LOGIN_KEPT;

fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

async fn done(jobs: &Jobs, id: JobId, event: JobEvent) -> Job {
    match jobs.apply(id, event).await.unwrap() {
        Applied::Done(job) => job,
        other => panic!("the event was not applied: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_lives_through_both_servers_and_is_seen_by_another_program() {
    let (database, redis) = (Database::shared().await, RedisServer::start().await);
    let config = StoreConfig::servers(Some(database.uri().expose().clone()), Some(redis.url()))
        .unwrap()
        .expect("both are set");
    let one = storage::open_closable(&config, clock()).await.unwrap();
    let two = storage::open(&config, clock()).await.unwrap();

    let now = SystemClock.now();
    let alice = UserId::new("alice").unwrap();
    let job = Job::submitted(
        JobId::generate(now),
        testing::account("acme"),
        alice,
        testing::spec(),
        now,
    );
    let id = job.id;
    let (submitting, leading) = (
        Jobs::new(one.stores.clone(), clock()),
        Jobs::new(two.clone(), clock()),
    );
    submitting.submit(vec![NewJob { job, key: None }]).await.unwrap();
    assert_eq!(two.queue.len().await.unwrap(), 1);
    let attempt = AttemptId::random();
    let lease = Lease {
        worker: WorkerId::new("node-1").unwrap(),
        session: SessionId::random(),
    };
    let claim = JobEvent::Claimed {
        attempt,
        lease,
        epoch: Epoch(1),
    };
    done(&leading, id, claim).await;
    done(&submitting, id, JobEvent::Started { attempt }).await;
    let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
    let finished = JobEvent::Finished {
        attempt,
        report,
        logs_missing: Default::default(),
    };
    let ended = done(&leading, id, finished).await;
    assert!(matches!(ended.state, JobState::Succeeded { .. }));
    one.closing.close().await;
    assert_eq!(two.jobs.get(id).await.unwrap(), Some(ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_server_is_missing_is_named() {
    let redis = RedisServer::start().await;
    let nobody = Secret::new("mongodb://127.0.0.1:1/x".to_owned());
    let config = StoreConfig::MongoRedis {
        mongo_url: nobody,
        redis_url: Secret::new(redis.url()),
    };
    let refused = storage::open(&config, clock()).await.err().unwrap();
    let StoreError::Unavailable(source) = refused else {
        panic!("{refused:?}")
    };
    assert!(source.to_string().contains("MONGODB_URI"), "{source}");
    let database = Database::shared().await;
    let config = StoreConfig::MongoRedis {
        mongo_url: database.uri(),
        redis_url: Secret::new("redis://127.0.0.1:1/".to_owned()),
    };
    let refused = storage::open(&config, clock()).await.err().unwrap();
    let StoreError::Unavailable(source) = refused else {
        panic!("{refused:?}")
    };
    assert!(source.to_string().contains("REDIS_URL"), "{source}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_sign_in_is_out_for_every_program_and_a_redis_that_is_away_hides_none() {
    let (database, mut redis) = (Database::shared().await, RedisServer::start().await);
    let config = StoreConfig::servers(Some(database.uri().expose().clone()), Some(redis.url()))
        .unwrap()
        .expect("both are set");
    let one = storage::open(&config, clock()).await.unwrap().identity;
    let two = storage::open(&config, clock()).await.unwrap().identity;
    let now = SystemClock.now();
    let sign_in = async || {
        let login = Login {
            id: LoginId::random(),
            user: UserId::new("alice").unwrap(),
            created_at: now,
            idle_end: now.after(Duration::from_secs(600)),
            absolute_end: now.after(Duration::from_secs(6_000)),
            revoked: false,
        };
        one.create_login(&login).await.unwrap();
        for program in [&one, &two] {
            assert_eq!(program.login(login.id).await.unwrap(), Some(login.clone()));
        }
        login
    };
    let kept = async |login: &Login| {
        let key = format!("{{jw}}:login:{}", login.id);
        let text: Option<String> = redis.ask(&["GET", &key]).await.unwrap();
        text.is_some_and(|text| text.contains("idle_end"))
    };
    // By its name: at once, wherever it was read before, and a late copy of the old row does not come back.
    let login = sign_in().await;
    assert!(kept(&login).await, "what was read is kept in Redis");
    one.revoke_login(login.id).await.unwrap();
    for program in [&one, &two, &two] {
        assert!(program.login(login.id).await.unwrap().unwrap().revoked);
    }
    assert!(!kept(&login).await);
    // A moved end is seen at once, too.
    let login = sign_in().await;
    let later = login.idle_end.after(Duration::from_secs(60));
    assert!(one.touch_login(login.id, later).await.unwrap());
    assert_eq!(two.login(login.id).await.unwrap().unwrap().idle_end, later);
    // All of a user's: within the time that a copy is kept.
    let login = sign_in().await;
    one.revoke_logins_of(&login.user, None).await.unwrap();
    let until = tokio::time::Instant::now() + LOGIN_KEPT + Duration::from_secs(15);
    while !two.login(login.id).await.unwrap().unwrap().revoked {
        assert!(
            tokio::time::Instant::now() < until,
            "a revoked sign-in is taken for good"
        );
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Without Redis the rows answer.
    let login = sign_in().await;
    redis.kill();
    assert_eq!(two.login(login.id).await.unwrap(), Some(login.clone()));
    one.revoke_login(login.id).await.unwrap();
    assert!(two.login(login.id).await.unwrap().unwrap().revoked);
}
