//! A server that dies, hangs, or is behind a link that swallows everything: no call hangs, and all works again by
//! itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::store::{HintStream, Quota, StoreError, Topic};
use common::tasks::Tasks;
use common::time::{Clock, SharedClock, SystemClock};
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::{Config, Coordination, Deadlines, connect};
use tokio::time::timeout;

use crate::backend::{coordination, now};
use crate::loss::entry;
use crate::proxy::Proxy;

/// Brief, so that a busy machine stays far from [`ANSWERED_WITHIN`].
pub const BRIEF: Deadlines = Deadlines {
    connect: Duration::from_millis(400),
    answer: Duration::from_millis(600),
};

/// No call may take longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// Work goes on within this after the server is back.
const BACK_WITHIN: Duration = Duration::from_secs(10);

const QUOTA: Quota = Quota {
    limit: 1_000_000,
    window: Duration::from_secs(60),
};

#[test]
fn the_deadlines_of_the_programs_keep_below_three_seconds() {
    assert!(Deadlines::DEFAULT.connect + Deadlines::DEFAULT.answer < ANSWERED_WITHIN);
}

/// One call of each part, each answered in time. All of them work, or the first fault.
pub async fn use_all(program: &Coordination) -> Result<(), StoreError> {
    let at = now();
    let kept = Duration::from_secs(60);
    in_time("lock", program.lock.holds("leader", "t")).await?;
    in_time("push", program.queue.push(&[entry(1)])).await?;
    in_time("heads", program.queue.heads(&entry(1).lane, 0, 9)).await?;
    in_time("built", program.queue.is_built()).await?;
    in_time("begin", program.queue.begin_build()).await?;
    in_time("limit", program.limiter.check("b", QUOTA, at)).await?;
    in_time("nonce", program.nonces.use_once("n", at, kept, at)).await?;
    Ok(())
}

async fn in_time<T>(what: &str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match timeout(ANSWERED_WITHIN, call).await {
        Ok(answer) => answer,
        Err(_) => panic!("`{what}` was not answered within {ANSWERED_WITHIN:?}"),
    }
}

/// Each part but the limiter fails, and in time.
async fn nothing_answers(program: &Coordination) {
    let at = now();
    let (kept, entries) = (Duration::from_secs(60), [entry(1)]);
    let faults = tokio::join!(
        in_time("lock", program.lock.acquire("leader", "t", kept)),
        in_time("push", program.queue.push(&entries)),
        in_time("lanes", program.queue.lanes()),
        in_time("nonce", program.nonces.use_once("m", at, kept, at)),
        in_time("limit", program.limiter.check("b", QUOTA, at)),
    );
    let (lock, push, lanes, nonce, limit) = faults;
    for fault in [lock.err(), push.err(), lanes.err(), nonce.err()] {
        assert!(matches!(fault, Some(StoreError::Unavailable(_))), "{fault:?}");
    }
    assert!(limit.unwrap().allowed, "counted by this process alone");
}

