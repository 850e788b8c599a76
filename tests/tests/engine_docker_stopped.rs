//! The engine goes away while a job runs and others wait: the worker says so and takes nothing, nothing is lost, and
//! all goes on when it is back. On an engine of the test's own.

use std::time::Duration;

use anyhow::{Context, Result};
use common::job::StateName;
use jobworker_e2e::client::{brief, shell};
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::scripts::{PrivateEngine, run, script};
use jobworker_e2e::wait::LONG;

#[tokio::test]
async fn jobs_outlive_a_stop_and_a_kill_of_the_engine() -> Result<()> {
    let engine = PrivateEngine::start()?;
    let host = format!("unix://{}", engine.socket());
    run(script("ensure-image").env("DOCKER_HOST", &host))?;
    let cluster = Cluster::with(Settings {
        docker_host: Some(host),
        slots: 1,
        // a container is not renewed through an engine that is away, and would end with its short lease
        real_times: true,
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;

    for (round, how) in ["-TERM", "-KILL"].into_iter().enumerate() {
        let runs = client
            .submit(&shell(
                "echo begun; for i in 1 2 3 4 5 6 7 8; do sleep 0.5; echo tick $i; done; exit 6",
            ))
            .await?;
        client
            .job_when(runs.id, LONG, "it to run", |job| job.state == StateName::Running)
            .await?;
        let waits = client.submit(&shell("echo waited")).await?;

        let pid = engine.pid()?.to_string();
        run(std::process::Command::new("kill").args([how, &pid]))?;
        let worker = client
            .worker_when("that says that its engine is gone", |worker| {
                !worker.ready && !worker.reasons.is_empty()
            })
            .await?;
        println!("round {round}: {:?}", worker.reasons);
        let held = client.job(waits.id).await?;
        assert_eq!(
            (held.state, held.attempts_total),
            (StateName::Queued, 0),
            "{}",
            brief(&held)
        );

        engine.tell("start")?;
        client.worker_ready("default").await?;
        let ended = client.ended(runs.id, Duration::from_secs(90)).await?;
        let told = ended.outcome.as_ref().with_context(|| brief(&ended))?;
        assert_eq!(
            (told.kind.as_str(), told.code),
            ("exited", Some(6)),
            "{}",
            brief(&ended)
        );
        assert_eq!(
            ended.attempts_total,
            1,
            "the container lived on: {}",
            brief(&ended)
        );
        let ticks: String = (1..=8).map(|tick| format!("tick {tick}\n")).collect();
        assert_eq!(
            client.stdout(runs.id).await?,
            format!("begun\n{ticks}"),
            "no output is lost or doubled"
        );

        let waited = client.ended(waits.id, LONG).await?;
        assert_eq!(waited.state, StateName::Succeeded, "{}", brief(&waited));
    }
    cluster.stop().await
}
