//! Redis is wiped while many jobs wait; measured is how long it takes until it holds all of them again, in the same order.

use std::time::Duration;

use anyhow::Context;
use sha2::{Digest, Sha256};
use storage::conformance::redis_server::RedisServer;

use crate::args::FlushArgs;
use crate::fleet::Fleet;
use crate::report::{Findings, Row, number};
use crate::servers::Durability;
use crate::stats::Stopwatch;

const LOOK_EVERY: Duration = Duration::from_millis(10);
const GIVEN_UP: Duration = Duration::from_secs(600);

/// What is wanted of so many jobs.
const fn seconds_wanted(jobs: usize) -> f64 {
    if jobs <= 10_000 { 3.0 } else { 45.0 }
}

/// # Errors
/// A job does not come back, or the order is another one.
pub async fn run(args: &FlushArgs) -> anyhow::Result<Findings> {
    let (mut rows, mut database) = (Vec::new(), String::new());
    for &jobs in &args.jobs {
        let fleet = Fleet::start(1, Durability::Synced).await?;
        fleet.leader().await?;
        fleet.client.fill(jobs).await?;
        eprintln!("{jobs} jobs wait");
        let redis = &fleet.redis;
        until_whole(redis, jobs).await.context("before the wipe")?;
        let before = order(redis).await?;
        let watch = Stopwatch::start();
        redis.flush_all().await;
        until_whole(redis, jobs).await.context("after the wipe")?;
        let took = watch.read().as_secs_f64();
        anyhow::ensure!(
            order(redis).await? == before,
            "the order is another one after the wipe"
        );
        let terms = fleet.schedulers[0].said("a term begins");
        eprintln!("{jobs} jobs: {} s, {terms} terms", number(took));
        let what = format!("{jobs} jobs waiting, back in order after");
        rows.push(Row::at_most(what, seconds_wanted(jobs), took, " s"));
        database.clone_from(&fleet.mongo.command);
    }
    Ok(Findings {
        title: "separate programs: FLUSHALL with jobs waiting, until the queue is whole again",
        counts: "one wipe each; one api, one scheduler, no agents".to_owned(),
        rows,
        notes: vec![
            "Whole: marked so by the leader, with as many entries as jobs; then every lane is compared, member by \
             member and score by score, with what it was before."
                .to_owned(),
            format!("Database: `{database}`"),
        ],
    })
}

/// Until the queue is marked as whole and has so many entries.
async fn until_whole(redis: &RedisServer, jobs: usize) -> anyhow::Result<()> {
    let watch = Stopwatch::start();
    loop {
        let entries: usize = redis.ask(&["HLEN", "{jw}:queue:places"]).await?;
        let built: Option<String> = redis.ask(&["GET", "{jw}:queue:built"]).await?;
        if entries == jobs && built.is_some() {
            return Ok(());
        }
        anyhow::ensure!(
            watch.read() < GIVEN_UP,
            "the queue has {entries} entries of {jobs}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Of all lanes with their members and scores.
async fn order(redis: &RedisServer) -> anyhow::Result<Vec<u8>> {
    let mut lanes: Vec<String> = redis.ask(&["HKEYS", "{jw}:queue:lanes"]).await?;
    lanes.sort_unstable();
    let mut digest = Sha256::new();
    for lane in lanes {
        let set = format!("{{jw}}:queue:lane:{lane}");
        let members: Vec<String> = redis.ask(&["ZRANGE", &set, "0", "-1", "WITHSCORES"]).await?;
        digest.update(lane.as_bytes());
        for member in members {
            digest.update(b"\n");
            digest.update(member.as_bytes());
        }
    }
    Ok(digest.finalize().to_vec())
}
