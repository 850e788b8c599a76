//! Redis, which everything has to outlive: killed, wiped, silent, or of the wrong kind.

use anyhow::{Result, ensure};
use common::job::StateName;
use common::store::StoreError;
use common::time::{Clock, SystemClock};
use rustix::process::Signal;
use storage::conformance::redis_server::RedisServer;

use super::bounds::{AFTER_A_WIPE, AFTER_REDIS, in_time};
use super::rows::LOCK;
use super::stage::Stage;
use crate::wait::{LONG, wait_for};

const HOUR_S: i64 = 3_600;

pub async fn restarted(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_500).await;
    stage.fault("Redis is killed and starts empty");
    stage.fleet.redis.kill();
    stage.fleet.redis.start_again().await;
    stage.works_again(SystemClock.mono(), AFTER_REDIS).await
}

pub async fn wiped(stage: &mut Stage) -> Result<()> {
    stage.lasts(50, 1_000).await;
    stage.fault("Redis is wiped");
    stage.fleet.redis.flush_all().await;
    // the queue is made anew meanwhile, or about to be
    stage.lasts(0, 300).await;
    stage.fault("and once more");
    stage.fleet.redis.flush_all().await;
    let wiped = SystemClock.mono();
    stage.works_again(wiped, AFTER_A_WIPE).await?;
    stage.nobody_is_orphaned().await?;
    in_time("every job that waits had its place", wiped, AFTER_A_WIPE)
}

pub async fn silent(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_000).await;
    stage.fault("Redis does not answer");
    stage.fleet.redis.pause();
    stage.lasts(1_000, 4_000).await;
    stage.fault("and goes on");
    stage.fleet.redis.resume();
    Ok(())
}

/// Ahead, what is kept for a while is over at once, the leader's lock included; behind, it is kept too long.
pub async fn clock_jumps(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_500).await;
    let (seconds, word) = match stage.round % 2 {
        0 => (HOUR_S, "ahead"),
        _ => (-HOUR_S, "back"),
    };
    stage.fault(&format!("Redis's clock jumps an hour {word}"));
    stage.fleet.redis.turn_clock(seconds).await;
    stage.lasts(500, 3_000).await;
    stage.fault("and is right again");
    stage.fleet.redis.turn_clock(0).await;
    Ok(())
}

/// Not one program of ours works over it.
pub async fn evicts(stage: &mut Stage) -> Result<()> {
    stage.lasts(50, 500).await;
    let policies = [
        "allkeys-lru",
        "volatile-lru",
        "allkeys-random",
        "volatile-ttl",
        "allkeys-lfu",
    ];
    let policy = policies[stage.round % policies.len()];
    stage.fault(&format!("programs are started over a Redis with {policy}"));
    let server = RedisServer::with(&["--maxmemory", "10mb", "--maxmemory-policy", policy]).await;
    for binary in ["jobworker-scheduler", "jobworker-api"] {
        let (status, said) = stage.fleet.ends_over(binary, &server.url()).await?;
        ensure!(!status.success(), "{binary} works over {policy}: {said}");
        for word in ["maxmemory-policy", policy, "noeviction"] {
            ensure!(said.contains(word), "{binary} does not say `{word}`: {said}");
        }
    }
    Ok(())
}

/// The leader loses its lock in the middle of making a long queue anew.
pub async fn rebuild_interrupted(stage: &mut Stage) -> Result<()> {
    let leader = stage.leader().await?;
    stage.fault("Redis is wiped under a long queue");
    stage.fleet.redis.flush_all().await;
    let crowd = stage.crowd.as_ref().map_or(0, |(_, count)| *count as u64);
    let queue = stage.opened.stores.queue.clone();
    wait_for(LONG, "a queue that is partly made anew", async || {
        match queue.len().await {
            // new jobs come into it too, so some places tell nothing
            Ok(places) if (crowd / 50..crowd / 2).contains(&places) => Ok(()),
            Ok(places) => Err(format!("{places} places of {crowd}")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    stage.fault("the leader stands still past its lock");
    stage.scheduler(leader)?.signal(Signal::STOP)?;
    let life = u64::try_from(LOCK.as_millis())?;
    stage.lasts(2 * life, 3 * life).await;
    stage.scheduler(leader)?.signal(Signal::CONT)?;
    crowd_is_whole(stage).await
}

/// Each job of the crowd has its row, none has failed, and every one that waits has its place in the queue again.
async fn crowd_is_whole(stage: &Stage) -> Result<()> {
    let Some((account, count)) = &stage.crowd else {
        return Ok(());
    };
    let stores = &stage.opened.stores;
    wait_for(LONG, "the whole queue to be there again", async || {
        let whole = async {
            let states = stores.jobs.count_by_state(Some(account)).await?;
            let queued = stores.jobs.count_queued().await?;
            Ok::<_, StoreError>((states, queued, stores.queue.len().await?))
        };
        let (states, queued, places) = whole.await.map_err(|error| error.to_string())?;
        let rows: u64 = states.iter().map(|(_, count)| count).sum();
        let failed: u64 = states
            .iter()
            .filter(|(state, _)| matches!(state, StateName::Failed | StateName::Cancelled))
            .map(|(_, count)| count)
            .sum();
        if rows == *count as u64 && failed == 0 && places >= queued {
            println!("    {queued} wait, and have their places");
            return Ok(());
        }
        Err(format!(
            "{rows} rows of {count}, {failed} failed, {places} places for {queued} that wait"
        ))
    })
    .await
}
