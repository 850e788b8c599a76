//! `wait`: an answer that is held back until the job has ended.

use std::time::Duration;

use common::attempt::Outcome;
use common::ids::{ApiKeyId, JobId};
use common::store::JobQuery;
use common::time::{Clock as _, SystemClock};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, PATIENCE, World, problem};

const JOBS: &str = "/api/v1/jobs";
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn job() -> Value {
    json!({"command": ["true"]})
}

async fn stored(world: &World) -> Vec<JobId> {
    let all = JobQuery {
        account: None,
        states: Vec::new(),
        labels: Vec::new(),
        before: None,
        limit: 10,
    };
    let page = world.stores.jobs.list(&all).await.unwrap();
    page.items.iter().map(|job| job.id).collect()
}

/// The one job, once it is submitted.
async fn the_one(world: &World) -> JobId {
    let found = tokio::time::timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            if let [id] = stored(world).await[..] {
                return id;
            }
        }
    });
    found.await.expect("a job that is stored while its client waits")
}

/// Runs the one job that is submitted meanwhile, to that exit code.
async fn run_the_one(world: &World, code: i32) {
    let id = the_one(world).await;
    run(world, id, code).await;
}

async fn run(world: &World, id: JobId, code: i32) {
    let attempt = world.run(id).await;
    world.finish(id, attempt, Outcome::Exited { code }).await;
}

/// Room for one request that waits, and a job that has ended.
async fn with_one_place() -> (World, JobId) {
    let world = World::with(|config| config.waits_max = 1).await;
    let ended = world.submit(&world.keys.user).await;
    run(&world, ended, 0).await;
    (world, ended)
}

/// The answer to a request that waits: [`until_taken`] may be before it at the one place, for a moment.
async fn get_waiting(world: &World, key: &str, job: JobId) -> Answer {
    let path = format!("{JOBS}/{job}?wait=25");
    tokio::time::timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let answer = world.get(key, &path).await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
        }
    })
    .await
    .expect("a place to wait at")
}

/// Asks until the one place is taken, by being refused it: a job that has ended is not waited for.
async fn until_taken(world: &World, ended: JobId) -> Answer {
    let path = format!("{JOBS}/{ended}?wait=1");
    tokio::time::timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let answer = world.get(&world.keys.viewer, &path).await;
            if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
        }
    })
    .await
    .expect("a request that takes the one place")
}

#[tokio::test]
async fn a_submission_that_waits_is_answered_with_the_end() {
    let world = World::new().await;
    let path = format!("{JOBS}?wait=25");
    let body = job();
    let (answer, ()) = tokio::join!(world.post(&world.keys.user, &path, &body), run_the_one(&world, 3));
    let answer = answer.expect(201);
    let view = answer.json();
    assert_eq!(view["state"], "failed");
    assert_eq!(view["exit_code"], 3);
    assert_eq!(view.get("waiting"), None, "it no longer waits");
    assert_eq!(
        answer.header("location"),
        format!("{JOBS}/{}", view["id"].as_str().unwrap())
    );
}

#[tokio::test]
async fn a_look_that_waits_is_answered_with_the_end_and_at_once_where_it_has_come() {
    let world = World::new().await;
    let id = world.submit(&world.keys.user).await;
    let path = format!("{JOBS}/{id}?wait=25");
    let (answer, ()) = tokio::join!(world.get(&world.keys.viewer, &path), run_the_one(&world, 0));
    assert_eq!(answer.expect(200).json()["state"], "succeeded");
    let again = world.get(&world.keys.viewer, &path).await.expect(200);
    assert_eq!(again.json()["state"], "succeeded");
}

#[tokio::test]
async fn when_the_time_is_over_the_job_is_shown_as_it_stands() {
    let world = World::new().await;
    let path = format!("{JOBS}?wait=1");
    let clock = SystemClock;
    let begun = clock.mono();
    let answer = world
        .post(&world.keys.user, &path, &job())
        .await
        .expect(201)
        .json();
    let took = clock.mono().since(begun);
    assert!(took >= Duration::from_secs(1), "answered after {took:?}");
    assert_eq!(answer["state"], "queued");
    assert_eq!(answer["waiting"]["reason"], "no_workers", "it waits as before");
}

