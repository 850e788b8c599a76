//! Why a job waits, where it runs and how it ended, through the real `jobworker up`, an agent without containers, and
//! the shell.

use std::time::Duration;

use anyhow::{Context, Result};
use common::api_types::{ExplainView, JobView};
use common::explain::Reason;
use common::ids::JobId;
use jobworker_e2e::cli::{Said, Shell};
use jobworker_e2e::client::Client;
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::sim::{POOL, Simulated};
use jobworker_e2e::wait::{LONG, wait_for};

/// Longer than the test: only a cancel ends such a job.
const RUNS_FOR: Duration = Duration::from_secs(600);

/// Submits with few resources, and gives back the job and what was said.
async fn submit(shell: &Shell, flags: &[&str]) -> Result<(JobId, Said)> {
    let small = ["submit", "--cpu", "0.5", "--memory", "32m", "--disk", "16m"];
    let said = shell
        .run(&[&small[..], flags, &["--", "simulated"]].concat())
        .await?;
    anyhow::ensure!(said.status == 0, "{said:?}");
    Ok((said.out.trim().parse()?, said))
}

/// The explanation once its reason is this one: what is said of workers may be a second old.
async fn waits(client: &Client, job: JobId, reason: Reason) -> Result<ExplainView> {
    wait_for(LONG, &format!("{job} to wait as {reason}"), async || {
        let seen = client.explain(job).await.map_err(|error| format!("{error:#}"))?;
        match &seen.waiting {
            Some(waiting) if waiting.reason == reason => Ok(seen),
            Some(_) | None => Err(format!("{seen:?}")),
        }
    })
    .await
}

async fn why(shell: &Shell, job: JobId) -> Result<String> {
    let said = shell.run(&["why", &job.to_string()]).await?;
    anyhow::ensure!(said.status == 0, "{said:?}");
    Ok(said.out)
}

#[tokio::test]
async fn the_shell_says_why_a_job_waits_where_it_runs_and_how_it_ended() -> Result<()> {
    let cluster = Cluster::without_waiting(Settings {
        agent: false,
        arguments: ["--fleet-ceiling", "2,1g,1g"].map(str::to_owned).into(),
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let shell = Shell::of(&client)?;

    let (early, said) = submit(&shell, &[]).await?;
    assert!(said.err.contains("No worker is registered"), "{said:?}");
    let page = why(&shell, early).await?;
    assert!(
        page.contains("no_workers") && page.contains("jobworker up"),
        "{page}"
    );

    let agent = Simulated::start(&cluster, cluster.workers_address()?, 1, RUNS_FOR)?;
    client.worker_ready(POOL).await?;
    let seen = waits(&client, early, Reason::NoWorkerFits).await?;
    assert!(
        seen.sentence.contains("no worker is in the pool default"),
        "{seen:?}"
    );

    // a larger worker may come, but none of that size
    let asks = ["submit", "--pool", POOL, "--memory", "2000g", "--", "simulated"];
    let refused = shell.run(&asks).await?;
    assert_eq!((refused.status, refused.out.as_str()), (1, ""), "{refused:?}");
    assert!(
        refused
            .err
            .contains("No registered worker could ever run this job")
            && refused
                .err
                .contains("simulated: memory: needs 2048000 MiB, the worker has 1000000 MiB")
            && refused.err.contains("do next:"),
        "{refused:?}"
    );

    let (first, said) = submit(&shell, &["--pool", POOL]).await?;
    assert_eq!(
        said.err, "",
        "nothing is to be said of a job that is about to run"
    );
    client
        .job_when(first, LONG, "it to run", |job| job.started_at.is_some())
        .await?;
    let page = why(&shell, first).await?;
    assert!(page.contains("It runs on simulated for"), "{page}");

    let (second, _) = submit(&shell, &["--pool", POOL]).await?;
    let (third, _) = submit(&shell, &["--pool", POOL]).await?;
    waits(&client, second, Reason::WorkersBusy).await?;
    waits(&client, third, Reason::WorkersBusy).await?;
    let page = why(&shell, third).await?;
    assert!(
        page.contains("simulated  busy: 1 of 1 slots are taken")
            && page.contains("1 before it of 2 of its account and class")
            && page.contains("may start"),
        "{page}"
    );
    let said = shell.run(&["why", "--json", &third.to_string()]).await?;
    let seen: ExplainView = serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))?;
    let place = seen
        .waiting
        .and_then(|waiting| waiting.place)
        .context("it has a place")?;
    assert_eq!((place.before, place.of, place.all), (1, 2, 3));
    let page = shell.run(&["get", &third.to_string()]).await?.out;
    assert!(
        page.contains("waits: Every worker that could run it is busy"),
        "{page}"
    );

    for job in [early, third, second, first] {
        let said = shell
            .run(&["cancel", "--why", "seen enough", &job.to_string()])
            .await?;
        assert_eq!(said.status, 0, "{said:?}");
    }
    let ended: JobView = client.ended(first, LONG).await?;
    let ending = ended.ending.context("it has ended")?;
    assert_eq!(ending.sentence, "The user admin cancelled it: seen enough.");
    let page = why(&shell, first).await?;
    assert!(
        page.contains("The user admin cancelled it: seen enough.") && page.contains("Submit it again"),
        "{page}"
    );
    agent.stop().await?;
    cluster.stop().await
}
