//! `wait`: an answer that is held back until the job has ended.

use std::time::Duration;

use common::attempt::Outcome;
use common::ids::JobId;
use common::store::JobQuery;
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

/// Runs the one job that is submitted meanwhile, to that exit code.
async fn run_the_one(world: &World, code: i32) {
    let found = tokio::time::timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            if let [id] = stored(world).await[..] {
                return id;
            }
        }
    });
    let id = found.await.expect("a job that is stored while its client waits");
    let attempt = world.run(id).await;
    world.finish(id, attempt, Outcome::Exited { code }).await;
}

/// The request, once it is under way: it has taken the one place for requests that are held open.
async fn with_one_place() -> World {
    World::with(|config| config.followers_max = 1).await
}

/// Asks until the one place is taken, by being refused it.
async fn until_taken(world: &World, job: JobId) -> Answer {
    let path = format!("{JOBS}/{job}/logs/follow");
    tokio::time::timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let request = world.request(reqwest::Method::GET, &world.keys.viewer, &path);
            let response = request.send().await.unwrap();
            if response.status() == 503 {
                return Answer {
                    status: response.status(),
                    headers: response.headers().clone(),
                    bytes: response.bytes().await.unwrap(),
                };
            }
        }
    })
    .await
    .expect("a request that takes the one place")
}

#[tokio::test]
async fn a_submission_that_waits_is_answered_with_the_end() {
    let world = World::new().await;
    let path = format!("{JOBS}?wait=60");
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
    let path = format!("{JOBS}/{id}?wait=60");
    let (answer, ()) = tokio::join!(world.get(&world.keys.viewer, &path), run_the_one(&world, 0));
    assert_eq!(answer.expect(200).json()["state"], "succeeded");
    let again = world.get(&world.keys.viewer, &path).await.expect(200);
    assert_eq!(again.json()["state"], "succeeded");
}

#[tokio::test]
async fn when_the_time_is_over_the_job_is_shown_as_it_stands() {
    let world = World::new().await;
    let path = format!("{JOBS}?wait=1");
    let answer = world
        .post(&world.keys.user, &path, &job())
        .await
        .expect(201)
        .json();
    assert_eq!(answer["state"], "queued");
    assert_eq!(answer["waiting"]["reason"], "no_workers", "it waits as before");
}

#[tokio::test]
async fn a_time_that_is_none_stores_nothing() {
    let world = World::new().await;
    for (wait, code) in [
        ("61", "out_of_range"),
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
    let world = with_one_place().await;
    let id = world.submit(&world.keys.user).await;
    let path = format!("{JOBS}/{id}?wait=60");
    let waits = world.get(&world.keys.user, &path);
    let others = async {
        let refused = until_taken(&world, id).await;
        assert_eq!(problem(&refused)["code"], "too_many_followers");
        let path = format!("{JOBS}?wait=60");
        let refused = world.post(&world.keys.user, &path, &job()).await.expect(503);
        assert_eq!(refused.header("retry-after"), "5");
        assert_eq!(stored(&world).await, [id]);
        run_the_one(&world, 0).await;
    };
    let (answer, ()) = tokio::join!(waits, others);
    assert_eq!(answer.expect(200).json()["state"], "succeeded");
}

#[tokio::test]
async fn a_key_that_is_revoked_meanwhile_sees_no_end() {
    let world = with_one_place().await;
    let id = world.submit(&world.keys.user).await;
    let (key, text) = world.make_key("ursula").await;
    let path = format!("{JOBS}/{id}?wait=60");
    let waits = world.get(&text, &path);
    let revokes = async {
        until_taken(&world, id).await;
        let path = format!("/api/v1/auth/keys/{key}");
        let request = world.request(reqwest::Method::DELETE, &text, &path);
        world.send(request).await.expect(204);
        world.clock.advance(Duration::from_secs(5));
    };
    let (answer, ()) = tokio::join!(waits, revokes);
    answer.expect(404);
}

#[tokio::test]
async fn a_program_that_stops_answers_those_who_wait() {
    let world = with_one_place().await;
    let id = world.submit(&world.keys.user).await;
    let path = format!("{JOBS}/{id}?wait=60");
    let waits = world.get(&world.keys.user, &path);
    let stops = async {
        until_taken(&world, id).await;
        world.stop();
    };
    let (answer, ()) = tokio::join!(waits, stops);
    assert_eq!(answer.expect(200).json()["state"], "queued");
}
