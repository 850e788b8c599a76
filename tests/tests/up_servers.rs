//! `jobworker up` with its rows in MongoDB and its coordination in Redis: the same jobs, the same ends.

use std::time::Duration;

use anyhow::{Context, Result};
use common::job::StateName;
use common::log::Stream;
use common::tasks::Tasks;
use jobworker_e2e::client::Client;
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::door::Door;
use jobworker_e2e::sim::{self, Simulated};
use jobworker_e2e::wait::LONG;
use storage::conformance::mongo_server::Database;
use storage::conformance::redis_server::RedisServer;

const JOBS: usize = 20;
const RUNS_FOR: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_live_on_both_servers_through_a_wiped_redis_and_a_kill() -> Result<()> {
    let (database, redis) = (Database::shared().await, RedisServer::start().await);
    let mut cluster = Cluster::without_waiting(Settings {
        agent: false,
        servers: Some((database.uri().expose().clone(), redis.url())),
        ..Settings::default()
    })
    .await?;
    assert!(
        !cluster.state().join("store").exists(),
        "nothing is kept in the folder that has to be kept in the servers"
    );
    let client = cluster.client()?;
    let tasks = Tasks::new();
    let door = Door::open(cluster.workers_address()?, &tasks).await?;
    let agent = Simulated::start(&cluster, door.address(), 8, RUNS_FOR)?;
    client.worker_ready(sim::POOL).await?;

    all_succeed(&client).await.context("on both servers")?;
    redis.flush_all().await;
    all_succeed(&client).await.context("after Redis was wiped")?;
    cluster.kill()?;
    cluster.start_again().await?;
    door.lead_to(cluster.workers_address()?);
    all_succeed(&client).await.context("after a kill")?;
    assert_eq!(client.jobs().await?.len(), 3 * JOBS, "every job is there once");

    agent.stop().await?;
    tasks.stop();
    cluster.stop().await
}

async fn all_succeed(client: &Client) -> Result<()> {
    let ids = client.submit_all((0..JOBS).map(|_| sim::job()).collect()).await?;
    for id in ids {
        let job = client.ended(id, LONG).await?;
        assert_eq!(job.state, StateName::Succeeded, "{job:?}");
        assert_eq!(client.log(id, Stream::Stdout).await?, sim::OUTPUT);
    }
    Ok(())
}