#[tokio::test]
async fn a_time_that_is_none_stores_nothing() {
    let world = World::new().await;
    for (wait, code) in [
        ("26", "out_of_range"),
        ("-1", "wrong_type"),
        ("soon", "wrong_type"),
    ] {
        let path = format!("{JOBS}?wait={wait}");
        let refused = world.post(&world.keys.user, &path, &job()).await.expect(422);
        let errors = &problem(&refused)["errors"];
        assert_eq!(
            (&errors[0]["field"], &errors[0]["code"]),
            (&json!("wait"), &json!(code))
        );
    }
    let path = format!("{JOBS}?until=end");
    world.post(&world.keys.user, &path, &job()).await.expect(422);
    assert_eq!(stored(&world).await, []);
}

#[tokio::test]
async fn waits_past_the_limit_are_told_to_come_back_before_anything_is_stored() {
    let (world, ended) = with_one_place().await;
    let id = world.submit(&world.keys.user).await;
    let waits = get_waiting(&world, &world.keys.user, id);
    let others = async {
        let refused = until_taken(&world, ended).await;
        assert_eq!(problem(&refused)["code"], "too_many_waits");
        assert_eq!(refused.header("retry-after"), "5");
        let path = format!("{JOBS}?wait=25");
        world.post(&world.keys.user, &path, &job()).await.expect(503);
        assert_eq!(stored(&world).await.len(), 2, "only what was there before");
        let path = format!("{JOBS}/{ended}/logs/follow");
        world.get(&world.keys.viewer, &path).await.expect(200);
        run(&world, id, 0).await;
    };
    let (answer, ()) = tokio::join!(waits, others);
    assert_eq!(answer.expect(200).json()["state"], "succeeded");
}

#[tokio::test]
async fn those_who_follow_take_no_place_of_those_who_wait() {
    let world = World::with(|config| config.followers_max = 1).await;
    let id = world.submit(&world.keys.user).await;
    let path = format!("{JOBS}/{id}/logs/follow");
    let request = world.request(Method::GET, &world.keys.viewer, &path);
    let follows = request.send().await.unwrap();
    assert_eq!(follows.status(), StatusCode::OK);
    world.get(&world.keys.viewer, &path).await.expect(503);
    let path = format!("{JOBS}/{id}?wait=1");
    world.get(&world.keys.viewer, &path).await.expect(200);
    drop(follows);
}

async fn revoke(world: &World, key: ApiKeyId, text: &str) {
    let path = format!("/api/v1/auth/keys/{key}");
    let request = world.request(Method::DELETE, text, &path);
    world.send(request).await.expect(204);
    world.clock.advance(Duration::from_secs(5));
}

#[tokio::test]
async fn a_key_that_is_revoked_meanwhile_sees_no_end() {
    let (world, ended) = with_one_place().await;
    let id = world.submit(&world.keys.user).await;
    let (key, text) = world.make_key("ursula").await;
    let waits = get_waiting(&world, &text, id);
    let revokes = async {
        until_taken(&world, ended).await;
        revoke(&world, key, &text).await;
    };
    let (answer, ()) = tokio::join!(waits, revokes);
    assert_eq!(problem(&answer.expect(401))["code"], "unauthenticated");
}

#[tokio::test]
async fn a_submission_of_a_key_that_is_revoked_meanwhile_is_acknowledged_all_the_same() {
    let world = World::new().await;
    let (key, text) = world.make_key("ursula").await;
    let (path, body) = (format!("{JOBS}?wait=25"), job());
    let submits = world.post(&text, &path, &body);
    let revokes = async {
        the_one(&world).await;
        revoke(&world, key, &text).await;
    };
    let (answer, ()) = tokio::join!(submits, revokes);
    assert_eq!(answer.expect(201).json()["state"], "queued");
}

#[tokio::test]
async fn a_program_that_stops_answers_those_who_wait() {
    let (world, ended) = with_one_place().await;
    let id = world.submit(&world.keys.user).await;
    let waits = get_waiting(&world, &world.keys.user, id);
    let stops = async {
        until_taken(&world, ended).await;
        world.stop();
    };
    let (answer, ()) = tokio::join!(waits, stops);
    assert_eq!(answer.expect(200).json()["state"], "queued");
}
