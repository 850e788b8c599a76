//! Explanations over the wire: each reason from the rows that it comes from, and pages of what has ended.

use std::time::Duration;

use common::attempt::{AttemptReport, Outcome, Usage};
use common::identity::Account;
use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::{Epoch, Lease};
use common::lifecycle::JobEvent;
use common::lifecycle::testing::worker;
use common::queue::HeldBack;
use common::time::Clock;
use common::worker::Condition;
use serde_json::{Value, json};

use crate::support::World;

async fn explain(world: &World, job: JobId) -> Value {
    // past the moment for which what was seen of workers is remembered
    world.clock.advance(Duration::from_secs(1));
    let path = format!("/api/v1/jobs/{job}/explain");
    world.get(&world.keys.viewer, &path).await.expect(200).json()
}

async fn submit(world: &World, body: &Value) -> JobId {
    world.clock.advance(Duration::from_millis(1));
    let job = world
        .post(&world.keys.user, "/api/v1/jobs", body)
        .await
        .expect(201);
    job.json()["id"].as_str().unwrap().parse().unwrap()
}

#[track_caller]
fn reason(explained: &Value) -> &str {
    explained["waiting"]["reason"]
        .as_str()
        .unwrap_or_else(|| panic!("{explained}"))
}

#[tokio::test]
async fn the_reason_follows_what_the_rows_say_of_the_workers() {
    let world = World::new().await;
    let job = world.submit(&world.keys.user).await;
    let seen = explain(&world, job).await;
    assert_eq!((reason(&seen), &seen["state"]), ("no_workers", &json!("queued")));
    assert_eq!(
        seen["waiting"]["place"],
        json!({"before": 0, "of": 1, "account": 1, "all": 1})
    );

    let mut small = worker("node-1");
    small.description.capacity.memory_mib = 100;
    world.put_worker(small).await;
    let seen = explain(&world, job).await;
    assert_eq!(reason(&seen), "no_worker_fits");
    assert_eq!(seen["waiting"]["fleet"]["workers"][0]["verdict"], "unsuitable");

    let mut unready = worker("node-1");
    unready.condition = Condition::Unready {
        reasons: vec!["the engine does not answer".into()],
    };
    world.put_worker(unready.clone()).await;
    let seen = explain(&world, job).await;
    assert_eq!(reason(&seen), "workers_not_ready");
    assert!(
        seen["sentence"]
            .as_str()
            .unwrap()
            .contains("the engine does not answer"),
        "{seen}"
    );

    unready.draining = true;
    world.put_worker(unready).await;
    assert_eq!(reason(&explain(&world, job).await), "workers_draining");
    world.clock.advance(Duration::from_secs(30));
    let seen = explain(&world, job).await;
    assert_eq!(reason(&seen), "workers_away");
    assert_eq!(seen["waiting"]["fleet"]["workers"][0]["silent_ms"], 32_000);

    world.put_worker(worker("node-1")).await;
    assert_eq!(reason(&explain(&world, job).await), "next_in_line");
    let second = world.submit(&world.keys.user).await;
    let seen = explain(&world, second).await;
    assert_eq!(reason(&seen), "waiting_for_turn");
    assert_eq!(seen["waiting"]["place"]["before"], 1);
}

/// Gives the job to `node-1`, which starts it.
async fn run(world: &World, job: JobId) -> AttemptId {
    world.run(job).await
}

#[tokio::test]
async fn a_busy_fleet_tells_what_is_taken_and_when_it_may_be_free() {
    let world = World::new().await;
    world.put_worker(worker("node-1")).await;
    for _ in 0..2 {
        let job = world.submit(&world.keys.user).await;
        run(&world, job).await;
    }
    let other = submit(
        &world,
        &json!({"command": "x", "resources": {"cpu_millis": 4_000}}),
    )
    .await;
    let job = submit(&world, &json!({"command": "x", "limits": {"queue_ms": 60_000}})).await;
    let seen = explain(&world, job).await;
    assert_eq!(reason(&seen), "workers_busy");
    assert_eq!(
        seen["waiting"]["fleet"]["workers"][0]["words"],
        "busy: 2 of 2 slots are taken"
    );
    assert_eq!(
        seen["waiting"]["place"],
        json!({"before": 0, "of": 1, "account": 2, "all": 2})
    );
    let estimate = &seen["waiting"]["estimate"];
    assert_eq!(estimate["method"], "run_limits", "{seen}");
    let left = estimate["at"].as_i64().unwrap() - world.clock.now().as_millis();
    assert!((3_590_000..3_600_000).contains(&left), "{left}");
    let gives_up = seen["waiting"]["gives_up_at"].as_i64().unwrap();
    assert_eq!(gives_up, seen["waiting"]["since"].as_i64().unwrap() + 60_000);
    let seen = explain(&world, other).await;
    let words = "busy: needs 4000 millicpu of CPU, 2000 free of 4000; busy: 2 of 2 slots are taken";
    assert_eq!(seen["waiting"]["fleet"]["workers"][0]["words"], words);
}

