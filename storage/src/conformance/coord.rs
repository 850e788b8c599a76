//! Lock, queue, hints, limits, nonces.

use std::time::Duration;

use common::ids::JobId;
use common::lifecycle::testing;
use common::queue::{CLASSES_PER_ACCOUNT_MAX, ClassKey, HeldBack, Lane, QueueEntry};
use common::store::{Quota, Topic};
use common::time::Clock;

use super::Backend;

/// Long beside what a busy machine needs between two steps: some servers count it by their own clocks.
const TTL: Duration = Duration::from_secs(50);

pub async fn the_lock_has_one_holder_at_a_time(backend: &mut impl Backend) {
    let lock = backend.stores().lock;
    assert!(lock.acquire("key", "a", TTL).await.unwrap());
    assert!(!lock.acquire("key", "b", TTL).await.unwrap());
    assert!(lock.acquire("other", "b", TTL).await.unwrap());
    assert!(lock.holds("key", "a").await.unwrap());
    assert!(!lock.holds("key", "b").await.unwrap());
    backend.turn(Duration::from_secs(40)).await;
    assert!(lock.renew("key", "a", TTL).await.unwrap());
    assert!(!lock.renew("key", "b", TTL).await.unwrap());
    backend.turn(Duration::from_secs(40)).await;
    assert!(lock.holds("key", "a").await.unwrap());
    backend.turn(Duration::from_secs(20)).await;
    assert!(!lock.holds("key", "a").await.unwrap());
    assert!(!lock.renew("key", "a", TTL).await.unwrap());
    assert!(lock.acquire("key", "b", TTL).await.unwrap());
    lock.release("key", "a").await.unwrap();
    assert!(lock.holds("key", "b").await.unwrap(), "only the holder releases");
    lock.release("key", "b").await.unwrap();
    assert!(lock.acquire("key", "a", TTL).await.unwrap());
}

fn lane(class: &str) -> Lane {
    Lane {
        class: ClassKey::from_text(class),
        account: testing::account("acme"),
    }
}

fn entry(class: &str, score: u64, job: u128) -> QueueEntry {
    QueueEntry {
        lane: lane(class),
        score,
        job: JobId::from_u128(job),
    }
}

pub async fn the_queue_is_in_order(backend: &mut impl Backend) {
    let queue = backend.stores().queue;
    let [a, b, c] = [entry("x", 5, 2), entry("x", 5, 1), entry("x", 1, 3)];
    let other = entry("y", 0, 4);
    queue
        .push(&[a.clone(), b.clone(), c.clone(), other.clone()])
        .await
        .unwrap();
    queue.push(std::slice::from_ref(&a)).await.unwrap();
    assert_eq!(queue.len().await.unwrap(), 4);
    assert_eq!(
        queue.heads(&lane("x"), 0, 9).await.unwrap(),
        [c.clone(), b.clone(), a.clone()]
    );
    assert_eq!(
        queue.heads(&lane("x"), 1, 1).await.unwrap(),
        std::slice::from_ref(&b)
    );
    assert_eq!(queue.heads(&lane("z"), 0, 9).await.unwrap(), []);
    assert_eq!(queue.lanes().await.unwrap(), [(lane("x"), 3), (lane("y"), 1)]);
    assert_eq!(queue.place(&a).await.unwrap(), Some(2));
    assert_eq!(queue.place(&entry("x", 5, 9)).await.unwrap(), None);
    // The latest score counts, in whatever lane.
    let moved = entry("x", 0, 2);
    queue.push(std::slice::from_ref(&moved)).await.unwrap();
    assert_eq!(
        queue.heads(&lane("x"), 0, 9).await.unwrap(),
        [moved, c.clone(), b.clone()]
    );
    queue.remove(&[b, c, other.clone(), other]).await.unwrap();
    assert_eq!(queue.lanes().await.unwrap(), [(lane("x"), 1)]);
}

