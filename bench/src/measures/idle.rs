//! One job after the other on an idle system, with a simulated agent: from the moment that the client sends its
//! request to the moment that it knows the terminal state. Two ways, taking turns in the same run: with `wait`, the one
//! request of a client that wants no more than the result; and by two requests, the second of which follows the job's
//! events, as the shell does. Client and agent share one thread (`main.rs` says why).

use common::api_types::SubmitJob;
use common::tasks::Tasks;

use crate::args::IdleArgs;
use crate::client::{Client, job_of};
use crate::report::{Findings, Row, number};
use crate::server::{Agent, Installation};
use crate::simulated::{self, Crowd};
use crate::stats::{Samples, Stopwatch};

pub const MEDIAN_MS_MAX: f64 = 2.0;
pub const P99_MS_MAX: f64 = 10.0;

/// # Errors
/// A job did not succeed.
pub async fn run(args: &IdleArgs) -> anyhow::Result<Findings> {
    let installation = Installation::new()?;
    let server = installation.start(Agent::None).await?;
    let tasks = Tasks::new();
    let tally =
        simulated::start_ready(&server.door()?, &Crowd::finishing(1, 8), &server.client, &tasks).await?;
    let job = job_of(&["true"]);
    for _ in 0..args.warm_up {
        by_wait(&server.client, &job).await?;
        by_events(&server.client, &job).await?;
    }
    let (mut whole, mut followed) = (Vec::new(), Vec::new());
    for _ in 0..args.jobs {
        whole.push(by_wait(&server.client, &job).await?);
        followed.push(by_events(&server.client, &job).await?);
    }
    anyhow::ensure!(
        tally.stale() == 0,
        "{} results were refused as stale",
        tally.stale()
    );
    tasks.stop();
    server.stop().await?;

    let (accepted, followed): (Vec<f64>, Vec<f64>) = followed.into_iter().unzip();
    let whole = Samples::new(whole).summary();
    let (accepted, followed) = (Samples::new(accepted).summary(), Samples::new(followed).summary());
    Ok(Findings {
        title: "one job after the other, simulated agent: submission to terminal state",
        counts: format!(
            "{} jobs each way after {} to warm up, one client, one simulated agent on a real WebSocket, every commit \
             durable",
            args.jobs, args.warm_up
        ),
        rows: vec![
            Row::at_most("median", MEDIAN_MS_MAX, whole.median, " ms"),
            Row::at_most("99th percentile", P99_MS_MAX, whole.p99, " ms"),
            Row::told("90th percentile", format!("{} ms", number(whole.p90))),
            Row::told("largest", format!("{} ms", number(whole.max))),
            Row::told("by events, median", format!("{} ms", number(followed.median))),
            Row::told("by events, 99th percentile", format!("{} ms", number(followed.p99))),
            Row::told("by events, of it until acknowledged, median", format!("{} ms", number(accepted.median))),
        ],
        notes: vec![
            "One request: `POST /api/v1/jobs?wait=25`. *By events*: the submission, then `/logs/follow`, taking turns \
             with it in the same run. Client and agent share one thread of the measuring program."
                .to_owned(),
        ],
    })
}

/// Milliseconds to the end.
async fn by_wait(client: &Client, job: &SubmitJob) -> anyhow::Result<f64> {
    let watch = Stopwatch::start();
    let end = client.submit_to_end(job).await?;
    let whole = watch.millis();
    anyhow::ensure!(end.exit_code == Some(0), "{} ended otherwise: {end:?}", end.id);
    Ok(whole)
}

/// Milliseconds until it was acknowledged, and to the end.
async fn by_events(client: &Client, job: &SubmitJob) -> anyhow::Result<(f64, f64)> {
    let watch = Stopwatch::start();
    let id = client.submit(job).await?;
    let accepted = watch.millis();
    let end = client.end_of(id).await?;
    let whole = watch.millis();
    anyhow::ensure!(end.exit_code == Some(0), "{id} ended otherwise: {end:?}");
    Ok((accepted, whole))
}
