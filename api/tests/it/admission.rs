//! What no registered worker could ever run is refused before it is stored.

use common::job::Resources;
use common::lifecycle::testing::worker;
use reqwest::Method;
use serde_json::json;

use crate::support::{World, problem};

const JOBS: &str = "/api/v1/jobs";
const BULK: &str = "/api/v1/jobs/bulk";

#[tokio::test]
async fn the_impossible_is_refused_with_each_workers_verdict_and_nothing_is_stored() {
    let world = World::new().await;
    let key = &world.keys.user;
    world.put_worker(worker("node-1")).await;
    let mut gpu = worker("node-2");
    gpu.description.pool = "gpu".parse().unwrap();
    world.put_worker(gpu).await;
    let body = json!({"command": "x", "resources": {"memory_mib": 32_000}});
    let refused = world.post(key, JOBS, &body).await.expect(422);
    let problem = problem(&refused);
    assert_eq!(problem["code"], "no_worker_could_run_it");
    assert_eq!(
        problem["detail"],
        "No registered worker could ever run this job: the one worker of the pool default is too small: memory: needs \
         32000 MiB, it has 4096 MiB."
    );
    assert_eq!(
        problem["fleet"]["counts"],
        json!([{"verdict": "unsuitable", "workers": 2}])
    );
    let verdict = &problem["fleet"]["workers"][0];
    assert_eq!(verdict["worker"], "node-1");
    assert_eq!(
        verdict["words"],
        "memory: needs 32000 MiB, the worker has 4096 MiB"
    );
    assert_eq!(
        verdict["lacks"],
        json!([{"what": "memory_mib", "needs": 32_000, "free": 4_096, "of": 4_096}])
    );
    let other = &problem["fleet"]["workers"][1]["lacks"][0];
    assert_eq!(
        *other,
        json!({"what": "pool", "wanted": "default", "found": "gpu"})
    );
    let jobs = world.get(key, JOBS).await.expect(200).json();
    assert_eq!(jobs["jobs"], json!([]));
    world.post(key, JOBS, &json!({"command": "x"})).await.expect(201);
}

#[tokio::test]
async fn a_worker_that_joined_a_moment_ago_counts_before_anything_is_refused() {
    let world = World::new().await;
    let key = &world.keys.user;
    world.put_worker(worker("node-1")).await;
    let body = json!({"command": "x", "resources": {"memory_mib": 32_000}});
    world.post(key, JOBS, &body).await.expect(422);
    let mut large = worker("node-2");
    large.description.capacity.memory_mib = 64_000;
    assert!(world.stores.workers.put(&large, large.session).await.unwrap());
    // the clock stands: what is remembered of the workers is as new as before
    let taken = world.post(key, JOBS, &body).await.expect(201).json();
    assert_eq!(taken["waiting"]["reason"], "workers_away");
}

#[tokio::test]
async fn what_nobody_can_run_yet_is_taken_with_the_reason() {
    let world = World::new().await;
    let key = &world.keys.user;
    let taken = world
        .post(key, JOBS, &json!({"command": "x"}))
        .await
        .expect(201)
        .json();
    assert_eq!(taken["waiting"]["reason"], "no_workers");

    let mut draining = worker("node-1");
    draining.draining = true;
    world.put_worker(draining).await;
    let taken = world
        .post(key, JOBS, &json!({"command": "x"}))
        .await
        .expect(201)
        .json();
    assert_eq!(taken["waiting"]["reason"], "workers_draining");
    world.clock.advance(std::time::Duration::from_secs(20));
    let taken = world
        .post(key, JOBS, &json!({"command": "x"}))
        .await
        .expect(201)
        .json();
    assert_eq!(taken["waiting"]["reason"], "workers_away");
    let sentence = taken["waiting"]["sentence"].as_str().unwrap();
    assert!(sentence.contains("node-1: not heard for 20.0 s"), "{sentence}");

    world.put_worker(worker("node-2")).await;
    let taken = world
        .post(key, JOBS, &json!({"command": "x"}))
        .await
        .expect(201)
        .json();
    assert!(taken.get("waiting").is_none(), "{taken}");
}

#[tokio::test]
async fn a_fleet_that_may_grow_takes_what_the_largest_worker_to_come_could_run() {
    let world = World::with(|config| {
        config.fleet_ceiling = Some(Resources {
            cpu_millis: 64_000,
            memory_mib: 64_000,
            disk_mib: 1_000_000,
        });
    })
    .await;
    let key = &world.keys.user;
    world.put_worker(worker("node-1")).await;
    let asks = |mib: u32| json!({"command": "x", "pool": "gpu", "resources": {"memory_mib": mib}});
    let taken = world.post(key, JOBS, &asks(64_000)).await.expect(201).json();
    assert_eq!(taken["waiting"]["reason"], "no_worker_fits");
    world.post(key, JOBS, &asks(64_001)).await.expect(422);
}

#[tokio::test]
async fn a_bulk_is_refused_whole_with_the_index_and_taken_with_its_reasons() {
    let world = World::new().await;
    let key = &world.keys.user;
    let small = json!({"command": "x"});
    let taken = world
        .post(key, BULK, &json!({"jobs": [small, small]}))
        .await
        .expect(201)
        .json();
    assert_eq!(taken["waiting"][0]["reason"], "no_workers");
    assert_eq!(taken["waiting"][0]["jobs"], 2);

    world.put_worker(worker("node-1")).await;
    let large = json!({"command": "x", "worker_labels": {"zone": "eu"}});
    let body = json!({"jobs": [small, large, small, large]});
    let refused = world.post(key, BULK, &body).await.expect(422);
    let problem = problem(&refused);
    assert_eq!(problem["code"], "no_worker_could_run_it");
    let fields: Vec<&str> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["jobs[1]", "jobs[3]"]);
    let why = problem["errors"][0]["message"].as_str().unwrap();
    assert!(why.ends_with("does not carry the label zone=eu"), "{why}");
    assert_eq!(
        problem["fleet"]["workers"][0]["words"],
        "label zone=eu is missing"
    );
    let counts = world.get(key, "/api/v1/jobs/counts").await.expect(200).json();
    assert_eq!(counts["queued"], 2, "none of the refused bulk was stored");

    let many = json!({"jobs": vec![large; 1_000]});
    let refused = world.post(key, BULK, &many).await.expect(422);
    assert_eq!(refused.json()["errors"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn what_was_taken_before_under_the_same_key_is_found_although_the_fleet_has_shrunk() {
    let world = World::new().await;
    let mut large = worker("node-1");
    large.description.capacity.memory_mib = 64_000;
    world.put_worker(large).await;
    let job = json!({"command": "x", "resources": {"memory_mib": 32_000}});
    let send = async |key: &str, path: &str, body: &serde_json::Value| {
        let request = world
            .request(Method::POST, &world.keys.user, path)
            .header("idempotency-key", key)
            .json(body);
        world.send(request).await
    };
    let bulk = json!({"jobs": [job, job]});
    let first = send("one", JOBS, &job).await.expect(201).json();
    let both = send("two", BULK, &bulk).await.expect(201).json();

    world.put_worker(worker("node-1")).await;
    let again = send("one", JOBS, &job).await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.json()["id"], first["id"]);
    assert_eq!(
        send("two", BULK, &bulk).await.expect(201).json()["ids"],
        both["ids"]
    );
    send("three", JOBS, &job).await.expect(422);
    let another = json!({"command": "y", "resources": {"memory_mib": 32_000}});
    send("one", JOBS, &another).await.expect(422);
}
