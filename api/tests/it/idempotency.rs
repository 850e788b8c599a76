//! A submission sent again is one job.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, World, problem};

async fn submit(world: &World, key: &str, name: &str, path: &str, body: &Value) -> Answer {
    let request = world
        .request(Method::POST, key, path)
        .header("idempotency-key", name)
        .json(body);
    world.send(request).await
}

#[tokio::test]
async fn the_same_request_answers_the_same_job_and_another_is_refused() {
    let world = World::new().await;
    let (key, path) = (&world.keys.user, "/api/v1/jobs");
    let first = submit(&world, key, "k1", path, &json!({"command": "a"}))
        .await
        .expect(201);
    assert_eq!(first.header("idempotency-replayed"), "");
    assert_eq!(
        first.header("location"),
        format!("/api/v1/jobs/{}", first.json()["id"].as_str().unwrap())
    );
    let again = submit(&world, key, "k1", path, &json!({"command": "a"}))
        .await
        .expect(201);
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(first.json(), again.json());
    let other = submit(&world, key, "k1", path, &json!({"command": "b"}))
        .await
        .expect(422);
    assert_eq!(problem(&other)["code"], "idempotency_key_reused");
    let second = submit(&world, key, "k2", path, &json!({"command": "a"}))
        .await
        .expect(201);
    assert_ne!(second.json()["id"], first.json()["id"]);
}

#[tokio::test]
async fn two_submitters_do_not_share_a_key() {
    let world = World::new().await;
    let body = json!({"command": "a"});
    let mine = submit(&world, &world.keys.user, "k", "/api/v1/jobs", &body)
        .await
        .expect(201);
    for key in [&world.keys.other, &world.keys.admin] {
        let theirs = submit(&world, key, "k", "/api/v1/jobs", &body).await.expect(201);
        assert_ne!(mine.json()["id"], theirs.json()["id"]);
    }
}

#[tokio::test]
async fn a_bulk_sent_again_answers_the_same_jobs() {
    let world = World::new().await;
    let (key, path) = (&world.keys.user, "/api/v1/jobs/bulk");
    let body = json!({"jobs": [{"command": "a"}, {"command": "b"}, {"command": "a"}]});
    let first = submit(&world, key, "k", path, &body).await.expect(201);
    let again = submit(&world, key, "k", path, &body).await.expect(201);
    assert_eq!(first.json(), again.json());
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(first.json()["ids"].as_array().unwrap().len(), 3);
    let counts = world.get(key, "/api/v1/jobs/counts").await.expect(200).json();
    assert_eq!(counts["queued"], 3);
    let other = json!({"jobs": [{"command": "a"}, {"command": "c"}]});
    submit(&world, key, "k", path, &other).await.expect(422);
}

#[tokio::test]
async fn twenty_at_once_make_one_job() {
    let world = World::new().await;
    let body = json!({"command": "a"});
    let sends = (0..20).map(|_| submit(&world, &world.keys.user, "k", "/api/v1/jobs", &body));
    let answers = futures_util::future::join_all(sends).await;
    let ids: std::collections::BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.expect(201).json()["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 1);
}
