//! How many jobs an account may have waiting.

use std::time::Duration;

use api::Config;
use common::attempt::Outcome;
use common::identity::Account;
use common::ids::AccountId;
use serde_json::{Value, json};

use crate::counts::{Counts, Gate};
use crate::support::{World, problem};

const ONE: &str = "/api/v1/jobs";
const BULK: &str = "/api/v1/jobs/bulk";

fn job() -> Value {
    json!({"command": ["true"]})
}

fn bulk(jobs: usize) -> Value {
    json!({"jobs": vec![job(); jobs]})
}

/// An installation in which an account without a record may have five jobs waiting.
async fn five() -> World {
    World::with(of_five).await
}

fn of_five(config: &mut Config) {
    config.accounts.waiting_default = 5;
    config.accounts.waiting_ceiling = 8;
}

/// The same over a store whose counts take as long as the test wants.
async fn five_counted() -> (World, Counts) {
    let counts = Counts::new();
    let world = World::over(|stores| counts.before(stores), of_five).await;
    (world, counts)
}

async fn waiting(world: &World) -> u64 {
    let account = AccountId::new("home").unwrap();
    world.stores.jobs.count_waiting(&account).await.unwrap()
}

#[tokio::test]
async fn past_its_limit_an_account_is_refused_with_a_number_and_told_when_to_ask_again() {
    let world = five().await;
    let key = &world.keys.user;
    for _ in 0..5 {
        world.post(key, ONE, &job()).await.expect(201);
    }
    let refused = world.post(key, ONE, &job()).await.expect(429);
    assert_eq!(refused.header("retry-after"), "5");
    let problem = problem(&refused);
    assert_eq!(problem["code"], "waiting_limit");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("has 5 jobs waiting and may have 5"), "{detail}");
    assert_eq!(waiting(&world).await, 5);
    // Another account has room of its own.
    world.post(&world.keys.other, ONE, &job()).await.expect(201);
}

#[tokio::test]
async fn a_bulk_is_refused_whole() {
    let world = five().await;
    let key = &world.keys.user;
    world.post(key, BULK, &bulk(3)).await.expect(201);
    let refused = world.post(key, BULK, &bulk(3)).await.expect(429);
    let problem = problem(&refused);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("3 more, of which none was taken"), "{detail}");
    assert_eq!(waiting(&world).await, 3);
    world.post(key, BULK, &bulk(2)).await.expect(201);
    assert_eq!(waiting(&world).await, 5);
}

#[tokio::test]
async fn what_has_started_or_was_cancelled_makes_room() {
    let world = five().await;
    let key = &world.keys.user;
    let first = world.submit(key).await;
    let second = world.submit(key).await;
    world.post(key, BULK, &bulk(3)).await.expect(201);
    world.post(key, ONE, &job()).await.expect(429);
    let attempt = world.run(first).await;
    world
        .post(key, &format!("{ONE}/{second}/cancel"), &json!({}))
        .await
        .expect(202);
    // A refusal is counted anew a moment later, not for each that goes on asking.
    world.clock.advance(Duration::from_secs(1));
    world.post(key, BULK, &bulk(2)).await.expect(201);
    world.clock.advance(Duration::from_secs(1));
    world.post(key, ONE, &job()).await.expect(429);
    // A job that ended has long made its room.
    world.finish(first, attempt, Outcome::Exited { code: 0 }).await;
    world.clock.advance(Duration::from_secs(1));
    world.post(key, ONE, &job()).await.expect(429);
}

#[tokio::test]
async fn jobs_that_wait_for_their_time_count_too() {
    let world = five().await;
    let later = json!({"command": ["true"], "not_before": 1_900_000_000_000u64});
    for _ in 0..5 {
        world.post(&world.keys.user, ONE, &later).await.expect(201);
    }
    world.post(&world.keys.user, ONE, &job()).await.expect(429);
}

#[tokio::test]
async fn an_accounts_own_limit_stands_before_the_default_but_below_the_ceiling() {
    let world = five().await;
    for (name, own, room) in [("small", 2, 2), ("large", 1_000, 8)] {
        let account = Account {
            id: AccountId::new(name).unwrap(),
            name: name.into(),
            plan: "test".into(),
            weight: 1,
            log_bytes_max: 1 << 20,
            running_max: None,
            waiting_max: Some(own),
            created_at: common::time::Timestamp::default(),
        };
        world.stores.identity.create_account(&account).await.unwrap();
        let key = world.key_in(name, &format!("{name}-user")).await;
        world.post(&key, BULK, &bulk(room)).await.expect(201);
        world.post(&key, ONE, &job()).await.expect(429);
    }
}