pub async fn works_again(program: &Coordination) {
    let begun = SystemClock.mono();
    while let Err(error) = use_all(program).await {
        let waited = SystemClock.mono().since(begun);
        assert!(waited < BACK_WITHIN, "not back within {BACK_WITHIN:?}: {error:?}");
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whoever listened is told to look at everything, and then hears what is new.
pub async fn hears_again(program: &Coordination, heard: &mut HintStream) {
    let told = async { while heard.next().await.is_some() {} };
    timeout(BACK_WITHIN, told)
        .await
        .expect("it is told that some were lost");
    program.hints.send(Topic::Capacity);
    let next = timeout(BACK_WITHIN, heard.next()).await;
    assert_eq!(next.expect("a hint arrives"), Some(Topic::Capacity));
}

#[tokio::test]
async fn a_server_that_dies_under_load_is_used_again_as_soon_as_it_is_back() {
    let mut server = RedisServer::start().await;
    let program = coordination(&server, BRIEF).await;
    let mut heard = program.hints.subscribe();
    let (tasks, good, bad) = (
        Tasks::new(),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    for _ in 0..4 {
        let (program, good, bad) = (program.clone(), Arc::clone(&good), Arc::clone(&bad));
        let stopping = tasks.stopping().clone();
        tasks.spawn("load", async move {
            while !stopping.is_cancelled() {
                let counter = if use_all(&program).await.is_ok() {
                    &good
                } else {
                    &bad
                };
                counter.fetch_add(1, Ordering::SeqCst);
                // tidy: poll
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    grows("calls succeed", &good).await;
    for _ in 0..3 {
        server.kill();
        grows("calls fail", &bad).await;
        server.start_again().await;
        grows("calls succeed again", &good).await;
        hears_again(&program, &mut heard).await;
    }
    tasks.stop();
    assert!(tasks.join(BACK_WITHIN).await);
}

async fn grows(what: &str, counter: &AtomicU64) {
    let (begun, before) = (SystemClock.mono(), counter.load(Ordering::SeqCst));
    // More than were under way.
    while counter.load(Ordering::SeqCst) < before + 10 {
        let waited = SystemClock.mono().since(begun);
        assert!(waited < BACK_WITHIN, "not within {BACK_WITHIN:?}: {what}");
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn while_a_server_is_stopped_every_call_is_answered_in_time() {
    let server = RedisServer::start().await;
    let program = coordination(&server, BRIEF).await;
    let mut heard = program.hints.subscribe();
    use_all(&program).await.unwrap();
    server.pause();
    let begun = SystemClock.mono();
    while SystemClock.mono().since(begun) < Duration::from_secs(5) {
        nothing_answers(&program).await;
        // tidy: poll
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.resume();
    works_again(&program).await;
    hears_again(&program, &mut heard).await;
}

/// A program whose link leads through the proxy.
async fn over(proxy: &Proxy) -> Coordination {
    let config = Config {
        deadlines: BRIEF,
        ..Config::new(format!("redis://{}/", proxy.address))
    };
    let clock: SharedClock = Arc::new(SystemClock);
    connect(&config, &clock).await.unwrap()
}

#[tokio::test]
async fn a_link_that_swallows_everything_is_left_for_a_new_one() {
    let server = RedisServer::start().await;
    let proxy = Proxy::to(server.port()).await;
    let program = over(&proxy).await;
    let mut heard = program.hints.subscribe();
    use_all(&program).await.unwrap();
    for _ in 0..2 {
        proxy.cut();
        nothing_answers(&program).await;
        nothing_answers(&program).await;
        proxy.heal();
        works_again(&program).await;
        hears_again(&program, &mut heard).await;
    }
}

/// A caller that gives up early never sees the deadline; the heartbeat does.
#[tokio::test]
async fn callers_that_give_up_early_get_a_new_link_all_the_same() {
    let server = RedisServer::start().await;
    let proxy = Proxy::to(server.port()).await;
    let program = over(&proxy).await;
    use_all(&program).await.unwrap();
    proxy.cut();
    proxy.heal();
    let begun = SystemClock.mono();
    while timeout(Duration::from_millis(100), program.queue.len())
        .await
        .is_err()
    {
        let waited = SystemClock.mono().since(begun);
        assert!(
            waited < BACK_WITHIN,
            "the dead link is still used after {waited:?}"
        );
    }
}

#[tokio::test]
async fn hints_are_sent_without_waiting_when_nobody_answers() {
    let mut server = RedisServer::start().await;
    let program = coordination(&server, BRIEF).await;
    server.kill();
    for _ in 0..100_000 {
        program.hints.send(Topic::Capacity);
    }
    server.start_again().await;
    works_again(&program).await;
}

#[tokio::test]
async fn a_lock_whose_server_is_away_is_not_renewed_and_not_lost_to_the_holder_at_once() {
    let mut server = RedisServer::start().await;
    let program = coordination(&server, BRIEF).await;
    let ttl = Duration::from_secs(60);
    assert!(program.lock.acquire("leader", "t", ttl).await.unwrap());
    server.kill();
    let renewed = in_time("renew", program.lock.renew("leader", "t", ttl)).await;
    assert!(matches!(renewed, Err(StoreError::Unavailable(_))), "{renewed:?}");
    server.start_again().await;
    works_again(&program).await;
    // A new server knows nothing of it: that is the moment to resign.
    assert!(!program.lock.renew("leader", "t", ttl).await.unwrap());
}

#[tokio::test]
async fn limits_hold_while_nobody_answers() {
    let mut server = RedisServer::start().await;
    let program = coordination(&server, BRIEF).await;
    let quota = Quota {
        limit: 10,
        window: Duration::from_secs(60),
    };
    let at = now();
    let allowed = async |calls: usize| {
        let mut allowed = 0;
        for _ in 0..calls {
            let decision = in_time("limit", program.limiter.check("b", quota, at)).await;
            allowed += usize::from(decision.unwrap().allowed);
        }
        allowed
    };
    assert_eq!(allowed(4).await, 4);
    server.kill();
    assert_eq!(allowed(50).await, 6, "those from before count");
    server.start_again().await;
    works_again(&program).await;
    assert_eq!(allowed(50).await, 0, "and those of the time between");
}
