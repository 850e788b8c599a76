//! Several programs over one server count and decide as one.

use std::time::Duration;

use common::store::{Quota, Topic};
use futures_util::future::join_all;
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::Coordination;

use crate::backend::{PATIENT, coordination, now};

async fn two(server: &RedisServer) -> [Coordination; 2] {
    [
        coordination(server, PATIENT).await,
        coordination(server, PATIENT).await,
    ]
}

#[tokio::test]
async fn a_limit_is_exact_across_programs_and_at_the_edge_of_its_window() {
    let server = RedisServer::start().await;
    let programs = two(&server).await;
    let quota = Quota {
        limit: 50,
        window: Duration::from_secs(10),
    };
    let start = now();
    let burst = async |at: Duration| {
        let calls = (0..100).map(|call| {
            let limiter = &programs[call % 2].limiter;
            limiter.check("bucket", quota, start.after(at))
        });
        let answers = join_all(calls).await;
        answers
            .into_iter()
            .filter(|answer| answer.as_ref().unwrap().allowed)
            .count()
    };
    // Together, not each; nothing more until the first burst has left the window, to the millisecond.
    assert_eq!(burst(Duration::ZERO).await, 50);
    assert_eq!(burst(quota.window - Duration::from_millis(1)).await, 0);
    assert_eq!(burst(quota.window).await, 50);
    assert_eq!(burst(quota.window + Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn of_a_hundred_uses_of_one_nonce_one_is_the_first() {
    let server = RedisServer::start().await;
    let programs = two(&server).await;
    let signed = now();
    let uses = (0..100).map(|call| {
        let nonces = &programs[call % 2].nonces;
        nonces.use_once("w:n", signed, Duration::from_secs(120), signed)
    });
    let answers = join_all(uses).await;
    assert_eq!(
        answers
            .into_iter()
            .filter(|answer| *answer.as_ref().unwrap())
            .count(),
        1
    );
}

#[tokio::test]
async fn of_many_that_try_one_leads() {
    let server = RedisServer::start().await;
    let programs = two(&server).await;
    let tokens: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    let tries = tokens.iter().enumerate().map(|(number, token)| {
        let lock = &programs[number % 2].lock;
        lock.acquire("leader", token, Duration::from_secs(60))
    });
    let answers = join_all(tries).await;
    assert_eq!(
        answers
            .into_iter()
            .filter(|answer| *answer.as_ref().unwrap())
            .count(),
        1
    );
}

#[tokio::test]
async fn a_hint_of_one_program_reaches_the_other() {
    let server = RedisServer::start().await;
    let [one, another] = two(&server).await;
    let mut heard = another.hints.subscribe();
    for _ in 0..10_000 {
        // More than fits: what is lost is lost, and nobody waits.
        one.hints.send(Topic::Capacity);
    }
    let next = tokio::time::timeout(Duration::from_secs(30), heard.next()).await;
    assert_eq!(next.expect("a hint arrives"), Some(Topic::Capacity));
}