pub async fn an_account_has_so_many_classes_and_past_them_its_jobs_wait_in_mixed_ones(
    backend: &mut impl Backend,
) {
    let queue = backend.stores().queue;
    let most = CLASSES_PER_ACCOUNT_MAX;
    // Labels of their own: as many classes as jobs.
    let of = |number: usize| {
        entry(
            &format!("default/c20m16d20#{number:016x}"),
            number as u64,
            number as u128,
        )
    };
    let all: Vec<QueueEntry> = (0..most + 300).map(of).collect();
    queue.push(&all).await.unwrap();
    assert_eq!(queue.len().await.unwrap(), all.len() as u64);
    let lanes = queue.lanes().await.unwrap();
    assert!(lanes.len() <= most + 4, "{} lanes", lanes.len());
    let mixed: Vec<_> = lanes.iter().filter(|(lane, _)| lane.class.is_mixed()).collect();
    assert_eq!(mixed.iter().map(|(_, waiting)| waiting).sum::<u64>(), 300);

    // Another account has room for classes of its own.
    let mut other = of(most + 1_000);
    other.lane.account = testing::account("other");
    queue.push(std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(queue.heads(&other.lane, 0, 9).await.unwrap(), [other]);

    // An entry is found where it stands, by the lane of its class and by the one that it stands in.
    let last = all.last().unwrap();
    let stands = Lane {
        class: last.lane.class.mixed(),
        account: last.lane.account.clone(),
    };
    let standing = QueueEntry {
        lane: stands.clone(),
        ..last.clone()
    };
    let waiting = queue.heads(&stands, 0, 1_000).await.unwrap();
    assert_eq!(waiting.last(), Some(&standing));
    assert!(waiting.is_sorted_by_key(|entry| entry.score));
    let place = waiting.len() as u64 - 1;
    assert_eq!(queue.place(last).await.unwrap(), Some(place));
    assert_eq!(queue.place(&standing).await.unwrap(), Some(place));
    queue.remove(std::slice::from_ref(last)).await.unwrap();
    assert_eq!(queue.place(last).await.unwrap(), None);
    queue.push(std::slice::from_ref(last)).await.unwrap();
    queue.push(std::slice::from_ref(last)).await.unwrap();
    assert_eq!(queue.len().await.unwrap(), all.len() as u64 + 1, "one place each");
    queue.remove(std::slice::from_ref(&standing)).await.unwrap();
    assert_eq!(queue.place(last).await.unwrap(), None);
    let asked: Vec<_> = [(stands.clone(), 2, 3), (all[0].lane.clone(), 0, 9)].into();
    let answers = queue.heads_of(&asked).await.unwrap();
    assert_eq!(answers, [waiting[2..5].to_vec(), vec![all[0].clone()]]);
}

pub async fn the_queue_starts_unbuilt_and_forgets(backend: &mut impl Backend) {
    let queue = backend.stores().queue;
    assert!(!queue.is_built().await.unwrap());
    let build = queue.begin_build().await.unwrap();
    queue.push(&[entry("x", 1, 1)]).await.unwrap();
    assert!(!queue.is_built().await.unwrap(), "not before it is said");
    assert!(queue.mark_built(&build).await.unwrap());
    assert!(queue.is_built().await.unwrap());
    queue.clear().await.unwrap();
    assert!(!queue.is_built().await.unwrap());
    assert_eq!(queue.len().await.unwrap(), 0);
}

pub async fn what_is_held_back_is_told_anew_each_time_and_forgotten_with_the_queue(
    backend: &mut impl Backend,
) {
    let queue = backend.stores().queue;
    assert!(queue.reservations().await.unwrap().is_empty());
    let job = testing::job(testing::spec());
    let reservation = |worker: &str| HeldBack {
        worker: testing::worker(worker).id,
        job: job.id,
        account: job.account.clone(),
        resources: job.spec.resources,
        since: common::time::Timestamp::from_millis(5),
    };
    let two = [reservation("w1"), reservation("w2")];
    queue.tell_reservations(&two).await.unwrap();
    assert_eq!(queue.reservations().await.unwrap(), two);
    queue.tell_reservations(&two[1..]).await.unwrap();
    assert_eq!(queue.reservations().await.unwrap(), two[1..]);
    queue.tell_reservations(&[]).await.unwrap();
    assert!(queue.reservations().await.unwrap().is_empty());
    queue.tell_reservations(&two).await.unwrap();
    queue.clear().await.unwrap();
    assert!(queue.reservations().await.unwrap().is_empty());
}

pub async fn a_lane_is_there_as_long_as_something_waits_in_it(backend: &mut impl Backend) {
    let queue = backend.stores().queue;
    let lanes = async || queue.lanes().await.unwrap();
    let entries: Vec<_> = (0..1_500).map(|number| entry("x", 7, number)).collect();
    queue.push(&entries).await.unwrap();
    assert_eq!(lanes().await, [(lane("x"), 1_500)]);
    // All of one score: in the order of their numbers.
    assert_eq!(queue.heads(&lane("x"), 0, 2_000).await.unwrap(), entries);
    let wanted = [(lane("y"), 0, 3), (lane("x"), 2, 3), (lane("x"), 0, 0)];
    let answers = [vec![], entries[2..5].to_vec(), vec![]];
    assert_eq!(queue.heads_of(&wanted).await.unwrap(), answers);
    assert_eq!(queue.heads_of(&[]).await.unwrap(), Vec::<Vec<QueueEntry>>::new());
    // A removal that names an old place takes nothing away.
    let again: Vec<_> = (0..3).map(|number| entry("x", 9, number)).collect();
    queue.push(&again).await.unwrap();
    queue.remove(&entries).await.unwrap();
    assert_eq!(lanes().await, [(lane("x"), 3)]);
    // A job that moves on leaves nothing behind.
    let moved: Vec<_> = (0..3).map(|number| entry("y", 9, number)).collect();
    queue.push(&moved).await.unwrap();
    assert_eq!(lanes().await, [(lane("y"), 3)]);
    assert_eq!(queue.len().await.unwrap(), 3);
    queue.remove(&again).await.unwrap();
    assert_eq!(queue.len().await.unwrap(), 3);
    queue.remove(&moved).await.unwrap();
    assert_eq!(lanes().await, []);
    assert_eq!(queue.len().await.unwrap(), 0);
}

pub async fn a_making_that_was_lost_or_overtaken_is_not_whole(backend: &mut impl Backend) {
    let queue = backend.stores().queue;
    let lost = queue.begin_build().await.unwrap();
    queue.clear().await.unwrap();
    assert!(!queue.mark_built(&lost).await.unwrap());
    assert!(!queue.is_built().await.unwrap());
    let first = queue.begin_build().await.unwrap();
    let second = queue.begin_build().await.unwrap();
    assert!(!queue.mark_built(&first).await.unwrap());
    assert!(!queue.is_built().await.unwrap());
    assert!(queue.mark_built(&second).await.unwrap());
    assert!(queue.is_built().await.unwrap());
}

pub async fn a_hint_reaches_whoever_listens(backend: &mut impl Backend) {
    let hints = backend.stores().hints;
    hints.send(Topic::Capacity);
    let (mut one, mut two) = (hints.subscribe(), hints.subscribe());
    hints.send(Topic::Queue);
    for listener in [&mut one, &mut two] {
        // One that was on its way before may still arrive.
        let hears = async { while listener.next().await != Some(Topic::Queue) {} };
        let heard = tokio::time::timeout(Duration::from_secs(30), hears).await;
        heard.expect("a hint arrives");
    }
}

const QUOTA: Quota = Quota {
    limit: 3,
    window: Duration::from_secs(60),
};

pub async fn the_call_past_the_limit_is_refused(backend: &mut impl Backend) {
    let limiter = backend.stores().limiter;
    let now = backend.clock().now();
    for remaining in [2, 1, 0] {
        let decision = limiter.check("a", QUOTA, now).await.unwrap();
        assert_eq!(
            (decision.allowed, decision.remaining, decision.limit),
            (true, remaining, 3)
        );
    }
    let decision = limiter.check("a", QUOTA, now).await.unwrap();
    assert!(!decision.allowed);
    assert!(decision.retry_after > Duration::ZERO && decision.retry_after <= QUOTA.window);
    assert!(limiter.check("b", QUOTA, now).await.unwrap().allowed);
    let later = now.after(decision.retry_after);
    assert!(
        limiter.check("a", QUOTA, later).await.unwrap().allowed,
        "as it was told"
    );
}

pub async fn no_double_burst_at_the_edge(backend: &mut impl Backend) {
    let limiter = backend.stores().limiter;
    let start = backend.clock().now();
    let mut allowed: Vec<u64> = Vec::new();
    // Bursts just before and just after each edge of a window that began with the first call.
    for second in [0, 59, 60, 61, 119, 120, 121, 179, 180, 181] {
        for _ in 0..5 {
            let at = start.after(Duration::from_secs(second));
            if limiter.check("a", QUOTA, at).await.unwrap().allowed {
                allowed.push(second);
            }
        }
        let within = allowed.iter().filter(|call| second - **call < 60).count();
        assert!(within <= 3, "{allowed:?}");
    }
    assert!(allowed.len() >= 6, "the window moves on: {allowed:?}");
}

pub async fn a_nonce_is_used_once_by_one(backend: &mut impl Backend) {
    let nonces = backend.stores().nonces;
    let now = backend.clock().now();
    let uses = (0..100).map(|_| nonces.use_once("n", now, TTL, now));
    let answers = futures_util::future::join_all(uses).await;
    assert_eq!(
        answers
            .into_iter()
            .filter(|answer| *answer.as_ref().unwrap())
            .count(),
        1
    );
    assert!(nonces.use_once("m", now, TTL, now).await.unwrap());
}

pub async fn a_nonce_from_before_the_store_is_refused(backend: &mut impl Backend) {
    let nonces = backend.stores().nonces;
    let now = backend.clock().now();
    let before = common::time::Timestamp::from_millis(now.as_millis() - 1);
    assert!(!nonces.use_once("n", before, TTL, now).await.unwrap());
    assert!(nonces.use_once("n", now, TTL, now).await.unwrap());
}

pub async fn old_nonces_are_forgotten(backend: &mut impl Backend) {
    let nonces = backend.stores().nonces;
    let now = backend.clock().now();
    assert!(nonces.use_once("n", now, TTL, now).await.unwrap());
    backend.turn(Duration::from_secs(40)).await;
    let almost = backend.clock().now();
    assert!(!nonces.use_once("n", almost, TTL, almost).await.unwrap());
    backend.turn(Duration::from_secs(20)).await;
    let past = backend.clock().now();
    assert!(nonces.use_once("n", past, TTL, past).await.unwrap());
}
