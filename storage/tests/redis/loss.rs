//! Everything in Redis may be lost at any moment: nothing passes for whole afterwards, and no replay opens.

use std::time::Duration;

use common::ids::JobId;
use common::lifecycle::testing::{self, account};
use common::queue::{ClassKey, HELD_BACK_LIFE, HeldBack, Lane, QueueEntry};
use common::store::{Quota, StoreError};
use storage::conformance::Backend as _;
use storage::conformance::redis_server::RedisServer;

use crate::backend::{PATIENT, answers, coordination, fresh, now};

const KEPT: Duration = Duration::from_secs(120);
const TTL: Duration = Duration::from_secs(60);
const ONCE: Quota = Quota {
    limit: 1,
    window: Duration::from_secs(60),
};

pub fn entry(job: u128) -> QueueEntry {
    QueueEntry {
        lane: Lane {
            class: ClassKey::from_text("default/c20m16d20"),
            account: account("acme"),
        },
        score: 1,
        job: JobId::from_u128(job),
    }
}

#[tokio::test]
async fn after_a_flush_nothing_passes_for_whole_and_no_replay_opens() {
    let server = RedisServer::start().await;
    let (one, two) = (
        coordination(&server, PATIENT).await,
        coordination(&server, PATIENT).await,
    );
    let signed = now();
    let build = one.queue.begin_build().await.unwrap();
    one.queue.push(&[entry(1)]).await.unwrap();
    assert!(one.queue.mark_built(&build).await.unwrap());
    assert!(two.queue.is_built().await.unwrap());
    assert!(one.lock.acquire("leader", "one", TTL).await.unwrap());
    assert!(one.nonces.use_once("n", signed, KEPT, signed).await.unwrap());
    // By a clock that goes before ours.
    let ahead = signed.after(Duration::from_secs(30));
    assert!(one.nonces.use_once("ahead", ahead, KEPT, signed).await.unwrap());
    assert!(one.limiter.check("b", ONCE, signed).await.unwrap().allowed);

    server.flush_all().await;
    let later = signed.after(Duration::from_secs(1));
    for program in [&one, &two] {
        assert!(!program.queue.is_built().await.unwrap());
        assert!(!program.lock.holds("leader", "one").await.unwrap());
        assert!(!program.lock.renew("leader", "one", TTL).await.unwrap());
        assert!(!program.nonces.use_once("n", signed, KEPT, later).await.unwrap());
        assert!(
            !program
                .nonces
                .use_once("unused", signed, KEPT, later)
                .await
                .unwrap()
        );
    }
    assert!(!one.nonces.use_once("ahead", ahead, KEPT, later).await.unwrap());
    assert!(two.nonces.use_once("new", later, KEPT, later).await.unwrap());
    assert_eq!(two.queue.lanes().await.unwrap(), []);
    assert!(
        two.limiter.check("b", ONCE, later).await.unwrap().allowed,
        "it counts anew"
    );
    assert!(two.lock.acquire("leader", "two", TTL).await.unwrap());
}

#[tokio::test]
async fn a_making_that_a_flush_falls_into_is_not_whole() {
    let server = RedisServer::start().await;
    let program = coordination(&server, PATIENT).await;
    let build = program.queue.begin_build().await.unwrap();
    program.queue.push(&[entry(1)]).await.unwrap();
    server.flush_all().await;
    program.queue.push(&[entry(2)]).await.unwrap();
    assert!(!program.queue.mark_built(&build).await.unwrap());
    assert!(!program.queue.is_built().await.unwrap());
}

#[tokio::test]
async fn a_server_that_comes_back_with_an_old_snapshot_is_neither_whole_nor_trusted_with_nonces() {
    let mut server = RedisServer::start().await;
    let program = coordination(&server, PATIENT).await;
    let other = coordination(&server, PATIENT).await;
    let build = program.queue.begin_build().await.unwrap();
    program.queue.push(&[entry(1)]).await.unwrap();
    assert!(program.queue.mark_built(&build).await.unwrap());
    server.ask::<()>(&["SAVE"]).await.unwrap();
    let signed = now();
    assert!(program.nonces.use_once("n", signed, KEPT, signed).await.unwrap());
    server.kill();
    server.start_again().await;

    for program in [&program, &other] {
        answers(program).await;
    }
    assert_eq!(program.queue.len().await.unwrap(), 1, "the snapshot was read");
    assert!(!program.queue.is_built().await.unwrap());
    assert!(!program.queue.mark_built(&build).await.unwrap());
    let later = signed.after(Duration::from_secs(1));
    assert!(!other.nonces.use_once("n", signed, KEPT, later).await.unwrap());
    assert!(other.nonces.use_once("m", later, KEPT, later).await.unwrap());
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_taught_again() {
    let server = RedisServer::start().await;
    let program = coordination(&server, PATIENT).await;
    server.ask::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
    let many: Vec<QueueEntry> = (0..2_000).map(entry).collect();
    program.queue.push(&many).await.unwrap();
    assert_eq!(program.queue.len().await.unwrap(), 2_000);
    server.ask::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
    assert!(program.limiter.check("b", ONCE, now()).await.unwrap().allowed);
}

#[tokio::test]
async fn a_full_server_says_that_it_is_full_and_works_again_when_there_is_room() {
    let server = RedisServer::with(&["--maxmemory", "3mb"]).await;
    let program = coordination(&server, PATIENT).await;
    let mut pushed = Vec::new();
    let full = loop {
        let next: Vec<QueueEntry> = (0..500).map(|job| entry(pushed.len() as u128 + job)).collect();
        match program.queue.push(&next).await {
            Ok(()) => pushed.extend(next),
            Err(error) => break error,
        }
        assert!(pushed.len() < 200_000, "it is never full");
    };
    assert!(matches!(full, StoreError::Full(_)), "{full:?}");
    // Reading and making room go on.
    assert!(
        !program
            .queue
            .heads(&entry(0).lane, 0, 1)
            .await
            .unwrap()
            .is_empty()
    );
    program.queue.remove(&pushed).await.unwrap();
    program.queue.push(&[entry(7)]).await.unwrap();
}

#[tokio::test]
async fn what_was_told_of_room_held_back_ends_by_itself_unless_it_is_told_again() {
    let backend = fresh().await;
    let queue = backend.stores().queue;
    let job = testing::job(testing::spec());
    let told = [HeldBack {
        worker: testing::worker("w1").id,
        job: job.id,
        account: job.account,
        resources: job.spec.resources,
        since: now(),
    }];
    for _ in 0..3 {
        queue.tell_reservations(&told).await.unwrap();
        backend.turn(HELD_BACK_LIFE / 2).await;
        assert_eq!(queue.reservations().await.unwrap(), told);
    }
    backend.turn(HELD_BACK_LIFE).await;
    assert!(queue.reservations().await.unwrap().is_empty());
}
