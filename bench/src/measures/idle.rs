//! One job after the other on an idle system, with a simulated agent: from the moment that the client sends its
//! request to the moment that it knows the terminal state. The client follows the job's events, as the shell does:
//! two requests a job on one kept connection each.

use common::tasks::Tasks;

use crate::args::IdleArgs;
use crate::client::job_of;
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
        server.client.run(&job).await?;
    }
    let (mut whole, mut accepted) = (Vec::new(), Vec::new());
    for _ in 0..args.jobs {
        let watch = Stopwatch::start();
        let id = server.client.submit(&job).await?;
        accepted.push(watch.millis());
        let end = server.client.end_of(id).await?;
        whole.push(watch.millis());
        anyhow::ensure!(end.exit_code == Some(0), "{id} ended otherwise: {end:?}");
    }
    anyhow::ensure!(
        tally.stale() == 0,
        "{} results were refused as stale",
        tally.stale()
    );
    tasks.stop();
    server.stop().await?;

    let (whole, accepted) = (Samples::new(whole).summary(), Samples::new(accepted).summary());
    Ok(Findings {
        title: "one job after the other, simulated agent: submission to terminal state",
        counts: format!(
            "{} jobs after {} to warm up, one client, one simulated agent on a real WebSocket, every commit durable",
            args.jobs, args.warm_up
        ),
        rows: vec![
            Row::at_most("median", MEDIAN_MS_MAX, whole.median, " ms"),
            Row::at_most("99th percentile", P99_MS_MAX, whole.p99, " ms"),
            Row::told("90th percentile", format!("{} ms", number(whole.p90))),
            Row::told("largest", format!("{} ms", number(whole.max))),
            Row::told("of it until acknowledged, median", format!("{} ms", number(accepted.median))),
        ],
        notes: vec![
            "The client learns the end from the job's events (`/logs/follow`), opened once it has the job's id."
                .to_owned(),
        ],
    })
}