#[tokio::test]
async fn submissions_at_the_same_time_do_not_pass_the_limit_together() {
    let world = five().await;
    let body = job();
    let all = (0..20).map(|_| world.post(&world.keys.user, ONE, &body));
    let answers: Vec<_> = futures_util::future::join_all(all).await;
    let taken = answers
        .iter()
        .filter(|answer| answer.status.as_u16() == 201)
        .count();
    assert_eq!((taken, waiting(&world).await), (5, 5));
}

#[tokio::test]
async fn a_submission_that_is_sent_again_at_the_limit_finds_its_job() {
    let world = five().await;
    let key = &world.keys.user;
    let send = || {
        let request = world.request(reqwest::Method::POST, key, ONE);
        world.send(request.header("idempotency-key", "mine").json(&job()))
    };
    let first = send().await.expect(201).json();
    world.post(key, BULK, &bulk(4)).await.expect(201);
    assert_eq!(send().await.expect(201).json()["id"], first["id"]);
    assert_eq!(waiting(&world).await, 5);
}

#[tokio::test]
async fn a_submission_for_which_there_is_room_waits_for_no_count() {
    let (world, counts) = five_counted().await;
    let key = &world.keys.user;
    world.post(key, BULK, &bulk(2)).await.expect(201);
    counts.set(Gate::Held);
    // The last count is old by now, and the next one does not end.
    world.clock.advance(Duration::from_secs(60));
    world.post(key, ONE, &job()).await.expect(201);
    counts.begun(2).await;
    world.post(key, ONE, &job()).await.expect(201);
    counts.set(Gate::Open);
    // What was let in meanwhile is counted once, not twice.
    world.post(key, ONE, &job()).await.expect(201);
    let refused = world.post(key, ONE, &job()).await.expect(429);
    let problem = problem(&refused);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("has 5 jobs waiting and may have 5"), "{detail}");
    assert_eq!(waiting(&world).await, 5);
}

#[tokio::test]
async fn where_counting_takes_too_long_an_account_at_its_limit_is_refused_as_such() {
    let (world, counts) = five_counted().await;
    let key = &world.keys.user;
    world.post(key, BULK, &bulk(5)).await.expect(201);
    counts.set(Gate::TooSlow);
    world.clock.advance(Duration::from_secs(1));
    let refused = world.post(key, ONE, &job()).await.expect(429);
    counts.begun(2).await;
    assert_eq!(problem(&refused)["code"], "waiting_limit");
    // Of an account that was never counted nothing is known.
    world.post(&world.keys.other, ONE, &job()).await.expect(503);
    counts.set(Gate::Open);
    world.clock.advance(Duration::from_secs(1));
    world.post(&world.keys.other, ONE, &job()).await.expect(201);
}

#[tokio::test]
async fn where_the_store_answers_nothing_an_account_at_its_limit_is_told_that() {
    let (world, counts) = five_counted().await;
    let key = &world.keys.user;
    world.post(key, BULK, &bulk(5)).await.expect(201);
    counts.set(Gate::Away);
    world.clock.advance(Duration::from_secs(1));
    let refused = world.post(key, ONE, &job()).await.expect(503);
    assert!(refused.header("retry-after").parse::<u32>().is_ok());
    // Also whoever comes so soon that nothing is looked at anew.
    world.post(key, ONE, &job()).await.expect(503);
    counts.begun(2).await;
    counts.set(Gate::Open);
    world.clock.advance(Duration::from_secs(1));
    world.post(key, ONE, &job()).await.expect(429);
}

#[tokio::test]
async fn a_count_that_takes_longer_than_anybody_waits_is_made_once_for_all_and_goes_on() {
    let (world, counts) = five_counted().await;
    let key = &world.keys.user;
    counts.set(Gate::Held);
    // Nothing is known of the account yet, and they wait beside each other, not one after the other.
    let job = job();
    let waited = tokio::join!(
        world.post(key, ONE, &job),
        world.post(key, ONE, &job),
        world.post(key, ONE, &job)
    );
    for refused in [waited.0, waited.1, waited.2] {
        refused.expect(503);
    }
    assert_eq!(counts.how_many(), 1);
    counts.set(Gate::Open);
    counts.answered(1).await;
    world.post(key, ONE, &job).await.expect(201);
}