#[tokio::test]
async fn room_that_the_leader_holds_back_is_the_reason_while_its_job_waits() {
    let world = World::new().await;
    let node = worker("node-1");
    world.put_worker(node.clone()).await;
    let large = submit(
        &world,
        &json!({"command": "x", "resources": {"cpu_millis": 4_000}}),
    )
    .await;
    let job = world.submit(&world.keys.user).await;
    let row = world.stores.jobs.get(large).await.unwrap().unwrap();
    let since = world.clock.now();
    let told = HeldBack {
        worker: node.id,
        job: large,
        account: row.account.clone(),
        resources: row.spec.resources,
        since,
    };
    world.stores.queue.tell_reservations(&[told]).await.unwrap();
    let seen = explain(&world, job).await;
    assert_eq!(reason(&seen), "reserved", "{seen}");
    assert!(
        seen["sentence"].as_str().unwrap().contains(&large.to_string()),
        "{seen}"
    );
    let verdict = &seen["waiting"]["fleet"]["workers"][0];
    assert_eq!(verdict["verdict"], "reserved");
    assert_eq!(
        (&verdict["held_for"], &verdict["held_since"]),
        (&json!(large), &json!(since.as_millis()))
    );
    assert_eq!(reason(&explain(&world, large).await), "next_in_line");

    // what was told of a job that waits no more is old
    run(&world, large).await;
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(reason(&explain(&world, job).await), "workers_busy");
}

#[tokio::test]
async fn run_times_of_ended_jobs_make_a_better_estimate() {
    let world = World::new().await;
    world.put_worker(worker("node-1")).await;
    for _ in 0..3 {
        let job = world.submit(&world.keys.user).await;
        let attempt = run(&world, job).await;
        world.clock.advance(Duration::from_secs(20));
        world.finish(job, attempt, Outcome::Exited { code: 0 }).await;
    }
    world.put_worker(worker("node-1")).await;
    for _ in 0..2 {
        let job = world.submit(&world.keys.user).await;
        run(&world, job).await;
    }
    let job = world.submit(&world.keys.user).await;
    let seen = explain(&world, job).await;
    let estimate = &seen["waiting"]["estimate"];
    assert_eq!(estimate["method"], "observed_run_times", "{seen}");
    let left = estimate["at"].as_i64().unwrap() - world.clock.now().as_millis();
    assert_eq!(left, 19_000, "{estimate}");
}

#[tokio::test]
async fn an_account_at_its_limit_is_named() {
    let world = World::new().await;
    world.put_worker(worker("node-1")).await;
    let account = Account {
        id: "limited".parse().unwrap(),
        name: "limited".into(),
        plan: "standard".into(),
        weight: 1,
        log_bytes_max: 1 << 20,
        running_max: Some(1),
        waiting_max: None,
        created_at: world.clock.now(),
    };
    world.stores.identity.create_account(&account).await.unwrap();
    let body = json!({"username": "lea", "password": "long enough", "role": "user", "account": "limited"});
    world
        .post(&world.keys.admin, "/api/v1/users", &body)
        .await
        .expect(201);
    let token = world.sign_in("lea", "long enough").await.expect(200).json()["token"].clone();
    let key = token.as_str().unwrap().to_owned();
    let running = world.submit(&key).await;
    run(&world, running).await;
    let waiting = world.submit(&key).await;
    world.clock.advance(Duration::from_secs(1));
    let path = format!("/api/v1/jobs/{waiting}/explain");
    let seen = world.get(&key, &path).await.expect(200).json();
    assert_eq!(reason(&seen), "account_limit");
    assert_eq!(
        seen["waiting"]["account"],
        json!({"running": 1, "running_max": 1})
    );
}

