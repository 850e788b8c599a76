//! Jobs: defaults, lists, bulk, cancel.

use common::attempt::Outcome;
use serde_json::json;

use crate::support::{World, problem};

#[tokio::test]
async fn a_job_is_answered_whole_with_its_defaults() {
    let world = World::new().await;
    let body = json!({"command": ["echo", "hi"], "labels": {"team": "a"}, "limits": {"queue_ms": 5000}});
    let job = world
        .post(&world.keys.user, "/api/v1/jobs", &body)
        .await
        .expect(201)
        .json();
    assert_eq!(job["state"], "queued");
    assert_eq!(job["image"], "debian:12");
    assert_eq!(job["command"], "echo hi");
    assert_eq!(job["account"], "home");
    assert_eq!(job["submitted_by"], "ursula");
    assert_eq!(job["spec"]["command"], json!(["echo", "hi"]));
    assert_eq!(
        job["spec"]["resources"],
        json!({"cpu_millis": 1000, "memory_mib": 256, "disk_mib": 1024})
    );
    assert_eq!(
        job["spec"]["limits"],
        json!({"queue_ms": 5000, "pull_ms": 1_800_000, "run_ms": 3_600_000, "grace_ms": 10_000})
    );
    let id = job["id"].as_str().unwrap();
    let seen = world
        .get(&world.keys.viewer, &format!("/api/v1/jobs/{id}"))
        .await
        .expect(200)
        .json();
    // said once, with the answer to the submission
    let mut job = job;
    let waiting = job.as_object_mut().unwrap().remove("waiting").unwrap();
    assert_eq!(waiting["reason"], "no_workers");
    assert_eq!(seen, job);
}

#[tokio::test]
async fn an_ended_job_says_how() {
    let world = World::new().await;
    let key = &world.keys.user;
    let job = world.submit(key).await;
    let attempt = world.run(job).await;
    let path = format!("/api/v1/jobs/{job}");
    let running = world.get(key, &path).await.expect(200).json();
    assert_eq!(
        (&running["state"], &running["worker"]),
        (&json!("running"), &json!("node-1"))
    );
    world.finish(job, attempt, Outcome::Exited { code: 3 }).await;
    let ended = world.get(key, &path).await.expect(200).json();
    assert_eq!(ended["state"], "failed");
    assert_eq!(ended["exit_code"], 3);
    assert_eq!(ended["outcome"], json!({"kind": "exited", "code": 3}));
    assert_eq!(ended["attempts"][0]["number"], 1);
    assert_eq!(ended["attempts"][0]["outcome"]["kind"], "exited");
}

#[tokio::test]
async fn a_list_is_paged_filtered_and_held_to_the_account() {
    let world = World::new().await;
    let key = &world.keys.user;
    let mut ids = Vec::new();
    for number in 0..5 {
        world.clock.advance(std::time::Duration::from_millis(1));
        let body = json!({"command": "x", "labels": {"parity": (number % 2).to_string()}});
        let job = world.post(key, "/api/v1/jobs", &body).await.expect(201).json();
        ids.insert(0, job["id"].clone());
    }
    world.submit(&world.keys.other).await;
    let (mut seen, mut path) = (Vec::new(), "/api/v1/jobs?limit=2".to_owned());
    loop {
        let page = world.get(&world.keys.viewer, &path).await.expect(200).json();
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 2);
        seen.extend(jobs.iter().map(|job| job["id"].clone()));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/jobs?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    let odd = world
        .get(key, "/api/v1/jobs?label=parity%3D1")
        .await
        .expect(200)
        .json();
    assert_eq!(odd["jobs"].as_array().unwrap().len(), 2);
    let none = world
        .get(key, "/api/v1/jobs?state=running&state=failed")
        .await
        .expect(200)
        .json();
    assert_eq!(none["jobs"], json!([]));
    let all = world
        .get(&world.keys.admin, "/api/v1/jobs")
        .await
        .expect(200)
        .json();
    assert_eq!(all["jobs"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn one_bad_job_stops_the_whole_bulk() {
    let world = World::new().await;
    let key = &world.keys.user;
    let body = json!({"jobs": [{"command": "a"}, {"command": "  "}]});
    let answer = world.post(key, "/api/v1/jobs/bulk", &body).await.expect(422);
    assert_eq!(problem(&answer)["errors"][0]["field"], "jobs[1].command");
    let counts = world.get(key, "/api/v1/jobs/counts").await.expect(200).json();
    assert_eq!(counts["queued"], 0);
    for number in [0, 1_001] {
        let body = json!({"jobs": vec![json!({"command": "a"}); number]});
        world.post(key, "/api/v1/jobs/bulk", &body).await.expect(422);
    }
    let body = json!({"jobs": vec![json!({"command": "a"}); 1_000]});
    let answer = world
        .post(key, "/api/v1/jobs/bulk", &body)
        .await
        .expect(201)
        .json();
    assert_eq!(answer["ids"].as_array().unwrap().len(), 1_000);
    let counts = world.get(key, "/api/v1/jobs/counts").await.expect(200).json();
    assert_eq!(counts["queued"], 1_000);
}

#[tokio::test]
async fn inputs_are_the_accounts_own_files() {
    let world = World::new().await;
    let foreign = world.upload(&world.keys.other, "f", b"x").await;
    let own = world.upload(&world.keys.user, "f", b"x").await;
    for (file, status) in [(foreign, 422), (own, 201)] {
        let body = json!({"command": "x", "inputs": [{"file": file, "path": "f"}]});
        world
            .post(&world.keys.user, "/api/v1/jobs", &body)
            .await
            .expect(status);
    }
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_an_ended_one_is_not() {
    let world = World::new().await;
    let key = &world.keys.user;
    let job = world.submit(key).await;
    let path = format!("/api/v1/jobs/{job}/cancel");
    let answer = world
        .post(key, &path, &json!({"why": "typo"}))
        .await
        .expect(202)
        .json();
    assert_eq!(answer["state"], "cancelled");
    assert_eq!(answer["cancel"]["by"], "ursula");
    let again = world.post(key, &path, &json!({})).await.expect(409);
    assert_eq!(problem(&again)["code"], "already_ended");
    assert_eq!(problem(&again)["errors"][0]["code"], "cancelled");
}

#[tokio::test]
async fn a_running_job_is_asked_once_and_ends_as_cancelled() {
    let world = World::new().await;
    let key = &world.keys.user;
    let job = world.submit(key).await;
    let attempt = world.run(job).await;
    let path = format!("/api/v1/jobs/{job}/cancel");
    let first = world
        .post(key, &path, &json!({"why": "first"}))
        .await
        .expect(202)
        .json();
    assert_eq!(first["state"], "running");
    let second = world
        .post(key, &path, &json!({"why": "second"}))
        .await
        .expect(202)
        .json();
    assert_eq!(first["cancel"], second["cancel"]);
    world.finish(job, attempt, Outcome::Signaled { signal: 15 }).await;
    let ended = world
        .get(key, &format!("/api/v1/jobs/{job}"))
        .await
        .expect(200)
        .json();
    assert_eq!(ended["state"], "cancelled");
}
