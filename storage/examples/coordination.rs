//! How quick coordination over Redis is: `cargo run --release --example coordination -p jobworker-storage`, with
//! `REDIS_URL` set or a `redis-server` on the path.

#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::ids::{AccountId, JobId};
use common::queue::{ClassKey, Lane, QueueEntry};
use common::store::{Quota, StoreError};
use common::time::{SharedClock, SystemClock};
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::{Config, connect};

const JOBS: usize = 100_000;
const LANES: usize = 10_000;
/// As the leader reads rows and pushes them.
const CHUNK: usize = 1_000;
const ROUNDS: u32 = 20;

#[tokio::main]
async fn main() -> Result<(), StoreError> {
    let (url, _server) = match std::env::var("REDIS_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let server = RedisServer::start().await;
            (server.url(), Some(server))
        }
    };
    let config = Config {
        prefix: "jw-measure".into(),
        ..Config::new(url)
    };
    let clock: SharedClock = Arc::new(SystemClock);
    let redis = connect(&config, &clock).await?;
    redis.queue.clear().await?;

    let entries: Vec<QueueEntry> = (0..JOBS).map(entry).collect();
    let took = timed(async {
        for chunk in entries.chunks(CHUNK) {
            redis.queue.push(chunk).await?;
        }
        Ok(())
    });
    println!("push {JOBS} jobs in chunks of {CHUNK}: {:?}", took.await?);

    let lanes = redis.queue.lanes().await?;
    let wanted: Vec<_> = lanes
        .iter()
        .take(1_024)
        .map(|(lane, _)| (lane.clone(), 0, 4))
        .collect();
    each(&format!("lanes ({})", lanes.len()), async || {
        redis.queue.lanes().await.map(drop)
    })
    .await?;
    each("heads of 1,024 lanes, 4 each", async || {
        redis.queue.heads_of(&wanted).await.map(drop)
    })
    .await?;
    each("is built", async || redis.queue.is_built().await.map(drop)).await?;
    each("place", async || {
        redis.queue.place(&entries[JOBS / 2]).await.map(drop)
    })
    .await?;
    let quota = Quota {
        limit: 100,
        window: Duration::from_secs(60),
    };
    each("limit", async || {
        let now = clock.now();
        redis.limiter.check("bucket", quota, now).await.map(drop)
    })
    .await?;

    let took = timed(async {
        for chunk in entries.chunks(CHUNK) {
            redis.queue.remove(chunk).await?;
        }
        Ok(())
    });
    println!("remove {JOBS} jobs in chunks of {CHUNK}: {:?}", took.await?);
    redis.queue.clear().await
}

fn entry(number: usize) -> QueueEntry {
    let account = AccountId::new(&format!("account-{}", number % LANES)).expect("a name");
    QueueEntry {
        lane: Lane {
            class: ClassKey::from_text("default/c20m16d20"),
            account,
        },
        score: number as u64,
        job: JobId::from_u128(number as u128),
    }
}

async fn each(what: &str, call: impl AsyncFn() -> Result<(), StoreError>) -> Result<(), StoreError> {
    let took = timed(async {
        for _ in 0..ROUNDS {
            call().await?;
        }
        Ok(())
    });
    println!("{what}: {:?}", took.await? / ROUNDS);
    Ok(())
}

async fn timed(work: impl Future<Output = Result<(), StoreError>>) -> Result<Duration, StoreError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a measurement, finer than the clock's milliseconds"
    )]
    let begun = std::time::Instant::now();
    work.await?;
    Ok(begun.elapsed())
}