#[tokio::test]
async fn before_its_time_and_between_two_tries_a_job_says_until_when() {
    let world = World::new().await;
    world.put_worker(worker("node-1")).await;
    let at = world.clock.now().as_millis() + 60_000;
    let later = submit(&world, &json!({"command": "x", "not_before": at})).await;
    let seen = explain(&world, later).await;
    assert_eq!(
        (reason(&seen), &seen["waiting"]["until"]),
        ("not_before", &json!(at))
    );

    let body = json!({"command": "x", "retry": {"max_retries": 1, "backoff_ms": 30_000}});
    let job = submit(&world, &body).await;
    let attempt = run(&world, job).await;
    world.finish(job, attempt, Outcome::Exited { code: 3 }).await;
    let seen = explain(&world, job).await;
    assert_eq!(reason(&seen), "backoff");
    assert_eq!(seen["waiting"]["after"], json!({"kind": "exited", "code": 3}));
    assert!(seen["waiting"]["until"].as_i64().unwrap() > world.clock.now().as_millis());
    assert_eq!(seen["attempts"][0]["ending"]["exit_code"], 3);
}

#[tokio::test]
async fn a_job_that_a_worker_has_says_where_and_since_when() {
    let world = World::new().await;
    world.put_worker(worker("node-1")).await;
    let job = world.submit(&world.keys.user).await;
    let attempt = AttemptId::random();
    let lease = Lease {
        worker: WorkerId::new("node-1").unwrap(),
        session: SessionId::random(),
    };
    let claimed = JobEvent::Claimed {
        attempt,
        lease,
        epoch: Epoch(1),
    };
    world.apply(job, claimed).await;
    let seen = explain(&world, job).await;
    assert_eq!(
        (reason(&seen), &seen["waiting"]["worker"]),
        ("starting", &json!("node-1"))
    );
    world.apply(job, JobEvent::Started { attempt }).await;
    let started = world.clock.now().as_millis();
    let seen = explain(&world, job).await;
    assert!(seen.get("waiting").is_none(), "{seen}");
    assert_eq!(seen["running"]["worker"], "node-1");
    assert_eq!(seen["running"]["since"], started);
    assert_eq!(seen["running"]["ends_by"], started + 3_600_000);
}

#[tokio::test]
async fn an_ended_job_has_its_page_in_the_explanation_and_in_the_job() {
    let world = World::new().await;
    let job = world.submit(&world.keys.user).await;
    let attempt = run(&world, job).await;
    world.clock.advance(Duration::from_secs(7));
    let mut report = AttemptReport::bare(Outcome::OomKilled);
    report.usage = Usage {
        cpu_ms: 5,
        memory_peak_bytes: 255 << 20,
    };
    world.finish_with(job, attempt, report).await;
    let seen = explain(&world, job).await;
    let ending = &seen["ending"];
    assert_eq!(ending["cause"], "oom_killed");
    assert_eq!(ending["actor"], json!({"kind": "worker", "name": "node-1"}));
    assert_eq!(ending["limit"], json!({"what": "memory_mib", "value": 256}));
    assert_eq!(ending["ran_ms"], 7_000);
    assert!(
        seen["sentence"].as_str().unwrap().contains("256 MiB of memory"),
        "{seen}"
    );
    assert!(seen["next"].as_str().unwrap().contains("--memory"), "{seen}");
    assert_eq!(seen["attempts"][0]["usage"]["memory_peak_bytes"], 255 << 20);
    let whole = world
        .get(&world.keys.user, &format!("/api/v1/jobs/{job}"))
        .await
        .expect(200)
        .json();
    assert_eq!(whole["ending"], *ending);
    assert_eq!(whole["attempts"], seen["attempts"]);

    let waiting = world.submit(&world.keys.user).await;
    let path = format!("/api/v1/jobs/{waiting}/cancel");
    world
        .post(&world.keys.admin, &path, &json!({"why": "typo"}))
        .await
        .expect(202);
    let seen = explain(&world, waiting).await;
    assert_eq!(seen["ending"]["actor"], json!({"kind": "user", "name": "ada"}));
    assert_eq!(seen["sentence"], "The user ada cancelled it: typo.");
}
